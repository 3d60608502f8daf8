"""The database before there is a queue in it, or with one of another version: for `mpifarm db`."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from mpifarm.queue import schema
from mpifarm.queue.connection import Connection, Database
from mpifarm.queue.dsn import Dsn


class DatabaseStatus(NamedTuple):
    """`version`: of the queue's schema in it, None without one; `wanted`: what this mpifarm speaks."""

    server: str
    database: str
    version: int | None
    wanted: int


def status(dsn: Dsn) -> DatabaseStatus:
    """Looks and changes nothing. Raises QueueUnreachable, SiteError."""
    return _with(dsn)[1]


def upgrade(dsn: Dsn, *, roles: bool = False) -> tuple[int, DatabaseStatus]:
    """Make the schema, or bring it to the version of this mpifarm, with `roles` on top; all or nothing. Returns the
    version before (0: there was none) and how it stands now."""
    return _with(dsn, lambda connection: schema.upgrade(connection, with_roles=roles)[0])


def _with(dsn: Dsn, change: Callable[[Connection], int] = lambda _: 0) -> tuple[int, DatabaseStatus]:
    database = Database(dsn, verify=_anything)
    try:
        with database.using() as connection:
            before = change(connection)
            number = connection.info.server_version
            server = f"{connection.info.host}, PostgreSQL {number // 10000}.{number % 10000}"
            return before, DatabaseStatus(server, connection.info.dbname, schema.status(connection), schema.VERSION)
    finally:
        database.close()


def _anything(_connection: Connection) -> None:
    """Every version will do."""
