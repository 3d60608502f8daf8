"""`mpifarm db`: the database of the queue, its tables and who may use them. Must never import mpi4py."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

import click

from mpifarm.cli.shared import dsn_option, json_option

if TYPE_CHECKING:
    from mpifarm.server.dsn import Dsn


@click.group(short_help="The database of the queue.")
def db() -> None:
    """Make the queue's tables, bring them up to date, see how they stand; a database of your own for other hosts."""


@db.command("init", short_help="Make the queue's tables.")
@click.option("--roles", is_flag=True, help="Also the roles mpifarm_submitter, mpifarm_runner and mpifarm_reader.")
@dsn_option
@json_option
def db_init(dsn: str | None, roles: bool, as_json: bool) -> None:
    """Make the queue's tables in the database, unless they are there. Any command does this at its first use.

    With --roles others can be let in, each with the rights that are needed and no more. May be repeated.

    \b
      mpifarm_submitter   submit, set, retry, rerun, cancel, drain, and all that reads
      mpifarm_runner      run, recover, drain
      mpifarm_reader      report, tasks, runs, explain, wait
    In psql: GRANT mpifarm_runner TO somebody; what nobody was granted (upgrade, drop) is for the owner.
    """
    from mpifarm.commands import db

    db.upgrade_database(_dsn(dsn), roles=roles, as_json=as_json)


@db.command("upgrade", short_help="Bring the tables to the version of this mpifarm.")
@dsn_option
@json_option
def db_upgrade(dsn: str | None, as_json: bool) -> None:
    """Bring the queue's tables to the version of this mpifarm, all or nothing. Best while no run is going on."""
    from mpifarm.commands import db

    db.upgrade_database(_dsn(dsn), as_json=as_json)


@db.command("status", short_help="How the database stands.")
@dsn_option
@json_option
def db_status(dsn: str | None, as_json: bool) -> int:
    """Server, database, who is connected, version of the queue in it, and whether `mpifarm db start` has opened it.

    Exits with 1 unless the version is that of this mpifarm.
    """
    from mpifarm.commands import db

    return db.show_database(_dsn(dsn), as_json=as_json)


@db.command("start", short_help="Open a database of your own to other hosts.")
@click.option("--listen", required=True, metavar="ADDR[:PORT]", help="A name or address of this host.")
@json_option
def db_start(listen: str, as_json: bool) -> None:
    """Open this user's own database server to other hosts, for those who have no database.

    It is the server that mpifarm starts by itself when no DSN is given, so jobs that are there stay there. Others
    connect over TLS with a password, both made here. Hosts that share your home directory find it by themselves; for
    others the variable to set is printed. It goes on after logout, until `mpifarm db stop`. Where it is open already,
    this says so and changes nothing. Without a PORT: the one of the last time, or any that is free.

    \b
    Examples:
      mpifarm db start --listen login1.site.org
      mpifarm db start --listen 0.0.0.0:5433
    """
    from mpifarm.commands import db

    db.start_server(listen, as_json=as_json)


@db.command("stop", short_help="Close it again.")
@json_option
def db_stop(as_json: bool) -> None:
    """Close to other hosts what `mpifarm db start` opened. Runs keep what they hold and wait for it to come back."""
    from mpifarm.commands import db

    db.stop_server(as_json=as_json)


def _dsn(option: str | None) -> Dsn:
    from mpifarm.server.dsn import find_dsn

    return find_dsn(option, os.environ, Path.cwd())
