"""The database before there is a queue in it, or with one of another version: for `mpifarm db`."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import psycopg
from psycopg import sql

from mpifarm.errors import SiteError
from mpifarm.queue import schema
from mpifarm.queue.connection import Connection, Database
from mpifarm.server.dsn import Dsn

_SERVER = """
SELECT extract(epoch FROM pg_postmaster_start_time())::double precision, count(*)::integer
FROM pg_stat_activity
WHERE datname = current_database() AND application_name = 'mpifarm' AND pid <> pg_backend_pid()"""


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


_ADMIT = """
GRANT USAGE ON SCHEMA mpifarm TO {role};
GRANT SELECT, INSERT, UPDATE, DELETE ON ALL TABLES IN SCHEMA mpifarm TO {role};
GRANT USAGE ON ALL SEQUENCES IN SCHEMA mpifarm TO {role};
ALTER DEFAULT PRIVILEGES IN SCHEMA mpifarm GRANT SELECT, INSERT, UPDATE, DELETE ON TABLES TO {role};
ALTER DEFAULT PRIVILEGES IN SCHEMA mpifarm GRANT USAGE ON SEQUENCES TO {role}"""


def admit(conninfo: str, role: str, password: str) -> None:
    """Make the queue where there is none, and a login `role` for all verbs but upgrade, which comes in with this
    password and not without. No more: a superuser could run programs on this host. Raises SchemaError, SiteError."""
    database = Database(Dsn(conninfo, "the embedded server"))
    try:
        with database.using() as connection, connection.transaction():
            words = {"role": sql.Identifier(role), "secret": _scram(connection, role, password)}
            if not connection.execute("SELECT 1 FROM pg_roles WHERE rolname = %s", [role]).fetchone():
                connection.execute(sql.SQL("CREATE ROLE {role}").format(**words))
            connection.execute(sql.SQL("ALTER ROLE {role} LOGIN PASSWORD {secret}").format(**words))
            connection.execute(sql.SQL(_ADMIT).format(**words))
    finally:
        database.close()
    try:
        psycopg.connect(conninfo, user=role, password="not this one").close()
    except psycopg.OperationalError:
        return
    raise SiteError(
        "the server that is running was started by an older mpifarm and would let everybody in:"
        " end what uses it on this host, then try again"
    )


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
            row = connection.execute(_SERVER).fetchone()
            assert row is not None
            version = schema.status(connection)
            return before, DatabaseStatus(server, connection.info.dbname, version, schema.VERSION, *row)
    finally:
        database.close()


def _anything(_connection: Connection) -> None:
    """Every version will do."""
