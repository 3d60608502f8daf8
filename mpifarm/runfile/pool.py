"""The byte pool of a run file: chunks of output, found by number, inflated here, a few of them kept.

The chunk cache of HDF5 is off for the tables' sake (see `mpifarm.runfile.format`), and deflate checks what it inflates.
"""

from __future__ import annotations

import zlib
from collections import OrderedDict
from collections.abc import Callable, Iterator
from pathlib import Path

import h5py

from mpifarm.errors import OutputError
from mpifarm.runfile.codec import expand
from mpifarm.runfile.format import FAILURES, explain
from mpifarm.startup.limited import reading

CHUNKS_KEPT = 16


class Pool:
    """`bytes` of an open run file. All methods raise OutputError."""

    def __init__(
        self, path: Path, dataset: h5py.Dataset, first_byte: int = 0, older: Callable[[], Pool] | None = None
    ) -> None:
        """`older`: of the file that holds what comes before `first_byte`; may raise OutputError."""
        self.chunk_bytes: int = dataset.chunks[0]
        self._first, self._older = first_byte // self.chunk_bytes, older
        self._path, self._dataset = path, dataset
        self._deflate = dataset.compression == "gzip"
        self._kept: OrderedDict[int, bytes] = OrderedDict()
        self._failed: tuple[int, OutputError] | None = None
        """The last chunk that could not be read: of many tasks, each would wait for that."""
        self.count = max(self._first, len(dataset) // self.chunk_bytes)
        """Chunks, as of the last `refresh`."""

    def refresh(self) -> None:
        self._failed = None
        with reading(self._path):
            self._dataset.refresh()
        self.count = max(self._first, len(self._dataset) // self.chunk_bytes)

    def slices(self, position: int, length: int) -> Iterator[bytes]:
        """The bytes [position, position + length), in pieces of a chunk at most."""
        end = position + length
        while position < end:
            number, offset = divmod(position, self.chunk_bytes)
            piece = self.chunk(number)[offset : offset + end - position]
            yield piece
            position += len(piece)

    def stored(self, number: int) -> tuple[bool, bytes]:
        """A chunk as it lies in the file, and whether it is deflated; what is compressed otherwise is expanded."""
        if number < self._first and self._older is not None:
            return self._older().stored(number)
        if self._failed is not None and self._failed[0] == number:
            raise self._failed[1]
        if number >= self.count:
            raise OutputError(f"run file {self._path} is damaged: it has no chunk {number}")
        try:
            with reading(self._path):
                mask, stored = self._dataset.id.read_direct_chunk((number * self.chunk_bytes,))
        except (*FAILURES, OverflowError) as error:
            self._failed = number, explain(self._path, "read", error)
            raise self._failed[1] from error
        if mask & 1:
            return False, bytes(stored)
        if self._deflate:
            return True, bytes(stored)
        return False, self._expand(number, bytes(stored))

    def _expand(self, number: int, stored: bytes) -> bytes:
        try:
            return expand(stored)[0]
        except zlib.error as error:
            raise OutputError(f"run file {self._path} is damaged: chunk {number}: {error}") from error

    def chunk(self, number: int) -> bytes:
        """The content of a whole chunk."""
        chunk = self._kept.get(number)
        if chunk is not None:
            return chunk
        deflated, chunk = self.stored(number)
        if deflated:
            chunk = self._expand(number, chunk)
        if len(chunk) != self.chunk_bytes:
            raise OutputError(f"run file {self._path} is damaged: chunk {number} holds {len(chunk)} bytes")
        self._kept[number] = chunk
        if len(self._kept) > CHUNKS_KEPT:
            self._kept.popitem(last=False)
        return chunk
