"""The database before there is a queue in it, or with one of another version: for `mpifarm db`."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import NamedTuple

import psycopg
from psycopg import sql

from mpifarm.errors import SiteError
from mpifarm.queue import schema
from mpifarm.queue.connection import Connection, Database
from mpifarm.queue.libpq_variables import none_of_them
from mpifarm.queue.statements import queries
from mpifarm.server.dsn import Dsn

SQL = queries()


class DatabaseStatus(NamedTuple):
    """`version`: of the queue's schema in it, None without one; `wanted`: what this mpifarm speaks."""

    server: str
    database: str
    version: int | None
    wanted: int
    since: float
    """When the server was started, in Unix seconds."""
    connections: int
    """Of mpifarm to this database, without the one that asked."""


def status(dsn: Dsn) -> DatabaseStatus:
    """Looks and changes nothing. Raises QueueUnreachable, SiteError."""
    return _with(dsn)[1]


def upgrade(dsn: Dsn, *, roles: bool = False) -> tuple[int, DatabaseStatus]:
    """Make the schema, or bring it to the version of this mpifarm, with `roles` on top; all or nothing. Returns the
    version before (0: there was none) and how it stands now."""
    return _with(dsn, lambda connection: schema.upgrade(connection, with_roles=roles)[0])


def admit(conninfo: str, role: str, password: str) -> None:
    """Make the queue where there is none, and a login `role` for all verbs but upgrade, which comes in with this
    password and not without. No more: a superuser could run programs on this host. Raises SchemaError, SiteError."""
    database = Database(Dsn(conninfo, "the embedded server"), ours=True)
    try:
        with database.using() as connection, connection.transaction():
            words = {"role": sql.Identifier(role), "secret": _scram(connection, role, password)}
            if not connection.execute(SQL["roles_there"], {"roles": [role]}).fetchone():
                connection.execute(_named("make_login", words))
            connection.execute(_named("admit", words))
    finally:
        database.close()
    try:
        with none_of_them():
            psycopg.connect(conninfo, user=role, password="not this one").close()
    except psycopg.OperationalError:
        return
    raise SiteError(
        "the server that is running was started by an older mpifarm and would let everybody in:"
        " end what uses it on this host, then try again"
    )


def _named(name: str, words: Mapping[str, object]) -> sql.Composed:
    """The statement with these identifiers and literals in it."""
    return sql.SQL(SQL[name].decode()).format(**words)


def _scram(connection: Connection, role: str, password: str) -> str:
    """What the server keeps of it; computed here, so that the password itself is in no log of the server."""
    secret: bytes = connection.pgconn.encrypt_password(password.encode(), role.encode(), b"scram-sha-256")
    return secret.decode()


def _with(dsn: Dsn, change: Callable[[Connection], int] = lambda _: 0) -> tuple[int, DatabaseStatus]:
    database = Database(dsn, verify=_anything)
    try:
        with database.using() as connection:
            before = change(connection)
            number = connection.info.server_version
            server = f"{connection.info.host}, PostgreSQL {number // 10000}.{number % 10000}"
            row = connection.execute(SQL["server"]).fetchone()
            assert row is not None
            version = schema.status(connection)
            return before, DatabaseStatus(server, connection.info.dbname, version, schema.VERSION, *row)
    finally:
        database.close()


def _anything(_connection: Connection) -> None:
    """Every version will do."""
