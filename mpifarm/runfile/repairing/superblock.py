"""The first 48 bytes of a run file, and reading it with others in their place.

HDF5 refuses a whole file for a wrong bit in them, for a length that they do not know of, or because a writer died.
"""

from __future__ import annotations

import io
import mmap
from collections.abc import Iterator
from typing import Any

import h5py

from mpifarm.runfile.format import EXTENTS, FAILURES

SIZE = 48
SIGNATURE = b"\x89HDF\r\n\x1a\n"
_HEADER = b"OHDR"
_HEADERS_TRIED = 64
_MASK = 0xFFFF_FFFF


class _Beneath(io.RawIOBase):
    """A file under another superblock."""

    def __init__(self, content: mmap.mmap | bytes, superblock: bytes) -> None:
        self._content, self._superblock = content, superblock
        self._at = 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = 0) -> int:
        self._at = offset + (0, self._at, len(self._content))[whence]
        return self._at

    def tell(self) -> int:
        return self._at

    def readinto(self, buffer: Any) -> int:
        piece = bytes(self._content[self._at : self._at + len(buffer)])
        if self._at < SIZE:
            piece = self._superblock[self._at : SIZE][: len(piece)] + piece[max(0, SIZE - self._at) :]
        buffer[: len(piece)] = piece
        self._at += len(piece)
        return len(piece)


def open_beneath(content: mmap.mmap | bytes) -> h5py.File | None:
    """The file as HDF5 sees it under a superblock that is right; None when its root group is not to be found."""
    for root in _roots(content):
        superblock = SIGNATURE + bytes((3, 8, 8, 0)) + bytes(8) + b"\xff" * 8
        superblock += len(content).to_bytes(8, "little") + root.to_bytes(8, "little")
        superblock += lookup3(superblock).to_bytes(4, "little")
        try:
            file = h5py.File(_Beneath(content, superblock), "r")
        except FAILURES:
            continue
        try:
            if EXTENTS in file:
                return file
        except FAILURES:
            pass
        file.close()
    return None


def _roots(content: mmap.mmap | bytes) -> Iterator[int]:
    yield int.from_bytes(content[36:44], "little") & (2**63 - 1)
    at = content.find(_HEADER)
    for _ in range(_HEADERS_TRIED):
        if at < 0:
            return
        yield at
        at = content.find(_HEADER, at + 1)


def lookup3(text: bytes) -> int:
    """Bob Jenkins' hash as HDF5 uses it for its metadata."""
    a = b = c = (0xDEADBEEF + len(text)) & _MASK
    while len(text) > 12:
        a, b, c = _mixed(*_added(a, b, c, text[:12]))
        text = text[12:]
    if not text:
        return c
    a, b, c = _added(a, b, c, text.ljust(12, b"\0"))
    for x, y, turn in ((1, 2, 14), (2, 0, 11), (0, 1, 25), (1, 2, 16), (2, 0, 4), (0, 1, 14), (1, 2, 24)):
        values = [a, b, c]
        values[y] = ((values[y] ^ values[x]) - _turned(values[x], turn)) & _MASK
        a, b, c = values
    return c


def _added(a: int, b: int, c: int, text: bytes) -> tuple[int, int, int]:
    words = [int.from_bytes(text[at : at + 4], "little") for at in (0, 4, 8)]
    return (a + words[0]) & _MASK, (b + words[1]) & _MASK, (c + words[2]) & _MASK


def _mixed(a: int, b: int, c: int) -> tuple[int, int, int]:
    for turn in (4, 6, 8, 16, 19, 4):
        a = ((a - c) ^ _turned(c, turn)) & _MASK
        c = (c + b) & _MASK
        a, b, c = b, c, a
    return a, b, c


def _turned(value: int, bits: int) -> int:
    return ((value << bits) | (value >> (32 - bits))) & _MASK
