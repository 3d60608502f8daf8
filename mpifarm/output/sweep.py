"""Proves or refutes every attempt of a run file in one pass: tables and byte pool are read once, in their order.

Extents stand in the order of the pool, rows in that of their last extents. So one cursor runs along `extents`, adds
each piece to the length and CRC-32 of the stream it belongs to, and what a row promises is compared when the cursor has
reached the row's end. Kept meanwhile are the streams of attempts without a row so far: as many as ran at once.
A row found right here is one that `mpifarm.output.reader` gives back right. Must never import psycopg or h5py.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Iterator
from typing import NamedTuple, Protocol

from mpifarm.core.row import EXTENT, ROW, STDERR, STDOUT, AttemptRow

StreamKey = tuple[int, int, int, int]
"""Lease, task, attempt, stream."""
Taker = Callable[[StreamKey, bytes], None]
_NAMES = {STDOUT: "stdout", STDERR: "stderr"}


class Table(Protocol):
    """A dataset by chunks; a chunk that cannot be read is None."""

    count: int
    rows_per_chunk: int

    def chunk(self, number: int) -> bytes | None: ...


class Tables(Protocol):
    """What is swept."""

    @property
    def attempts(self) -> Table: ...
    @property
    def extents(self) -> Table: ...
    @property
    def bytes(self) -> Table: ...


class Checked(NamedTuple):
    """A row of `attempts`. `attempt` None: it cannot be read, or nothing was written to it. `wrong`: what is not as it
    was promised, empty when all is right."""

    number: int
    attempt: AttemptRow | None
    wrong: str


class _Stream:
    """What was found of one stream so far."""

    __slots__ = ("checksum", "first", "last", "missing", "size")

    def __init__(self, first: int) -> None:
        self.first = self.last = first
        self.size = self.checksum = 0
        self.missing = ""


class Sweep:
    """One pass. Iterate over `rows`; then `unended` says how many attempts have output and no row."""

    def __init__(self, tables: Tables, take: Taker | None = None) -> None:
        """take: given every piece of output with its stream, in order, before the row that it belongs to."""
        self._attempts, self._extents, self._bytes = tables.attempts, tables.extents, tables.bytes
        self._take = take
        self._streams: dict[StreamKey, _Stream] = {}
        self._cursor = 0
        self._block: tuple[int, list[tuple[int, ...]]] = (-1, [])
        self._chunk: tuple[int, bytes | None] = (-1, None)

    @property
    def unended(self) -> int:
        return len({key[:3] for key in self._streams})

    def rows(self) -> Iterator[Checked]:
        """Every row of `attempts` in order."""
        table = self._attempts
        for first in range(0, table.count, table.rows_per_chunk):
            stored = table.chunk(first // table.rows_per_chunk)
            if stored is None:
                for number in range(first, min(first + table.rows_per_chunk, table.count)):
                    yield Checked(number, None, "its row cannot be read")
                continue
            for number, attempt in enumerate(map(AttemptRow._make, ROW.iter_unpack(stored)), first):
                if attempt.lease:
                    yield Checked(number, attempt, self._judge(attempt))
                else:
                    yield Checked(number, None, "its row is blank")

    def _judge(self, attempt: AttemptRow) -> str:
        lo, hi = attempt.extent_lo, attempt.extent_hi
        if not 0 <= lo <= hi <= self._extents.count:
            return f"its row points at extents {lo} to {hi}, and there are {self._extents.count}"
        self._advance(hi)
        key = (attempt.lease, attempt.task, attempt.attempt)
        out = self._compare(attempt, (*key, STDOUT), attempt.stdout_bytes, attempt.stdout_crc32)
        err = self._compare(attempt, (*key, STDERR), attempt.stderr_bytes, attempt.stderr_crc32)
        return f"{out}; {err}" if out and err else out or err

    def _compare(self, attempt: AttemptRow, key: StreamKey, size: int, checksum: int) -> str:
        found = self._streams.pop(key, None)
        if found is None:
            # CRC-32 of nothing is 0: a row that promises another is damaged itself.
            return "" if not size and not checksum else f"{_NAMES[key[3]]}: nothing is there of {size:,} bytes"
        name = _NAMES[key[3]]
        if found.missing:
            return f"{name}: {found.missing}"
        if found.size != size:
            return f"{name}: {found.size:,} bytes are there, the task wrote {size:,}"
        if found.checksum != checksum:
            return f"{name}: CRC-32 is {found.checksum:08x}, the task wrote {checksum:08x}"
        if found.first < attempt.extent_lo or found.last >= attempt.extent_hi:
            return f"{name}: its extents are not those that its row names"
        return ""

    def _advance(self, hi: int) -> None:
        """Take in all extents before row `hi`."""
        per_chunk = self._extents.rows_per_chunk
        while self._cursor < hi:
            number, place = divmod(self._cursor, per_chunk)
            if self._block[0] != number:
                stored = self._extents.chunk(number)
                self._block = (number, [] if stored is None else list(EXTENT.iter_unpack(stored)))
            rows = self._block[1][place : place + hi - self._cursor]
            for row, (lease, task, attempt, stream, length, position) in enumerate(rows, self._cursor):
                if lease:
                    self._add(row, (lease, task, attempt, stream), position, length)
            self._cursor = min(hi, (number + 1) * per_chunk)

    def _add(self, row: int, key: StreamKey, position: int, length: int) -> None:
        stream = self._streams.get(key)
        if stream is None:
            stream = self._streams[key] = _Stream(row)
        stream.last = row
        end = position + length
        if end > self._bytes.count:
            stream.missing = f"bytes {position} to {end} of `bytes` are beyond its end"
            return
        size = self._bytes.rows_per_chunk
        while position < end:
            number, offset = divmod(position, size)
            if self._chunk[0] != number:
                self._chunk = (number, self._bytes.chunk(number))
            chunk = self._chunk[1]
            stop = min(size, offset + end - position)
            if chunk is None:
                stream.missing = f"chunk {number} of `bytes` cannot be read"
            else:
                piece = chunk if stop - offset == size else chunk[offset:stop]
                stream.checksum = zlib.crc32(piece, stream.checksum)
                stream.size += len(piece)
                if self._take is not None:
                    self._take(key, piece)
            position += stop - offset
