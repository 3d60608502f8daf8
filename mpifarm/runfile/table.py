"""One of the tables of an open run file, read by whole chunks and ahead."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import h5py
import numpy as np

from mpifarm.runfile.format import FAILURES
from mpifarm.startup.limited import reading

Rows = np.ndarray[Any, Any]


class Table:
    """Rows of a dataset, read ahead: who asks for row 17 will ask for row 18. `count` is as of the last `refresh`."""

    def __init__(self, path: Path, dataset: h5py.Dataset, first: int = 0) -> None:
        """`first`: the rows before it are in the file that this one goes on from."""
        self._path = path
        self.first = first
        self._dataset = dataset
        self._type = dataset.id.get_type()  # h5py would build it anew at each read, at three times the cost
        self.dtype = dataset.dtype
        self._ahead: int = dataset.chunks[0]
        self._lo, self._rows = 0, self._fetch(0, 0)
        self._failed: tuple[int, int, Exception] | None = None
        self.count = self._used()

    def refresh(self) -> None:
        self._failed = None
        with reading(self._path):
            self._dataset.refresh()
        self._lo, self._rows = 0, self._fetch(0, 0)
        self.count = self._used()

    def read(self, lo: int, hi: int) -> Rows:
        """Rows [lo, hi), as far as there are any."""
        hi = max(lo, min(hi, self.count))
        if lo == hi:
            return self._rows[:0]
        if not self._lo <= lo <= hi <= self._lo + len(self._rows):
            whole = lo - lo % self._ahead  # by whole chunks, so that a damaged one costs no row before it
            end = min(max(hi, whole + self._ahead), self.count)
            if self._failed is not None and self._failed[:2] == (whole, end):
                raise self._failed[2]  # each row of it would wait for that again
            try:
                self._rows = self._fetch(whole, end)
            except FAILURES as error:
                self._failed = whole, end, error
                raise
            self._lo = whole
        return self._rows[lo - self._lo : hi - self._lo]

    def _fetch(self, lo: int, hi: int) -> Rows:
        rows = np.zeros(hi - lo, self.dtype)
        if len(rows):
            with reading(self._path):
                space = self._dataset.id.get_space()
                space.select_hyperslab((lo,), (len(rows),))
                self._dataset.id.read(h5py.h5s.create_simple((len(rows),)), space, rows, self._type)
        rows.setflags(write=False)
        return rows

    def _used(self) -> int:
        """Rows up to the last that holds something: a writer that ran out of space may leave blank ones."""
        hi = len(self._dataset)
        while hi > self.first:
            lo = max(0, hi - self._ahead)
            used = np.flatnonzero(self._fetch(lo, hi)["lease"])
            if used.size:
                return max(self.first, lo + int(used[-1]) + 1)
            hi = lo
        return self.first
