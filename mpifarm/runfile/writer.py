"""The one writer of a run file. Whatever fails, what was appended before stays readable, and the writer can go on.

What HDF5 does when a disk fills up was found by making writes fail wherever one can (the tests do it again):
* A failed write leaves the chunk's address in the dataset's memory but not in its index. Written again, the chunk is
  on disk and nobody finds it: silent loss. Closing and reopening the dataset forgets the address, so that is what the
  next append does; no position is used up by an append that failed.
* A flush that failed for want of room can be repeated, if HDF5 takes it: once it was in the middle of things it says
  "slist already enabled" for ever.
* A failed fsync cannot: the kernel may have dropped the pages and calls the next one a success.
So whatever is not plainly a want of room makes the file `broken`: what was synced before stands, HDF5 is let go without
another word, and who writes goes on in another file (see `mpifarm.runfile.parts`). The same goes for a file that is not
what it was: somebody has written over it, or its name is gone.
To let this happen rarely, an append first looks whether the file system has room. Quotas do not show there.
Errors leave this module outside of `except`, for a traceback would keep the failed dataset open.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

import h5py
import numpy as np

from mpifarm.core.protocol.messages import Output
from mpifarm.errors import NoRoom, OutputError
from mpifarm.runfile.format import (
    ATTEMPTS,
    BYTES,
    CHUNK_BYTES,
    ENDED_ATTRIBUTE,
    EVENT_TYPE,
    EVENTS,
    EXTENT_TYPE,
    EXTENTS,
    FAILURES,
    ROW_TYPE,
    ROWS_ATTRIBUTE,
    clip,
    create,
    explain,
)
from mpifarm.runfile.parts import Before, Counts, displaced, save

_HEAD_BYTES = 12
"""Of the superblock: what never changes while it is written."""

RESERVE_BYTES = 1 << 20
"""Stays free for the file's index, so that what was appended can still be flushed and closed."""

ROOM_CHECK_BYTES = 64 << 20
"""At least this often the free space is looked up: not at each append, for on NFS it is a round trip."""


class Appended(NamedTuple):
    """Where an Output went: its first row in `attempts`, and its packed rows with absolute extent numbers."""

    first_row: int
    rows: bytes


