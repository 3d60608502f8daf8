"""What `mpifarm db` says of the database."""

from __future__ import annotations

import json
import os
import shlex
from dataclasses import asdict

from mpifarm.core.plural import counted
from mpifarm.queue.administration import admit, status, upgrade
from mpifarm.queue.schema import ROLES
from mpifarm.server.daemon import Opened, find_opened
from mpifarm.server.dsn import Dsn, opened_file, server_folder
from mpifarm.server.opened import start, stop
from mpifarm.show.text import when


def show_database(dsn: Dsn, *, as_json: bool) -> int:
    """0 when the queue in it is one for this mpifarm, else 1."""
    found = status(dsn)
    fits = found.version == found.wanted
    says = "no queue in it: mpifarm db init" if found.version is None else f"version {found.version}"
    if found.version is not None and not fits:
        older = found.version < found.wanted
        says += f", this mpifarm wants {found.wanted}: {'mpifarm db upgrade' if older else 'upgrade mpifarm'}"
    its_own = dsn.embedded or dsn.source == str(opened_file(os.environ))
    opened = find_opened(os.environ) if its_own else None
    if as_json:
        print(json.dumps(found._asdict() | {"opened": _object(opened) if opened else None}))
        return 0 if fits else 1
    print(f"server    {found.server}, since {when(found.since)}")
    print(f"database  {found.database}, {counted(found.connections, 'connection')} of mpifarm")
    print(f"queue     {says}")
    if dsn.embedded:
        print(f"files     in {server_folder(os.environ)} (MPIFARM_PG_DIR names another directory)")
    if opened:
        print(f"open      {_where(opened)}")
    return 0 if fits else 1


def upgrade_database(dsn: Dsn, *, roles: bool = False, as_json: bool) -> None:
    before, found = upgrade(dsn, roles=roles)
    if as_json:
        made = {"roles": list(ROLES)} if roles else {}
        print(json.dumps({"before": before or None} | found._asdict() | made))
        return
    if before == found.version:
        print(f"version {before} already: nothing to do" if not roles else f"version {before}")
    elif before:
        print(f"upgraded from version {before} to {found.version}")
    else:
        print(f"made, version {found.version}")
    if roles:
        print(f"roles {', '.join(ROLES)}; let people in with: GRANT {ROLES[1]} TO somebody")


def start_server(listen: str, *, as_json: bool) -> None:
    opened, already = start(listen, os.environ, admit)
    if as_json:
        print(json.dumps(_object(opened) | {"already": already}))
        return
    folder = opened_file(os.environ).parent
    print(f"""\
{"already " if already else ""}open {_where(opened)}
  hosts that share {folder.parent} find it by themselves
  others need ca.crt and password out of {folder}, and with these in place:
    export MPIFARM_DSN={shlex.quote(opened.dsn)}
  to close it, type on {opened.host}: mpifarm db stop""")


def stop_server(*, as_json: bool) -> None:
    opened = stop(os.environ)
    if as_json:
        print(json.dumps({"stopped": _object(opened) if opened else None}))
    else:
        print(f"closed, at {opened.address}" if opened else "it was not open")


def _object(opened: Opened) -> dict[str, object]:
    return asdict(opened) | {"running": opened.is_running() if opened.here else None}


def _where(opened: Opened) -> str:
    gone = ", but its process has died: mpifarm db start" if opened.here and not opened.is_running() else ""
    return f"at {opened.address} on {opened.host} since {when(opened.since)} (pid {opened.pid}){gone}"
