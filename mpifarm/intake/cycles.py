"""Finds tasks that wait for each other in a ring: none of them could ever begin. Pure.

Tasks in a row that wait for the same are one row here, and what they wait for stays in ranges, so a file with ten
million tasks after a barrier is two rows. The search touches each row and each range about once, however wide the
ranges are: rows that are done with are skipped in one step (union-find).
"""

from __future__ import annotations

from array import array
from bisect import bisect_right
from collections.abc import Sequence

from mpifarm.core.model import Parent


class Waiting:
    """Which tasks wait for which, and in which line they stand. Tasks come in the order of their numbers, from 1."""

    def __init__(self) -> None:
        self._first, self._end, self._line = array("i"), array("i"), array("q")
        self._edges = array("q", [0])
        """Of row i: from `_edges[i]` to `_edges[i + 1]` in `_lo` and `_hi`."""
        self._lo, self._hi = array("i"), array("i")
        self._parents: Sequence[Parent] = ()

    def add(self, first: int, end: int, line: int, parents: Sequence[Parent]) -> None:
        """Tasks `[first, end)`, in lines from `line` on, wait for `parents`."""
        goes_on = bool(self._end) and self._end[-1] == first and line - first == self._line[-1] - self._first[-1]
        if goes_on and parents == self._parents:
            self._end[-1] = end
            return
        self._first.append(first)
        self._end.append(end)
        self._line.append(line)
        for parent in parents:
            self._lo.append(parent.lo)
            self._hi.append(parent.hi)
        self._edges.append(len(self._lo))
        self._parents = parents

    def line_of(self, task: int) -> int:
        """Of a task that waits for others."""
        row = bisect_right(self._end, task)
        return self._line[row] + task - self._first[row]

    def cycle(self) -> list[int]:
        """Tasks of which each waits for the next, and the last for the first; none when there are no such."""
        rows = len(self._first)
        following = array("i", range(rows + 1))
        """Leads from each row to the first one from there on that is not done with."""
        on_path = bytearray(rows)
        for root in range(rows):
            path: list[int] = []
            edges: list[int] = []
            row = root if following[root] == root else rows
            while True:
                if row < rows:
                    if on_path[row]:
                        return self._tasks(path, edges, path.index(row))
                    on_path[row] = True
                    path.append(row)
                    edges.append(self._edges[row])
                elif path and edges[-1] + 1 < self._edges[path[-1] + 1]:
                    edges[-1] += 1
                elif path:
                    edges.pop()
                    done = path.pop()
                    on_path[done] = False
                    following[done] = done + 1
                if not path:
                    break
                row = self._next(following, edges[-1])
        return []

    def _next(self, following: array[int], edge: int) -> int:
        """The first row not done with that holds tasks of this range; one past the last row when there is none."""
        row = bisect_right(self._end, self._lo[edge])
        while following[row] != row:
            following[row] = following[following[row]]
            row = following[row]
        rows = len(self._first)
        return row if row < rows and self._first[row] < self._hi[edge] else rows

    def _tasks(self, path: list[int], edges: list[int], start: int) -> list[int]:
        """A task of each row in the ring `path[start:]`: one that the row before it waits for."""
        rows, before = path[start:], [edges[-1], *edges[start:-1]]
        return [max(self._first[row], self._lo[edge]) for row, edge in zip(rows, before)]
