"""Gathers pieces of output into whole chunks of the run file, where the output is born: on the leaders.

The run file's byte pool is a row of chunks of one size, each deflated or raw. The one writer of the file appends
chunks as they come and never looks inside, so the CPU of compression is spent on many nodes and not on one. Pieces of
many attempts share a chunk; an extent (see `mpifarm.core.row`) remembers where each lies. Imports only zlib.
"""

from __future__ import annotations

import zlib
from typing import NamedTuple

from mpifarm.core.row import EXTENT

WORTHWHILE = 0.9
"""A deflated chunk is kept when it is smaller than this share of the raw one."""

RAW_BEFORE_RETRY = 16
"""After a chunk that did not shrink, so many stay raw untried: deflating noise costs 2 ms of CPU per 64 KiB."""

DEFLATE_LEVEL = 1


class Packed(NamedTuple):
    """What goes into one `Output` message: `extents` is packed; `size` counts the bytes of output before deflate."""

    extents: bytes
    chunks: tuple[tuple[bool, bytes], ...]
    size: int


class ChunkPacker:
    """Packs pieces of output into chunks of `chunk_bytes`. `take` empties it for the next message."""

    def __init__(self, chunk_bytes: int) -> None:
        self._chunk_bytes = chunk_bytes
        self._still_raw = 0
        self._clear()

    def _clear(self) -> None:
        self._chunks: list[tuple[bool, bytes]] = []
        self._parts: list[bytes | memoryview] = []
        """Of the chunk that is being filled; joined once, when it is full."""
        self._filled = 0
        self._extents: list[list[int]] = []
        self._latest: tuple[tuple[int, int, int], int] | None = None
        self.size = 0
        """Bytes added since the last `take`."""

    @property
    def extent_count(self) -> int:
        """How many extents the next `take` will give: an attempt's `extent_lo` and `extent_hi` in the message."""
        return len(self._extents)

    def add(self, key: tuple[int, int, int], stream: int, piece: bytes) -> None:
        """Append `piece` to the output of attempt `key` (lease, task, attempt) on `stream`."""
        length = len(piece)
        if not length:
            return
        self.size += length
        if self._latest == (key, stream):
            self._extents[-1][4] += length  # chunks of a message lie side by side: still one extent
        else:
            position = len(self._chunks) * self._chunk_bytes + self._filled
            self._extents.append([*key, stream, length, position])
            self._latest = (key, stream)
        if self._filled + length < self._chunk_bytes:
            self._parts.append(piece)
            self._filled += length
        else:
            self._spread(piece)

    def take(self) -> Packed:
        """Everything added since the last call. The last chunk is padded with zeros, which deflate to nothing."""
        if self._filled:
            padded = b"".join((*self._parts, bytes(self._chunk_bytes - self._filled)))
            self._chunks.append(self._deflate(padded))
        packed = Packed(b"".join(EXTENT.pack(*extent) for extent in self._extents), tuple(self._chunks), self.size)
        self._clear()
        return packed

    def _spread(self, piece: bytes) -> None:
        """Fill up the current chunk and as many more as `piece` has bytes for."""
        view, start, length = memoryview(piece), 0, len(piece)
        while self._filled + length - start >= self._chunk_bytes:
            stop = start + self._chunk_bytes - self._filled
            self._parts.append(piece if stop - start == length else view[start:stop])
            self._seal()
            start = stop
        if start < length:
            self._parts.append(view[start:])
            self._filled = length - start

    def _seal(self) -> None:
        whole = self._parts[0] if len(self._parts) == 1 else b"".join(self._parts)
        self._parts, self._filled = [], 0
        if self._still_raw:
            self._still_raw -= 1
            self._chunks.append((False, bytes(whole)))  # no copy when it is one piece of bytes
            return
        chunk = self._deflate(whole)
        if not chunk[0]:
            self._still_raw = RAW_BEFORE_RETRY
        self._chunks.append(chunk)

    def _deflate(self, whole: bytes | memoryview) -> tuple[bool, bytes]:
        deflated = zlib.compress(whole, DEFLATE_LEVEL)
        if len(deflated) < WORTHWHILE * self._chunk_bytes:
            return True, deflated
        return False, bytes(whole)
