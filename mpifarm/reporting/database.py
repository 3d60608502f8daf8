"""What `mpifarm db` says of the database."""

from __future__ import annotations

import json

from mpifarm.queue.administration import status, upgrade
from mpifarm.queue.dsn import Dsn
from mpifarm.queue.schema import ROLES


def show_database(dsn: Dsn, *, as_json: bool) -> int:
    """0 when the queue in it is one for this mpifarm, else 1."""
    found = status(dsn)
    fits = found.version == found.wanted
    says = "no queue in it: mpifarm db init" if found.version is None else f"version {found.version}"
    if found.version is not None and not fits:
        older = found.version < found.wanted
        says += f", this mpifarm wants {found.wanted}: {'mpifarm db upgrade' if older else 'upgrade mpifarm'}"
    if as_json:
        print(json.dumps(found._asdict()))
    else:
        print(f"server    {found.server}\ndatabase  {found.database}\nqueue     {says}")
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
