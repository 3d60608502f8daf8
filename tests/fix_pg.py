"""A real Postgres for tests: one embedded server per session, one database per test, cloned from a template."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from itertools import count
from pathlib import Path

import psycopg
import pytest
from psycopg import sql

from mpifarm.queue import embedded, schema
from mpifarm.queue.dsn import Dsn
from mpifarm.queue.programs import server_version

_TEMPLATE = "template_mpifarm"
_numbers = count(1)


def pytest_report_header() -> str:
    return f"server: {server_version()}"


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
def pg_empty(pg_server: str) -> Iterator[Dsn]:
    """A database without anything in it, gone after the test."""
    yield from _database(pg_server, "template1")


@pytest.fixture
def pg_dsn(pg_server: str) -> Iterator[Dsn]:
    """An empty queue of this test alone."""
    yield from _database(pg_server, _TEMPLATE)


def _database(server: str, template: str) -> Iterator[Dsn]:
    name = f"test_{next(_numbers)}"
    with psycopg.connect(server, autocommit=True) as connection:
        words = {"name": sql.Identifier(name), "template": sql.Identifier(template)}
        connection.execute(sql.SQL("CREATE DATABASE {name} TEMPLATE {template}").format(**words))
        yield Dsn(psycopg.conninfo.make_conninfo(server, dbname=name), "the test")
        connection.execute(sql.SQL("DROP DATABASE {name} WITH (FORCE)").format(**words))
