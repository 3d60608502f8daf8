"""A run file read chunk by chunk, in whatever state it was left: for proving and repairing.

HDF5 refuses a file whose superblock is spoilt, that is shorter than it should be, or whose writer was killed; and its
SWMR mode, which takes the last, waits for ever at metadata that make no sense. So HDF5 is shown the file through a
window that corrects the superblock and continues the file with zeros; the file itself is only ever read. All other
metadata of HDF5 carry checksums: what is damaged there fails, and what hangs on it counts as unreadable. Of a file that
is being written, a block may be caught half written: there, and only there, a second look helps. Tables are read as
stored chunks, for one bad chunk must not hide its neighbours. Must never import psycopg.
"""

from __future__ import annotations

import io
import os
import time
import zlib
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

import h5py
import numpy as np

from mpifarm.core.row import EXTENT, ROW
from mpifarm.errors import OutputError
from mpifarm.output.format import (
    ATTEMPTS,
    BYTES,
    EVENT_TYPE,
    EVENTS,
    EXTENTS,
    FAILURES,
    FORMAT_VERSION,
    NODE_TYPE,
    NODES,
    NOT_HDF5,
    VERSION_ATTRIBUTE,
    explain,
)

SUPERBLOCK_BYTES = 48
_SIGNATURE = b"\x89HDF\r\n\x1a\n"
_START = _SIGNATURE + bytes((3, 8, 8, 0)) + bytes(8) + b"\xff" * 8
"""Superblock version 3, 8-byte addresses and lengths, nobody writes, base address 0, no extension."""
_ROOT = SUPERBLOCK_BYTES.to_bytes(8, "little")
"""Address of the root group: run files are born with it right behind the superblock."""
_BEYOND = 1 << 30
"""So far behind its end a file seems to go on: a live or killed writer's tables may be ahead of its superblock."""
_MASK = 0xFFFFFFFF
LOOKS, BETWEEN_LOOKS_S = 5, 0.01
"""How often an unreadable chunk of a live file is looked at."""


