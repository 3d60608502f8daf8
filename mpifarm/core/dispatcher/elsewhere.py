"""Where tasks that run again have failed, so that they do elsewhere, where there is another node. Pure."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import groupby

from mpifarm.core.model import Block, JobId

_TASKS_MAX = 100_000
"""Remembered at a time; what fails besides may run again on the same node."""

Ranks = tuple[int, ...]


class Elsewhere:
    """The leaders on whose nodes each task failed in this run."""

    def __init__(self) -> None:
        self._failed: dict[tuple[JobId, int], Ranks] = {}

    def failed(self, job: JobId, task: int, rank: int) -> None:
        """It runs again."""
        ranks = self._failed.get((job, task), ())
        if rank not in ranks and (ranks or len(self._failed) < _TASKS_MAX):
            self._failed[job, task] = (*ranks, rank)

    def ended(self, job: JobId, task: int) -> None:
        """It does not."""
        if self._failed:
            self._failed.pop((job, task), None)

    def pieces(self, block: Block) -> Iterator[tuple[Block, Ranks]]:
        """The block in pieces that failed on the same nodes, and on which."""
        if not block.fails or not self._failed:
            yield block, ()
            return
        first = 0
        tasks = (self._failed.get((block.job, task), ()) for task in range(block.lo, block.hi))
        for ranks, same in groupby(tasks):
            count = sum(1 for _ in same)
            yield block.part(first, count), ranks
            first += count
