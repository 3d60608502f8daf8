"""The algebra of half-open ranges `[lo, hi)`, as plain pairs: mostly of task numbers. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import groupby
from typing import TypeVar

_Number = TypeVar("_Number", int, float)


def disjoint(ranges: Iterable[tuple[_Number, _Number]]) -> list[tuple[_Number, _Number]]:
    """Sorted, with those joined that overlap or touch: each number is in one of them."""
    found: list[tuple[_Number, _Number]] = []
    for lo, hi in sorted(ranges):
        if found and lo <= found[-1][1]:
            found[-1] = (found[-1][0], max(hi, found[-1][1]))
        else:
            found.append((lo, hi))
    return found


def runs_of(numbers: Iterable[int]) -> list[tuple[int, int]]:
    """Sorted numbers as ranges."""
    ranges = []
    for _, group in groupby(enumerate(numbers), key=lambda pair: pair[1] - pair[0]):
        members = [number for _, number in group]
        ranges.append((members[0], members[-1] + 1))
    return ranges


def extend(ranges: list[tuple[int, int]], number: int) -> None:
    """Add a number to ranges that grow upwards: to the last of them when that ends there."""
    if ranges and ranges[-1][1] == number:
        ranges[-1] = (ranges[-1][0], number + 1)
    else:
        ranges.append((number, number + 1))


def pieces(lo: int, hi: int, ranges: Iterable[tuple[int, int]]) -> Iterator[tuple[int, int, bool]]:
    """`[lo, hi)` cut at sorted ranges, in order, and whether each piece lies in one of them."""
    for start, end in ranges:
        start, end = max(lo, start), min(hi, end)
        if start < end:
            if lo < start:
                yield lo, start, False
            yield start, end, True
            lo = end
    if lo < hi:
        yield lo, hi, False