class ChunkTable:
    """A dataset by its stored chunks. `rows_per_chunk` rows of `row_bytes` each; `count` rows in all."""

    def __init__(self, dataset: h5py.Dataset | None, row_bytes: int, live: bool) -> None:
        self._dataset = dataset
        self._looks = LOOKS if live else 1
        self.row_bytes = row_bytes
        self.count: int = 0 if dataset is None else dataset.shape[0]
        self.rows_per_chunk: int = 1 if dataset is None else dataset.chunks[0]

    @property
    def chunks(self) -> int:
        return -(-self.count // self.rows_per_chunk)

    def chunk(self, number: int) -> bytes | None:
        """The rows of one chunk as stored, as far as the table goes; None when they cannot be read."""
        for look in range(self._looks):
            if look:
                time.sleep(BETWEEN_LOOKS_S)
            content = self._look(number)
            if content is not None:
                rows = min(self.rows_per_chunk, self.count - number * self.rows_per_chunk)
                return content if rows == self.rows_per_chunk else content[: rows * self.row_bytes]
        return None

    def _look(self, number: int) -> bytes | None:
        assert self._dataset is not None
        try:
            mask, stored = self._dataset.id.read_direct_chunk((number * self.rows_per_chunk,))
            content = bytes(stored) if mask & 1 or not self._dataset.compression else zlib.decompress(stored)
        except (*FAILURES, zlib.error):
            return None
        return content if len(content) == self.rows_per_chunk * self.row_bytes else None


class ChunkFile:
    """An open run file; a context manager. What of it could not even be opened stands in `unreadable`."""

    def __init__(self, path: Path, file: h5py.File, notes: Sequence[str], live: bool) -> None:
        self.path = path
        self.notes = list(notes)
        """What had to be corrected to open it."""
        self.unreadable: list[str] = []
        """Parts that cannot be read at all."""
        self._file = file
        # In this order: of a live file, what points must not be newer than what it points at.
        self.attempts = self._table(ATTEMPTS, ROW.size, live)
        self.extents = self._table(EXTENTS, EXTENT.size, live)
        self.bytes = self._table(BYTES, 1, live)
        self.events = self._table(EVENTS, EVENT_TYPE.itemsize, live)

    def __enter__(self) -> ChunkFile:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._file.close()

    @property
    def attributes(self) -> dict[str, str]:
        """Those that can be read."""
        found = {}
        try:
            for name in self._file.attrs:
                found[name] = str(self._file.attrs[name])
        except FAILURES:
            self.unreadable.append("some of its attributes")
        return found

    @property
    def nodes(self) -> list[tuple[str, int, int]]:
        dataset = self._dataset(NODES, NODE_TYPE.itemsize)
        if dataset is None:
            return []
        return [(name.decode("utf-8", "replace"), int(ranks), int(slots)) for name, ranks, slots in dataset[:]]

    def _table(self, name: str, row_bytes: int, live: bool) -> ChunkTable:
        return ChunkTable(self._dataset(name, row_bytes), row_bytes, live)

    def _dataset(self, name: str, row_bytes: int) -> h5py.Dataset | None:
        try:
            dataset = self._file[name]
            if dataset.dtype.itemsize == row_bytes:
                return dataset
        except FAILURES:
            pass
        self.unreadable.append(f"all of `{name}`")
        return None


def open_chunkwise(path: str | Path, *, live: bool = False) -> ChunkFile:
    """Open a file as it is at this moment; `live`: a run may be writing it. Raises OutputError when it is no run file,
    or damaged where everything hangs."""
    try:
        window = _Window(path)
    except OSError as error:
        raise explain(path, "open", error) from error
    try:
        file = h5py.File(window, "r", rdcc_nbytes=0)
        version = file.attrs.get(VERSION_ATTRIBUTE)
    except FAILURES as error:
        window.close()
        if window.sound:
            raise explain(path, "open", error) from error
        raise OutputError(f"cannot open run file {path}: {NOT_HDF5}, and nothing could be made of it") from error
    if version is None or version > FORMAT_VERSION:
        file.close()
        wrote = "no run of mpifarm wrote it" if version is None else f"its format {version} is newer than this mpifarm"
        raise OutputError(f"cannot open run file {path}: {wrote}")
    return ChunkFile(Path(path), file, window.notes, live)


class _Window(io.RawIOBase):
    """A file for h5py: the one at `path` behind a good superblock, continued with zeros where it was cut off."""

    def __init__(self, path: str | Path) -> None:
        self._descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        self._position = 0
        length = os.fstat(self._descriptor).st_size
        head = os.pread(self._descriptor, SUPERBLOCK_BYTES, 0).ljust(SUPERBLOCK_BYTES, b"\0")
        self.notes: list[str] = []
        self.sound = head[:8] == _SIGNATURE and checksum(head[:44]) == int.from_bytes(head[44:], "little")
        end = int.from_bytes(head[28:36], "little") if self.sound else length
        if not self.sound:
            self.notes.append("its superblock is damaged; it was rebuilt")
        if end > length:
            self.notes.append(f"it is truncated: {length:,} of {end:,} bytes are there")
        self._length = max(length, end) + _BEYOND
        start = _START + self._length.to_bytes(8, "little") + (head[36:44] if self.sound else _ROOT)
        self._superblock = start + checksum(start).to_bytes(4, "little")

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        base = {os.SEEK_SET: 0, os.SEEK_CUR: self._position, os.SEEK_END: self._length}[whence]
        self._position = base + offset
        return self._position

    def tell(self) -> int:
        return self._position

    def readinto(self, buffer: Any) -> int:
        view = memoryview(buffer).cast("B")
        got = 0
        while got < len(view):
            count = os.preadv(self._descriptor, [view[got:]], self._position + got)
            if not count:
                view[got:] = bytes(len(view) - got)
                break
            got += count
        if self._position < SUPERBLOCK_BYTES:
            piece = self._superblock[self._position : self._position + len(view)]
            view[: len(piece)] = piece
        self._position += len(view)
        return len(view)

    def close(self) -> None:
        if not self.closed:
            os.close(self._descriptor)
        super().close()


def checksum(content: bytes) -> int:
    """Bob Jenkins' lookup3 hash, with which HDF5 seals its metadata."""
    a = b = c = (0xDEADBEEF + len(content)) & _MASK
    words = np.frombuffer(content + bytes(-len(content) % 12), "<u4").tolist()
    for place in range(0, len(words), 3):
        a, b, c = ((x + word) & _MASK for x, word in zip((a, b, c), words[place : place + 3]))
        if place + 3 < len(words):
            for by in (4, 6, 8, 16, 19, 4):
                a, c = (a - c) & _MASK ^ _turn(c, by), (c + b) & _MASK
                a, b, c = b, c, a
    for by in (14, 11, 25, 16, 4, 14, 24):
        c = ((c ^ b) - _turn(b, by)) & _MASK
        a, b, c = b, c, a
    return b


def _turn(word: int, by: int) -> int:
    return (word << by | word >> (32 - by)) & _MASK
