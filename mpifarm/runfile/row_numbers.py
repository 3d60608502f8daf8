"""Which rows of a table are taken over into another, at a bit each, and what their numbers are there."""

from __future__ import annotations

from typing import Any

import numpy as np

Bools = np.ndarray[Any, np.dtype[np.bool_]]
Ints = np.ndarray[Any, np.dtype[np.int64]]

_ONES = np.array([bin(byte).count("1") for byte in range(256)], np.uint8)


class Taken:
    """A set of row numbers below `size`. Mark them first; `freeze` counts, then `rank` answers."""

    def __init__(self, size: int) -> None:
        self._bits = np.zeros((size >> 3) + 1, np.uint8)
        self._before: Ints = np.zeros(0, np.int64)
        self.count = 0
        """As of `freeze`."""

    def mark(self, rows: Ints) -> None:
        np.bitwise_or.at(self._bits, rows >> 3, (1 << (rows & 7)).astype(np.uint8))

    def has(self, rows: Ints) -> Bools:
        taken: Bools = (self._bits[rows >> 3] >> (rows & 7).astype(np.uint8)) & 1 != 0
        return taken

    def freeze(self) -> None:
        sums = np.cumsum(_ONES[self._bits], dtype=np.int64)
        self._before = np.concatenate(([0], sums[:-1]))
        self.count = int(sums[-1])

    def rank(self, rows: Ints) -> Ints:
        """How many marked rows come before each."""
        below = self._bits[rows >> 3] & ((1 << (rows & 7)) - 1).astype(np.uint8)
        ranks: Ints = self._before[rows >> 3] + _ONES[below]
        return ranks
