"""Goes once over a run file in its own order: to check every output, or to copy those that are wanted.

The order of `extents` is that of `bytes`, so reading goes at the speed of the disk whatever the order of the tasks.
Rows stand in the order in which their attempts ended, so that their last extents ascend too: a window of rows moves
along. Only rows that do not fit into it (of attempts that wrote over a long time) are known from the beginning.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from mpifarm.core.model import AttemptKey
from mpifarm.core.row import HAS_CONTENTS, STDERR, STDERR_CUT, STDOUT, STDOUT_CUT
from mpifarm.errors import OutputError
from mpifarm.runfile.captures import everything
from mpifarm.runfile.reader import BLOCK_ROWS, RunFile

Bools = np.ndarray[Any, np.dtype[np.bool_]]
Ints = np.ndarray[tuple[int, ...], np.dtype[np.int64]]
Rows = np.ndarray[Any, Any]

SPAN = BLOCK_ROWS
"""An attempt whose extents lie further apart wrote over a long time."""
_END = 1 << 63


class Pass:
    """One pass over an open run file. Extents find their attempts in the window; what cannot be read is left out."""

    def __init__(self, run: RunFile) -> None:
        self._run = run
        self._next = 0
        """The first row that the window has not taken in."""
        self._long = np.zeros(run.rows, bool)

    def go(self) -> None:
        run = self._run
        self._find_long()
        for lo in range(0, run.extents, BLOCK_ROWS):
            hi = min(lo + BLOCK_ROWS, run.extents)
            self._take_in(hi)
            try:
                extents = run.extent_rows(lo, hi)
            except OutputError as error:
                self._unreadable(error)
            else:
                self._look(lo, extents)
            self._close(hi)
        self._take_in(_END)
        self._close(_END)

    def _begin(self, numbers: Ints, rows: Rows) -> None:
        """Rows that come into the window."""
        raise NotImplementedError

    def _look(self, first: int, extents: Rows) -> None:
        """A block of extents, beginning with row `first`."""
        raise NotImplementedError

    def _close(self, hi: int) -> None:
        """Rows whose extents all lie before `hi` leave the window."""
        raise NotImplementedError

    def _unreadable(self, error: OutputError) -> None:
        """A block of a table."""
        raise NotImplementedError

    def _find_long(self) -> None:
        highest = 0
        for lo, rows in self._blocks():
            ends = rows["extent_hi"]
            before = np.maximum.accumulate(np.concatenate(([highest], ends)))[:-1]
            long = (ends - rows["extent_lo"] > SPAN) | (ends < before)
            highest = max(highest, int(ends[~long].max(initial=0)))
            at = np.flatnonzero(long)
            self._long[lo + at] = True
            self._begin(lo + at, rows[at])

    def _blocks(self) -> Iterator[tuple[int, Rows]]:
        for lo in range(0, self._run.rows, BLOCK_ROWS):
            try:
                yield lo, self._run.attempts(lo, lo + BLOCK_ROWS)
            except OutputError as error:
                self._unreadable(error)

    def _take_in(self, hi: int) -> None:
        """Every row that may have an extent before `hi`."""
        while self._next < self._run.rows:
            lo = self._next
            try:
                rows = self._run.attempts(lo, lo + BLOCK_ROWS)
            except OutputError:  # told before
                self._next = min(self._run.rows, lo + BLOCK_ROWS)
                continue
            long = self._long[lo : lo + len(rows)]
            beyond = np.flatnonzero(~long & (rows["extent_hi"] > min(hi + SPAN, _END - 1)))
            count = int(beyond[0]) if beyond.size else len(rows)
            at = np.flatnonzero(~long[:count])
            self._begin(lo + at, rows[at])
            self._next += count
            if beyond.size:
                return


class _Open:
    """A row that is being checked: what it promises, and what has been read of it."""

    __slots__ = ("bad", "flags", "hi", "lo", "promised", "read", "row")

    def __init__(self, row: int, lo: int, hi: int, promised: tuple[int, int, int, int], flags: int) -> None:
        self.row, self.lo, self.hi = row, lo, hi
        self.promised = promised
        self.flags = flags
        self.read = [0, 0, 0, 0]  # size and CRC-32 of stdout, then of stderr
        self.bad = False

    @property
    def whole(self) -> bool:
        """All that is kept has been read, and is right."""
        out, out_crc32, err, err_crc32 = self.promised
        if (self.read[1], self.read[3]) != (out_crc32, err_crc32):
            return False
        cut_out, cut_err = self.flags & STDOUT_CUT, self.flags & STDERR_CUT
        return bool((cut_out or self.read[0] == out) and (cut_err or self.read[2] == err))


class Sweep(Pass):
    """Checks the outputs of all rows."""

    def __init__(self, run: RunFile, told: Callable[[int], None] = lambda _: None) -> None:
        """`told` hears how many bytes were read since it was told last."""
        super().__init__(run)
        self._told = told
        self._sound = np.zeros(run.rows, bool)
        self._open: dict[tuple[int, ...], _Open] = {}
        self._bad_chunks: set[int] = set()
        self.bytes = 0
        """Read so far."""

    def sound(self) -> Bools:
        """By row: whether its outputs are what the attempt wrote. A row that cannot be read is not sound."""
        self.go()
        return self._sound

    def _begin(self, numbers: Ints, rows: Rows) -> None:
        written = rows["lease"] != 0  # else it is blank: lost
        numbers, rows = numbers[written], rows[written]
        names = ("stdout_bytes", "stdout_crc32", "stderr_bytes", "stderr_crc32")
        promised = zip(*(rows[name].tolist() for name in names))
        keys = zip(rows["lease"].tolist(), rows["task"].tolist(), rows["attempt"].tolist())
        places = zip(numbers.tolist(), rows["extent_lo"].tolist(), rows["extent_hi"].tolist())
        for key, (row, lo, hi), wrote, flags in zip(keys, places, promised, rows["flags"].tolist()):
            self._open[key] = _Open(row, lo, hi, wrote, flags)

    def _look(self, first: int, extents: Rows) -> None:
        before, size = self.bytes, self._run.pool.chunk_bytes
        opened, crc32 = self._open, zlib.crc32
        held, chunk = -1, memoryview(b"")
        for index, (lease, task, attempt, stream, length, position) in enumerate(extents.tolist(), first):
            ended = opened.get((lease, task, attempt))
            if ended is None or ended.bad or not ended.lo <= index < ended.hi:
                continue
            if stream > STDERR:
                continue
            at = 0 if stream == STDOUT else 2
            if ended.read[at] + length > ended.promised[at]:
                ended.bad = True  # a damaged length may claim any number of bytes
                continue
            ended.read[at] += length
            self.bytes += length
            end = position + length
            while position < end:
                number, offset = divmod(position, size)
                if number != held:
                    held, chunk = number, self._chunk(number)
                if not chunk:
                    ended.bad = True
                    break
                stop = min(size, offset + end - position)
                ended.read[at + 1] = crc32(chunk[offset:stop], ended.read[at + 1])
                position += stop - offset
        self._told(self.bytes - before)

    def _chunk(self, number: int) -> memoryview:
        """Empty when it cannot be read."""
        if number not in self._bad_chunks:
            try:
                return memoryview(self._run.pool.chunk(number))
            except OutputError:
                self._bad_chunks.add(number)
        return memoryview(b"")

    def _unreadable(self, error: OutputError) -> None:
        pass  # what stands there is missed when its rows are judged

    def _close(self, hi: int) -> None:
        for key in [key for key, ended in self._open.items() if ended.hi <= hi]:
            ended = self._open.pop(key)
            self._sound[ended.row] = not ended.bad and ended.whole and self._contents_are_sound(ended)

    def _contents_are_sound(self, ended: _Open) -> bool:
        """Of captured files and arrays, which are read by themselves."""
        if not ended.flags & HAS_CONTENTS:
            return True
        before = self.bytes
        try:
            attempt = self._run.attempt(ended.row)
            for part in everything(self._run, attempt):
                for piece in part.pieces():
                    self.bytes += len(piece)
        except OutputError:
            return False
        self._told(self.bytes - before)
        return True


def rowless(run: RunFile) -> set[int]:
    """Tasks that wrote something and have no row: it is lost, or they had not ended. Raises OutputError."""

    def keys(rows: Rows) -> set[AttemptKey]:
        return set(map(AttemptKey, rows["lease"].tolist(), rows["task"].tolist(), rows["attempt"].tolist()))

    wrote: set[AttemptKey] = set()
    for lo in range(0, run.extents, BLOCK_ROWS):
        wrote |= keys(run.extent_rows(lo, lo + BLOCK_ROWS))
    for lo in range(0, run.rows, BLOCK_ROWS):
        wrote -= keys(run.attempts(lo, lo + BLOCK_ROWS))
    return {task for _, task, _ in wrote if task}
