"""Reads run files: finished ones, ones being written, and those of writers that were killed.

Anyone can read them without mpifarm. The stdout of task 17 of job 1, in five lines and an import:

    import h5py
    f = h5py.File("mpifarm-run-1.h5", "r", swmr=True)
    a = [a for a in f["attempts"][:] if a["job"] == 1 and a["task"] == 17][-1]
    e = f["extents"][a["extent_lo"] : a["extent_hi"]]
    e = e[(e["lease"] == a["lease"]) & (e["task"] == 17) & (e["attempt"] == a["attempt"]) & (e["stream"] == 1)]
    print(b"".join(f["bytes"][p : p + n].tobytes() for p, n in zip(e["position"], e["length"])).decode())

What this module adds is speed, checks (length and CRC-32 of every stream), and following a run that goes on. A reader
sees the file as of its opening or its last `refresh`.
"""

from __future__ import annotations

import os
import re
import zlib
from collections.abc import Iterator
from math import isfinite
from pathlib import Path
from types import TracebackType

import h5py
import numpy as np

from mpifarm.core.model import AttemptKey, FailureClass, State
from mpifarm.core.plural import counted
from mpifarm.core.row import STDERR, STDERR_CUT, STDOUT, STDOUT_CUT, AttemptRow
from mpifarm.errors import OutputError
from mpifarm.runfile.format import (
    ATTEMPTS,
    BYTES,
    EVENTS,
    EXTENTS,
    FAILURES,
    FORMAT_VERSION,
    NODES,
    NOT_HDF5,
    ROW_TYPE,
    VERSION_ATTRIBUTE,
    explain,
    limit_read_attempts,
    widened,
)
from mpifarm.runfile.parts import Counts, before
from mpifarm.runfile.pool import Pool
from mpifarm.runfile.table import Rows, Table
from mpifarm.startup.limited import reading, refuse_endless, repair_advice

BLOCK_ROWS = 16_384
"""Extents looked at in one go: 432 KiB."""
_STATES, _CLASSES = frozenset(State), frozenset(FailureClass)
_PARTS_MAX = 100
STREAM_NAMES = {STDOUT: "stdout", STDERR: "stderr"}


def open_run(path: str | Path, *, depth: int = 0) -> RunFile:
    """Open a run file for reading. Raises OutputError: missing, no run file, of a newer format, locked, truncated."""
    if (
        "\\udc" in str(path) and not Path(path).exists()
    ):  # out of the database (see `queue.text_encoding`): it is no UTF-8
        path = re.sub(r"\\udc([89a-f][0-9a-f])", lambda found: chr(0xDC00 + int(found[1], 16)), str(path))
    refuse_endless(path, lambda: _looked_at(path))
    file = _opened(path)
    try:
        version = file.attrs.get(VERSION_ATTRIBUTE)
        if version is None:
            what = "it is HDF5, but no run of mpifarm wrote it, or it has lost what says so"
            raise OutputError(f"cannot open run file {path}: {what}; {repair_advice(path)}")
        if version > FORMAT_VERSION:
            raise OutputError(
                f"cannot open run file {path}: it has format {version} and this mpifarm reads up to format "
                f"{FORMAT_VERSION}: use the mpifarm that wrote it, or a newer one"
            )
        return RunFile(Path(path), file, depth)
    except FAILURES as error:
        file.close()
        raise explain(path, "open", error) from error
    except OutputError:
        file.close()
        raise


def _opened(path: str | Path) -> h5py.File:
    try:
        with reading(path):
            return _open_swmr(path) if _unfinished(path) else h5py.File(path, "r", rdcc_nbytes=0)
    except FAILURES as error:
        raise explain(path, "open", error) from error


def _looked_at(path: str | Path) -> None:
    """Go where HDF5 may stay for ever: metadata without checksums, which are read when a file is opened."""
    with _opened(path) as file, reading(path):
        list(file.attrs.items())
        for name in (NODES, BYTES, EXTENTS, ATTEMPTS, EVENTS):
            file[name][:0]


def _open_swmr(path: str | Path) -> h5py.File:
    access = h5py.h5p.create(h5py.h5p.FILE_ACCESS)
    access.set_cache(0, 521, 0, 0.75)
    limit_read_attempts(access)
    flags = h5py.h5f.ACC_RDONLY | h5py.h5f.ACC_SWMR_READ
    return h5py.File(h5py.h5f.open(os.fsencode(path), flags, access))


