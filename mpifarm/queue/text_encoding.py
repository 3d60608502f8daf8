"""Text on its way into the database. A path, a command line or a variable of Unix may hold bytes that are no UTF-8,
which Postgres takes in no text. They go in as `\\udcff`, which `runfile.reader` can make a path of again.
"""

from __future__ import annotations

from typing import Any

from psycopg import Connection
from psycopg.abc import Buffer
from psycopg.types.string import StrDumper, StrDumperUnknown


def register(connection: Connection[Any]) -> None:
    """Teach a connection to send any text."""
    for dumper in (_Dumper, _DumperUnknown):  # of two, the last is asked first
        connection.adapters.register_dumper(str, dumper)


class _Dumper(StrDumper):
    def dump(self, obj: str) -> Buffer | None:
        return super().dump(obj if obj.isascii() else _escaped(obj))


class _DumperUnknown(StrDumperUnknown):
    def dump(self, obj: str) -> Buffer | None:
        return super().dump(obj if obj.isascii() else _escaped(obj))


def _escaped(text: str) -> str:
    return text.encode(errors="backslashreplace").decode()
