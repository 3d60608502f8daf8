"""Pieces of output become chunks and extents in one go: what launcher, leader and its thread do together, for tests."""

from __future__ import annotations

from typing import NamedTuple

from mpifarm.core.chunks import Layout, Squeeze
from mpifarm.runfile.codec import compressor
from tests.rows import key_of


class Packed(NamedTuple):
    extents: bytes
    chunks: tuple[tuple[bool, bytes], ...]
    size: int
    """Bytes of output."""


class ChunkPacker:
    """`take` empties it for the next message."""

    def __init__(self, chunk_bytes: int, compress: str = "gzip") -> None:
        self._chunk_bytes = chunk_bytes
        self._compress = compressor(compress)
        self._squeeze = Squeeze(chunk_bytes)
        self._layout = Layout(chunk_bytes)
        self._pool = bytearray()

    @property
    def extent_count(self) -> int:
        return self._layout.extent_count

    def add(self, key: tuple[int, int, int], stream: int, piece: bytes) -> None:
        start = 0
        while start < len(piece):
            cell, offset = divmod(len(self._pool), self._chunk_bytes)
            length = min(len(piece) - start, self._chunk_bytes - offset)
            self._pool += piece[start : start + length]
            self._layout.add(key_of(*key), stream, length, cell * self._chunk_bytes + offset)
            start += length

    def take(self) -> Packed:
        extents, cells = self._layout.take()
        size, whole = len(self._pool), memoryview(self._pool.ljust(len(cells) * self._chunk_bytes, b"\0"))
        parts = (whole[start : start + self._chunk_bytes] for start in range(0, len(whole), self._chunk_bytes))
        chunks = tuple(self._chunk(part, filled) for part, (_, filled) in zip(parts, cells))
        self._pool = bytearray()
        return Packed(extents, chunks, size)

    def _chunk(self, whole: memoryview, filled: int) -> tuple[bool, bytes]:
        if self._compress is not None and self._squeeze.wants(filled, 0):
            content = self._compress(whole)
            if self._squeeze.keeps(len(content)):
                return True, content
        return False, bytes(whole)