def _unfinished(path: str | Path) -> bool:
    """Whether a writer has the file open, or died with it: then it must be read as SWMR, and else better not.

    Truncation is looked for here, in the superblock (versions 2 and 3: flags at byte 11, end at 28).
    """
    with open(path, "rb") as file:
        head = file.read(36)
        length = file.seek(0, 2)
    if len(head) < 36 or not head.startswith(b"\x89HDF\r\n\x1a\n") or head[8] not in (2, 3):
        return False  # HDF5 says what is wrong with it
    if length < int.from_bytes(head[28:36], "little"):
        raise OutputError(f"cannot open run file {path}: {NOT_HDF5}; {repair_advice(path)}")
    return head[11] != 0


def promised_of(row: AttemptRow, stream: int) -> tuple[int, int]:
    """Length of what the attempt wrote, and CRC-32 of what its job keeps of that: all, unless the flags say other."""
    if stream == STDOUT:
        return row.stdout_bytes, row.stdout_crc32
    return row.stderr_bytes, row.stderr_crc32


def is_whole(row: AttemptRow, stream: int, size: int, checksum: int) -> bool:
    """Whether so many bytes with this CRC-32 are what the attempt's row promises of a stream."""
    promised = promised_of(row, stream)
    cut = row.flags & (STDOUT_CUT if stream == STDOUT else STDERR_CUT)
    return checksum == promised[1] and (size == promised[0] or (bool(cut) and size < promised[0]))


