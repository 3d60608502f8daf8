"""The SQL of the queue, by name. Never imports psycopg; everything that is sent to the database stands in `sql/`."""

from __future__ import annotations

import re
from functools import cache
from pathlib import Path

from mpifarm.queue.caps import cap

_CAP = re.compile(r"(?<!:):([a-z_]+)")
_NAME = re.compile(r"^-- (\w+) --$", re.MULTILINE)
_SQL = Path(__file__).with_name("sql")


@cache
def queries() -> dict[str, bytes]:
    """The statements of queries.sql. As bytes, which psycopg takes for SQL that nobody pasted values into."""
    return filled()


def filled() -> dict[str, bytes]:
    """The same with the caps as they are now."""
    _, *pieces = _NAME.split((_SQL / "queries.sql").read_text("utf-8"))
    names, texts = pieces[::2], pieces[1::2]
    assert len(set(names)) == len(names)
    texts = [_CAP.sub(lambda found: str(cap(found[1])), text) for text in texts]
    return {name: text.strip().encode() for name, text in zip(names, texts)}


def schema() -> bytes:
    """What an empty database is given."""
    return (_SQL / "schema.sql").read_bytes()


def roles() -> bytes:
    """Roles and their rights, all anew."""
    return (_SQL / "roles.sql").read_bytes()


def migrations() -> list[bytes]:
    """Migrations in order; number n (from 1) makes version n out of version n - 1."""
    return [file.read_bytes() for file in sorted((_SQL / "migrations").glob("*.sql"))]
