"""`mpifarm db`: the database of the queue, its tables and who may use them. Must never import mpi4py."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

import click

from mpifarm.cli_options import dsn_option, json_option

if TYPE_CHECKING:
    from mpifarm.queue.dsn import Dsn


@click.group(short_help="The database of the queue.")
def db() -> None:
    """Make the queue's tables, bring them up to date, or see how they stand."""


@db.command("init", short_help="Make the queue's tables.")
@click.option("--roles", is_flag=True, help="Also the roles mpifarm_submitter, mpifarm_runner and mpifarm_reader.")
@dsn_option
@json_option
def db_init(dsn: str | None, roles: bool, as_json: bool) -> None:
    """Make the queue's tables in the database, unless they are there. Any command does this at its first use.

    With --roles others can be let in, each with the rights that are needed and no more. May be repeated.

    \b
      mpifarm_submitter   submit, set, retry, rerun, cancel, and all that reads
      mpifarm_runner      run, recover
      mpifarm_reader      report, tasks, runs, explain, wait
    In psql: GRANT mpifarm_runner TO somebody; what nobody was granted (upgrade, drop) is for the owner.
    """
    from mpifarm.reporting import database

    database.upgrade_database(_dsn(dsn), roles=roles, as_json=as_json)


@db.command("upgrade", short_help="Bring the tables to the version of this mpifarm.")
@dsn_option
@json_option
def db_upgrade(dsn: str | None, as_json: bool) -> None:
    """Bring the queue's tables to the version of this mpifarm, all or nothing. Best while no run is going on."""
    from mpifarm.reporting import database

    database.upgrade_database(_dsn(dsn), as_json=as_json)


@db.command("status", short_help="How the database stands.")
@dsn_option
@json_option
def db_status(dsn: str | None, as_json: bool) -> int:
    """Server, database and version of the queue in it. Exits with 1 unless the version is that of this mpifarm."""
    from mpifarm.reporting import database

    return database.show_database(_dsn(dsn), as_json=as_json)


def _dsn(option: str | None) -> Dsn:
    from mpifarm.queue.dsn import find_dsn

    return find_dsn(option, os.environ, Path.cwd())