class RunFile:
    """An open run file. Row numbers are those of `attempts`, as the queue's outcomes name them."""

    def __init__(self, path: Path, file: h5py.File, depth: int = 0) -> None:
        """`depth`: so many files go on from this one."""
        self.path = path
        self.first_row = 0
        """Where these rows begin in `attempts` of the file: not at 0 for a run within an export."""
        with reading(path):
            self.attributes = {name: str(value) for name, value in file.attrs.items()}
            """What the run wrote about itself, and the file about its format."""
            self.nodes = [(name.decode(), int(ranks), int(slots)) for name, ranks, slots in file[NODES][:]]
            """(name, ranks, slots) by node number."""
        self._file = file
        self.older: RunFile | None = None
        """The file that this one goes on from: numbers that begin before it are found there."""
        self.missing: OutputError | None = None
        """Why that one, or one before it, cannot be opened."""
        rows, extents, size = self._open_older(depth)
        # In the order of refresh.
        self._attempts, self._extents = (
            Table(path, file[name], first) for name, first in ((ATTEMPTS, rows), (EXTENTS, extents))
        )
        self.pool = Pool(path, file[BYTES], size, self._older_pool)

    def __enter__(self) -> RunFile:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        if self.older is not None:
            self.older.close()
        self._file.close()

    def _open_older(self, depth: int) -> Counts:
        found = before(self.path, self.attributes)
        if found is None:
            return Counts()
        if depth > _PARTS_MAX:
            raise OutputError(f"run file {self.path} is damaged: files go on from each other without end")
        try:
            self.older = open_run(found.path, depth=depth + 1)
            self.missing = self.older.missing
        except OutputError as error:
            self.missing = OutputError(f"{error}; {self.path} goes on from it")
        return found.counts

    def _older_pool(self) -> Pool:
        if self.older is None:
            raise self.missing or OutputError(f"run file {self.path} is damaged")
        return self.older.pool

    @property
    def rows(self) -> int:
        """Rows in `attempts`, as of the last `refresh`."""
        return self._attempts.count

    @property
    def extents(self) -> int:
        """Rows in `extents`, as of the last `refresh`."""
        return self._extents.count

    def refresh(self) -> None:
        """See what was written since."""
        try:
            for table in (self._attempts, self._extents, self.pool):  # what points first, then what it points at
                table.refresh()
        except FAILURES as error:
            raise explain(self.path, "read", error) from error

    def attempts(self, lo: int, hi: int) -> Rows:
        """Rows [lo, hi) as a structured array (fields of `mpifarm.core.row.FIELDS`); ask for blocks, not for all."""
        rows = self._read(self._attempts, lo, hi, blank=True)
        return rows if rows.dtype == ROW_TYPE else widened(rows)

    def attempt(self, row: int) -> AttemptRow:
        """One row; refreshes once when the file has not that many."""
        if row >= self.rows:
            self.refresh()
        if not 0 <= row < self.rows:
            short = f"run file {self.path} has no attempt row {row}: it has {counted(self.rows, 'row')}"
            raise OutputError(f"{short}; {repair_advice(self.path)}")
        if self.older is not None and row < self._attempts.first:
            return self.older.attempt(row)
        found = AttemptRow(*self._read(self._attempts, row, row + 1)[0].item())
        if not (found.state in _STATES and found.failure in _CLASSES and isfinite(found.started + found.ended)):
            raise OutputError(f"run file {self.path} is damaged: attempt row {row} makes no sense")
        return found

    def extent_rows(self, lo: int, hi: int) -> Rows:
        """Rows [lo, hi) of `extents` (fields of `mpifarm.core.row.EXTENT_FIELDS`); ask for blocks, not for all."""
        return self._read(self._extents, lo, hi, blank=True)

    def output(self, row: int, stream: int) -> Iterator[bytes]:
        """What is kept of stdout or stderr of the attempt in `row`, in order. Raises OutputError at the end when it
        differs in length or CRC-32 from what the attempt wrote."""
        attempt = self.attempt(row)
        promised = promised_of(attempt, stream)
        size = checksum = 0
        if promised[0]:
            for piece in self._pieces(attempt.key, stream, attempt.extent_lo, attempt.extent_hi):
                size += len(piece)
                checksum = zlib.crc32(piece, checksum)
                if size > promised[0]:
                    break  # a damaged length may claim any number of bytes
                yield piece
        if not is_whole(attempt, stream, size, checksum):
            raise OutputError(
                f"run file {self.path} is damaged: {STREAM_NAMES[stream]} of job {attempt.job} task {attempt.task} "
                f"has {size} bytes with CRC-32 {checksum:08x}; the task wrote {promised[0]} with {promised[1]:08x}"
            )

    def part(self, attempt: AttemptRow, stream: int, start: int = 0, length: int | None = None) -> Iterator[bytes]:
        """Bytes [start, start + length) of any stream of an attempt, as far as there are any; None: to its end. The
        checksums of what lies in streams from 3 on are in the attempt's contents."""
        left = length
        for piece in self._pieces(attempt.key, stream, attempt.extent_lo, attempt.extent_hi, start):
            if left is not None:
                piece = piece[:left]
                left -= len(piece)
            if piece:
                yield piece
            if left == 0:
                return

    def running_output(self, key: AttemptKey, stream: int, start: int = 0) -> Iterator[bytes]:
        """What an attempt without a row wrote so far, from row `start` of `extents` on.

        To follow it: note `extents`, read, `refresh`, and go on with the noted number as `start`.
        """
        yield from self._pieces(key, stream, start, self.extents)

    def events(self) -> list[tuple[float, str]]:
        """(Unix seconds, text) in the order they were written."""
        try:
            with reading(self.path):
                events = self._file[EVENTS][:]
        except FAILURES as error:
            raise explain(self.path, "read", error) from error
        older = [] if self.older is None else self.older.events()
        return older + [
            (float(time), text.decode("utf-8", "replace")) for time, text in events if time
        ]  # blank: see Table

    def _read(self, table: Table, lo: int, hi: int, *, blank: bool = False) -> Rows:
        """`blank`: so are rows of a file that is missing, which then cost none of those after them."""
        if 0 <= lo < table.first and lo < hi:
            end = min(hi, table.first)
            rows = self._read_older(table, lo, end, blank=blank)
            return rows if end == hi else np.concatenate((rows, self._read(table, end, hi)))
        try:
            return table.read(lo, hi)
        except FAILURES as error:
            raise explain(self.path, "read", error) from error

    def _read_older(self, table: Table, lo: int, hi: int, *, blank: bool) -> Rows:
        older = self.older
        if older is None and blank:
            return np.zeros(hi - lo, table.dtype)
        if older is None:
            raise self.missing or OutputError(f"run file {self.path} is damaged")
        rows = older._read(older._attempts if table is self._attempts else older._extents, lo, hi, blank=blank)
        if len(rows) < hi - lo:
            raise OutputError(f"run file {older.path} is damaged: {self.path} goes on from where it is not")
        return rows

    def _pieces(self, key: AttemptKey, stream: int, lo: int, hi: int, skip: int = 0) -> Iterator[bytes]:
        lease, task, attempt = key
        hi = min(hi, self.extents)
        for start in range(max(0, lo), hi, BLOCK_ROWS):
            block = self._read(self._extents, start, min(hi, start + BLOCK_ROWS))
            mine = (block["lease"] == lease) & (block["task"] == task)
            mine &= (block["attempt"] == attempt) & (block["stream"] == stream)
            for extent in block[mine]:
                length = int(extent["length"])
                over = min(skip, length)
                skip -= over
                yield from self.pool.slices(int(extent["position"]) + over, length - over)
