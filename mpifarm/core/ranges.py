"""Half-open ranges `[lo, hi)` of task numbers, as plain pairs. Pure."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import groupby


def disjoint(ranges: Iterable[tuple[int, int]]) -> list[tuple[int, int]]:
    """Sorted, with those joined that overlap or touch: each number is in one of them."""
    found: list[tuple[int, int]] = []
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
