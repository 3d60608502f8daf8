"""Finds the chunks of a run file without the help of HDF5, which refuses a file whose metadata are damaged.

A dataset that grows is indexed by an "extensible array" (HDF5 File Format Specification 3.0, VII.D): an index block
with the first elements and the addresses of data blocks and of secondary blocks, which hold more addresses of data
blocks. An element is the address of a chunk, and for the one dataset with a filter its stored size and filter mask.
Every block names the header of its array, so that blocks are found by their signatures, too, when what points at them
is damaged. Checksums of these blocks are not asked for: of a block with a flipped bit all elements but one are right,
and whether a chunk is one is seen from its content.
"""

from __future__ import annotations

import mmap
from collections import defaultdict
from collections.abc import Iterator
from itertools import islice
from typing import NamedTuple

INDEX, SECONDARY, DATA = b"EAIB", b"EASB", b"EADB"
_PREFIX = 14
"""Signature, version, class, address of the header."""
_OFFSET = 4
_CHECKSUM = 4
FIRST_ELEMENTS = 4
"""Elements in an index block; these and the following are the library's own numbers, which nobody changes."""
_SMALLEST = 16
"""Elements of the smallest data block."""
_DIRECT_BLOCKS, _DIRECT_LEVELS = 6, 4
"""Data blocks, and levels of them, that the index block itself points at."""
_PAGE = 1024
"""Elements; larger data blocks are paged."""
_LEVELS = 29
_NOWHERE = 0xFFFF_FFFF_FFFF_FFFF


class Chunk(NamedTuple):
    """Where a chunk is stored. `filtered`: its filters were not skipped; `size` 0: of full size."""

    address: int
    size: int
    filtered: bool


class _Slot(NamedTuple):
    """A data block as the array knows it: elements [start, start + elements). `offset` is what the block says of
    itself, which is another number for those that the index block points at."""

    start: int
    elements: int
    offset: int


def _slots() -> Iterator[tuple[int, list[_Slot]]]:
    """By level: the offset of its secondary block, and its data blocks."""
    start = number = 0
    for level in range(_LEVELS):
        blocks, count = 1 << level // 2, _SMALLEST << (level + 1) // 2
        direct = level < _DIRECT_LEVELS
        slots = [
            _Slot(start + i * count, count, start + ((number + i) if direct else i) * count) for i in range(blocks)
        ]
        yield start, slots
        start, number = start + blocks * count, number + blocks


class Arrays:
    """The arrays of a file: for each the chunks it points at, by number. `size_bytes`: how long a stored size is."""

    def __init__(self, content: mmap.mmap | bytes, size_bytes: int) -> None:
        self._content = content
        self._size_bytes = size_bytes
        blocks: defaultdict[tuple[int, int], dict[bytes, list[int]]] = defaultdict(lambda: defaultdict(list))
        for signature in (INDEX, SECONDARY, DATA):
            for at in self._places(signature):
                kind = content[at + 5]
                blocks[kind, int.from_bytes(content[at + 6 : at + _PREFIX], "little")][signature].append(at)
        self.filtered: list[dict[int, Chunk]] = []
        """By array of a dataset with filters; the largest first."""
        self.plain: list[dict[int, Chunk]] = []
        for (kind, _), found in sorted(blocks.items()):
            chunks = self._chunks(kind, found)
            (self.filtered if kind else self.plain).append(chunks)
        self.filtered.sort(key=len, reverse=True)

    def _places(self, signature: bytes) -> Iterator[int]:
        at, end = self._content.find(signature), len(self._content)
        while at >= 0:
            if at + _PREFIX + _OFFSET <= end and self._content[at + 4] == 0 and self._content[at + 5] in (0, 1):
                header = int.from_bytes(self._content[at + 6 : at + _PREFIX], "little")
                if 0 < header < end:
                    yield at
            at = self._content.find(signature, at + 1)

    def _chunks(self, kind: int, found: dict[bytes, list[int]]) -> dict[int, Chunk]:
        width = 8 + (self._size_bytes + 4) * kind
        elements: dict[int, Chunk] = {}
        known, levels = set(found[DATA]), dict(islice(_slots(), _LEVELS))
        placed: dict[int, int] = {}  # start of a slot -> its block
        counts = {slot.start: slot.elements for slots in levels.values() for slot in slots[: len(known) + 1]}
        direct = [slot for slots in list(levels.values())[:_DIRECT_LEVELS] for slot in slots]
        for at in found[INDEX]:
            elements.update(self._elements(at + _PREFIX, FIRST_ELEMENTS, kind, 0))
            addresses = at + _PREFIX + FIRST_ELEMENTS * width
            placed.update(self._pointed_at(addresses, direct[:_DIRECT_BLOCKS], known))
        for at in found[SECONDARY]:
            offset = self._number(at + _PREFIX, _OFFSET)
            slots = levels.get(offset, [])
            counts.update((slot.start, slot.elements) for slot in slots)
            pages = (slots[0].elements // _PAGE if slots and slots[0].elements > _PAGE else 0) + 7 >> 3
            placed.update(self._pointed_at(at + _PREFIX + _OFFSET + pages * len(slots), slots, known))
        # What nothing points at any more: the first free place that fits what the block says of itself.
        for at in sorted(known - set(placed.values())):
            offset = self._number(at + _PREFIX, _OFFSET)
            for slots in levels.values():
                fit = next((slot for slot in slots if slot.offset == offset and slot.start not in placed), None)
                if fit is not None:
                    placed[fit.start], counts[fit.start] = at, fit.elements
                    break
        for start, at in placed.items():
            elements.update(self._of_block(at, counts[start], kind, FIRST_ELEMENTS + start))
        return elements

    def _pointed_at(self, at: int, slots: list[_Slot], known: set[int]) -> Iterator[tuple[int, int]]:
        for i, slot in enumerate(slots):
            address = self._number(at + 8 * i, 8)
            if address in known:
                yield slot.start, address

    def _of_block(self, at: int, count: int, kind: int, first: int) -> Iterator[tuple[int, Chunk]]:
        at += _PREFIX + _OFFSET
        if count <= _PAGE:
            yield from self._elements(at, count, kind, first)
            return
        width = 8 + (self._size_bytes + 4) * kind
        at += _CHECKSUM
        for page in range(count // _PAGE):
            yield from self._elements(at + page * (_PAGE * width + _CHECKSUM), _PAGE, kind, first + page * _PAGE)

    def _elements(self, at: int, count: int, kind: int, first: int) -> Iterator[tuple[int, Chunk]]:
        """Those that point into the file."""
        width = 8 + (self._size_bytes + 4) * kind
        end = len(self._content)
        for i in range(count):
            start = at + i * width
            if start + width > end:
                return
            address = self._number(start, 8)
            size = self._number(start + 8, self._size_bytes) if kind else 0
            if 0 < address < end and address != _NOWHERE and address + size <= end and (size or not kind):
                mask = self._number(start + 8 + self._size_bytes, 4) if kind else 0
                yield first + i, Chunk(address, size, not mask & 1)

    def _number(self, at: int, size: int) -> int:
        return int.from_bytes(self._content[at : at + size], "little")
