"""The SQL of the queue, by name. Never imports psycopg; everything that is sent to the database stands in `sql/`.

A statement may have two names, `-- lease, lease_waiting --`, and lines that belong to one of them: `-- only lease`.
"""

from __future__ import annotations

import re
from functools import cache
from pathlib import Path

from mpifarm.queue.caps import cap

_CAP = re.compile(r"(?<!:):([a-z_]+)")
_NAMES = re.compile(r"^-- (\w+(?:, \w+)*) --$", re.MULTILINE)
_ONLY = re.compile(r"^(.*?) *-- only (\w+)\n", re.MULTILINE)
_SQL = Path(__file__).with_name("sql")


@cache
def queries() -> dict[str, bytes]:
    """The statements of both files, as bytes, which psycopg takes for SQL that nobody pasted values into."""
    return filled()


def filled() -> dict[str, bytes]:
    """The same with the caps as they are now."""
    made: dict[str, bytes] = {}
    for file in ("queries.sql", "database.sql"):
        _, *pieces = _NAMES.split((_SQL / file).read_text("utf-8"))
        for names, text in zip(pieces[::2], pieces[1::2]):
            text = _CAP.sub(lambda found: str(cap(found[1])), text)
            for name in names.split(", "):
                assert name not in made, name
                made[name] = _only(name, text).strip().encode()
    return made


def _only(name: str, text: str) -> str:
    """Without the lines of the statement's other name."""
    return _ONLY.sub(lambda found: f"{found[1]}\n" if found[2] == name else "", text)


def schema() -> bytes:
    """What an empty database is given."""
    return (_SQL / "schema.sql").read_bytes()


def roles() -> bytes:
    """Roles and their rights, all anew."""
    return (_SQL / "roles.sql").read_bytes()


def migrations() -> list[bytes]:
    """Migrations in order; number n (from 1) makes version n out of version n - 1."""
    return [file.read_bytes() for file in sorted((_SQL / "migrations").glob("*.sql"))]
