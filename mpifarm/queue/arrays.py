"""Columns of numbers and bytes as Postgres arrays in binary, at the price of one C call per element.

psycopg's own list dumper takes about a microsecond per element in Python, which at eleven columns is more than the rest
of `record`. An element is its length and its value; -1 for a length means NULL.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import repeat
from struct import Struct
from typing import ClassVar

from psycopg import Connection
from psycopg.abc import Buffer
from psycopg.adapt import Dumper
from psycopg.pq import Format

_HEADER = Struct(">iiIii")  # dimensions, has NULLs, type of the elements, length, number of the first element
_LENGTH = Struct(">i")
_NULL = _LENGTH.pack(-1)


class Column:
    """An array parameter, ready for the wire. The subclasses name the type of the elements."""

    __slots__ = ("wire",)
    element_oid: ClassVar[int]
    array_oid: ClassVar[int]

    def __init__(self, elements: bytes, length: int) -> None:
        # Only an array that says so may hold NULLs; saying so costs nothing.
        self.wire = _HEADER.pack(1 if length else 0, 1, self.element_oid, length, 1)[: 20 if length else 12] + elements


class _Fixed(Column):
    """Elements of one size."""

    __slots__ = ()
    element: ClassVar[Struct]
    size: ClassVar[int]

    def __init__(self, values: Sequence[float | None]) -> None:
        pack, size = self.element.pack, self.size
        if None in values:
            elements = b"".join([_NULL if value is None else pack(size, value) for value in values])
        else:
            elements = b"".join(map(pack, repeat(size), values))
        super().__init__(elements, len(values))


class Int2s(_Fixed):
    __slots__ = ()
    element_oid, array_oid, element, size = 21, 1005, Struct(">ih"), 2


class Int4s(_Fixed):
    __slots__ = ()
    element_oid, array_oid, element, size = 23, 1007, Struct(">ii"), 4


class Int8s(_Fixed):
    __slots__ = ()
    element_oid, array_oid, element, size = 20, 1016, Struct(">iq"), 8


class Float4s(_Fixed):
    __slots__ = ()
    element_oid, array_oid, element, size = 700, 1021, Struct(">if"), 4


class Float8s(_Fixed):
    __slots__ = ()
    element_oid, array_oid, element, size = 701, 1022, Struct(">id"), 8


class Byteas(Column):
    __slots__ = ()
    element_oid, array_oid = 17, 1001

    def __init__(self, values: Sequence[bytes | None]) -> None:
        pack = _LENGTH.pack
        elements = b"".join([_NULL if value is None else pack(len(value)) + value for value in values])
        super().__init__(elements, len(values))


def register(connection: Connection[tuple[object, ...]]) -> None:
    """Teach a connection to send columns."""
    for column in (Int2s, Int4s, Int8s, Float4s, Float8s, Byteas):
        connection.adapters.register_dumper(column, type("_Dumper", (_ColumnDumper,), {"oid": column.array_oid}))


class _ColumnDumper(Dumper):
    format = Format.BINARY

    def dump(self, obj: Column) -> Buffer | None:
        return obj.wire