class Writer:
    """Creates the run file and appends to it. All methods raise OutputError; use it from one thread."""

    def __init__(
        self,
        path: str | Path,
        attributes: Mapping[str, str],
        nodes: Sequence[tuple[str, int, int]],
        compress: str = "gzip",
        *,
        made: bool = False,
        after: Before | None = None,
    ) -> None:
        """`made`: the file is there already, empty. `after`: it goes on from another."""
        self.path = Path(path)
        self.broken = ""
        """Why nothing more can be written for good; empty while a failed call may be tried again."""
        self.displaced = False
        """Its name is gone, or another's."""
        about = attributes if after is None else {**attributes, **after.attributes(self.path)}
        self._file = create(path, about, nodes, compress, made=made)
        self._descriptor: int = self._file.id.get_vfd_handle()
        self._datasets: dict[str, Any] = {}
        # Given to each write: h5py would build the type of 24 fields anew, a third of the cost of a small append.
        self._types = {name: self._file[name].id.get_type() for name in (EXTENTS, ATTEMPTS, EVENTS)}
        rows, extents, size = Counts() if after is None else after.counts
        self._counts = {BYTES: size, EXTENTS: extents, ATTEMPTS: rows, EVENTS: 0}
        self._room = 0
        self._head = os.pread(self._descriptor, _HEAD_BYTES, 0)
        self._flushed_bytes = os.fstat(self._descriptor).st_size

    @property
    def counts(self) -> Counts:
        return Counts(self._counts[ATTEMPTS], self._counts[EXTENTS], self._counts[BYTES])

    @property
    def extents(self) -> int:
        """Rows in `extents`."""
        return self._counts[EXTENTS]

    @property
    def rows(self) -> int:
        """Rows in `attempts`."""
        return self._counts[ATTEMPTS]

    def append(self, output: Output) -> Appended:
        """Append a message. It is durable after `sync`. When it fails, try the same again."""
        self._need_room(output.size)
        first_extent, first_row = self.extents, self.rows
        extents = np.frombuffer(output.extents, EXTENT_TYPE).copy()
        extents["position"] += self._counts[BYTES]
        rows = np.frombuffer(output.rows, ROW_TYPE).copy()
        lo = rows["extent_lo"]
        rows["extent_lo"] = np.where(lo < 0, ~lo, lo + first_extent)  # ~lo == -(lo + 1)
        rows["extent_hi"] += first_extent

        def write() -> None:  # what is pointed at goes first
            self._write_chunks(output.chunks)
            self._write_rows(EXTENTS, extents)
            self._write_rows(ATTEMPTS, rows)

        self._perform("append to", write)
        self._counts[BYTES] += len(output.chunks) * CHUNK_BYTES
        self._counts[EXTENTS] += len(extents)
        self._counts[ATTEMPTS] += len(rows)
        return Appended(first_row, rows.tobytes())

    def events(self, events: Sequence[tuple[float, str]]) -> None:
        """Append (Unix seconds, text) events; a text is cut to 240 bytes."""
        self._need_room(len(events) * EVENT_TYPE.itemsize)
        self._perform("append to", lambda: self._write_rows(EVENTS, _events(events)))
        self._counts[EVENTS] += len(events)

    def sync(self) -> None:
        """Everything appended so far survives a crash of this process and of the machine."""
        self.flush()
        self.fsync()

    def flush(self) -> None:
        """Everything appended so far survives a crash of this process; readers see it."""
        self._perform("flush", self._flush)

    def fsync(self) -> None:
        """Everything flushed so far survives a crash of the machine. For a thread beside the others' too."""
        try:
            os.fsync(self._descriptor)
        except OSError as error:
            self.broken = str(explain(self.path, "sync", error))
        self._refuse_broken()
        self.find()

    def find(self) -> None:
        """Its name is its own, still."""
        if what := displaced(self.path, self._descriptor):
            self.displaced = True
            self.broken = f"run file {self.path} {what} while it was written"
        self._refuse_broken()

    def leave(self) -> Path:
        """Let go of a broken file as it was after the last `sync`. Returns where it is. Raises OutputError when it has
        no name any more and cannot be given one; it is let go all the same."""
        try:
            return save(self.path, self._descriptor) if self.displaced else self.path
        finally:
            self._let_go()

    def close(self) -> None:
        """Close the file and mark it finished. On error it is let go as it was after the last `sync`, and readable."""
        if not self._file:
            return
        failure: OutputError | None = None
        try:
            self._perform("close", self._end)
        except OutputError as error:
            failure = error
        if failure is not None:
            self._let_go()
            raise failure
        self._datasets.clear()
        try:
            self._file.close()
        except FAILURES as error:
            failure = explain(self.path, "close", error)
        if failure is not None:
            self._let_go()
            raise failure

    def _let_go(self) -> None:
        """HDF5 cannot close without writing, and half of that would spoil what is there: let it write to nowhere."""
        if not self._file:
            return
        self._datasets.clear()
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, self._descriptor, inheritable=False)
        os.close(nowhere)
        for _ in range(2):  # the first one tries to write, the second lets go
            with suppress(*FAILURES):
                self._file.close()

    def _perform(self, action: str, write: Callable[[], None]) -> None:
        self._refuse_broken()
        failure: OutputError | None = None
        try:
            write()
        except FAILURES as error:
            failure = explain(self.path, action, error)
            if not isinstance(failure, NoRoom):
                self.broken = str(failure)
        self._refuse_broken()
        if failure is not None:
            self._datasets.clear()
            raise failure

    def _refuse_broken(self) -> None:
        if self.broken:
            raise OutputError(f"{self.broken}. What was synced before is safe; the rest must run again")

    def _dataset(self, name: str) -> Any:
        dataset = self._datasets.get(name)
        if dataset is None:
            dataset = self._datasets[name] = h5py.h5d.open(self._file.id, name.encode())
        return dataset

    def _write_chunks(self, chunks: Sequence[tuple[bool, bytes | memoryview]]) -> None:
        if not chunks:
            return
        pool, position = self._dataset(BYTES), self._counts[BYTES]
        pool.set_extent((position + len(chunks) * CHUNK_BYTES,))
        for squeezed, content in chunks:
            assert squeezed or len(content) == CHUNK_BYTES, "a raw chunk must be whole"
            pool.write_direct_chunk((position,), content, 0 if squeezed else 1)  # 1: without filter 0
            position += CHUNK_BYTES

    def _write_rows(self, name: str, rows: np.ndarray[Any, Any]) -> None:
        if not len(rows):
            return
        table, first = self._dataset(name), self._counts[name]
        table.set_extent((first + len(rows),))
        space = table.get_space()
        space.select_hyperslab((first,), (len(rows),))
        table.write(h5py.h5s.create_simple((len(rows),)), space, rows, self._types[name])

    def _end(self) -> None:
        self._file.attrs.modify(ENDED_ATTRIBUTE, np.float64(time.time()))
        self._file.attrs.modify(ROWS_ATTRIBUTE, np.int64(self.rows))
        self._flush()

    def _flush(self) -> None:
        self._refuse_overwritten()
        for name in (BYTES, EXTENTS, ATTEMPTS):  # in this order, so that a reader finds what it is pointed at
            self._dataset(name).flush()
        # A reader takes a file shorter than its superblock says for truncated, so the length goes first.
        os.ftruncate(self._descriptor, self._file.id.get_filesize())
        self._file.flush()
        self._flushed_bytes = os.fstat(self._descriptor).st_size

    def _refuse_overwritten(self) -> None:
        head = os.pread(self._descriptor, _HEAD_BYTES, 0)
        if head != self._head or os.fstat(self._descriptor).st_size < self._flushed_bytes:
            self.broken = f"run file {self.path} was written over while it was written"
            self._refuse_broken()

    def _need_room(self, size: int) -> None:
        """Refuse before HDF5 is touched when the file system would be full after `size` bytes more."""
        self._refuse_broken()
        if self._room < size:
            space = os.fstatvfs(self._descriptor)
            free = space.f_bavail * space.f_frsize - RESERVE_BYTES
            if space.f_blocks and free < size:  # some virtual file systems count no blocks at all
                raise NoRoom(
                    f"cannot append to run file {self.path}: its file system is full "
                    f"({max(0, free + RESERVE_BYTES) >> 10} KiB left): make room"
                )
            self._room = max(size, min(free // 8, ROOM_CHECK_BYTES))
        self._room -= size


def _events(events: Sequence[tuple[float, str]]) -> np.ndarray[Any, Any]:
    return np.array([(time, clip(text, EVENT_TYPE["text"])) for time, text in events], EVENT_TYPE)
