"""The schema's version: made in an empty database, verified at every connect, changed only by `mpifarm db upgrade`."""

from __future__ import annotations

from typing import Any

from psycopg import Connection

from mpifarm.errors import QueueError, SchemaError
from mpifarm.queue.statements import migrations, queries, roles, schema

SQL = queries()

ROLES = ("mpifarm_submitter", "mpifarm_runner", "mpifarm_reader")
"""Of roles.sql, which says what each may do."""

VERSION = len(migrations())
"""What this mpifarm speaks."""

_LOCK = 0x6D70_6966_6172_6D00
"""Advisory lock ("mpifarm") under which schemas are made and changed."""


def verify(connection: Connection[Any]) -> None:
    """Make the schema where there is none. Raises SchemaError when the database holds that of another version."""
    version = _version(connection)
    if version is None:
        with connection.transaction():
            _lock(connection)
            if _version(connection) is None:
                connection.execute(schema())
        version = _version(connection)
    assert version is not None
    _check_known(version)
    if version < VERSION:
        raise SchemaError(
            f"the database holds a queue of version {version}, this mpifarm wants {VERSION}:"
            " once no run is going on, type: mpifarm db upgrade"
        )


def upgrade(connection: Connection[Any], *, with_roles: bool = False) -> tuple[int, int]:
    """Apply the migrations that are missing, all or none, and make roles `with_roles`. Returns the versions before and
    after. Raises SchemaError for a newer one, and QueueError when it is not for this user to change."""
    with connection.transaction():
        _lock(connection)
        before = _version(connection) or 0
        _check_known(before)
        if before < VERSION or with_roles:
            _check_owner(connection)
        for number, migration in enumerate(migrations(), 1):
            if number > before:
                connection.execute(migration)
                connection.execute(SQL["upgraded"], {"version": number})
        if with_roles:
            _check_may_make_roles(connection)
        if with_roles or (before < VERSION and _has_rights(connection)):
            connection.execute(roles())
    return before, max(before, VERSION)


def status(connection: Connection[Any]) -> int | None:
    """The version of the queue in the database; None without one."""
    return _version(connection)


def _check_known(version: int) -> None:
    if version > VERSION:
        raise SchemaError(
            f"the database holds a queue of version {version}, this mpifarm knows up to {VERSION}: upgrade mpifarm"
        )


def _check_owner(connection: Connection[Any]) -> None:
    """Of the tables, if there are any."""
    owner, may = connection.execute(SQL["owner"]).fetchone() or ("", True)
    if not may:
        raise QueueError(f"only {owner}, who owns the queue's tables, may change them or make roles for them")


def _check_may_make_roles(connection: Connection[Any]) -> None:
    there = {name for (name,) in connection.execute(SQL["roles_there"], {"roles": [*ROLES]})}
    missing = [name for name in ROLES if name not in there]
    if missing and connection.execute(SQL["may_make_roles"]).fetchone() != (True,):
        commands = " ".join(f"CREATE ROLE {name};" for name in missing)
        raise QueueError(
            "you may not make roles on this server (CREATEROLE); nothing was changed\n"
            f"  ask whoever may to type this in psql, then try again: {commands}"
        )


def _has_rights(connection: Connection[Any]) -> bool:
    """Whether somebody has asked for roles in this database before."""
    return connection.execute(SQL["has_rights"], {"roles": [*ROLES]}).fetchone() == (True,)


def _lock(connection: Connection[Any]) -> None:
    connection.execute(SQL["version_lock"], {"lock": _LOCK})


def _version(connection: Connection[Any]) -> int | None:
    """None: no queue here."""
    if not connection.execute(SQL["is_there"]).fetchone():
        return None
    row = connection.execute(SQL["version"]).fetchone()
    return None if row is None else int(row[0])
