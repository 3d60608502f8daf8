"""Leased tasks that nobody was dealt yet, in the order the queue gave them."""

from __future__ import annotations

from collections import deque

from mpifarm.core.model import Block, JobId, LeaseId


class Stock:
    """A deque of blocks that knows how many tasks it holds."""

    def __init__(self) -> None:
        self._blocks: deque[Block] = deque()
        self.tasks = 0

    def __bool__(self) -> bool:
        return bool(self._blocks)

    def add(self, block: Block) -> None:
        self._blocks.append(block)
        self.tasks += len(block.tasks)

    def cut(self, cpus: int, cpus_max: int) -> list[Block]:
        """Take off blocks worth `cpus` cores, of tasks no wider than `cpus_max`; at least one task if any fits."""
        taken: list[Block] = []
        wide: list[Block] = []
        while self._blocks and cpus > 0:
            block = self._blocks.popleft()
            width = block.needs.cpus
            if width > cpus_max:
                wide.append(block)
                continue
            count = min(len(block.tasks), max(1, cpus // width))
            if count < len(block.tasks):
                self._blocks.appendleft(block.tail(count))
                block = block.head(count)
            taken.append(block)
            self.tasks -= count
            cpus -= count * width
        self._blocks.extendleft(reversed(wide))
        return taken

    def drop(self, lease: LeaseId) -> None:
        """Forget what belongs to this lease."""
        self._blocks = deque(block for block in self._blocks if block.lease != lease)
        self.tasks = sum(len(block.tasks) for block in self._blocks)

    def cancel(self, job: JobId, lo: int, hi: int) -> list[Block]:
        """Take off the tasks `[lo, hi)` of a job."""
        cancelled: list[Block] = []
        kept: deque[Block] = deque()
        for block in self._blocks:
            if block.job != job or block.hi <= lo or hi <= block.lo:
                kept.append(block)
                continue
            first, last = max(lo, block.lo) - block.lo, min(hi, block.hi) - block.lo
            cancelled.append(block.head(last).tail(first))
            kept.extend(part for part in (block.head(first), block.tail(last)) if part.tasks)
        self._blocks = kept
        self.tasks -= sum(len(block.tasks) for block in cancelled)
        return cancelled

    def take_wider(self, cpus: int) -> list[Block]:
        """Take off all blocks of tasks wider than `cpus`; 0 takes everything."""
        wide = [block for block in self._blocks if block.needs.cpus > cpus]
        self._blocks = deque(block for block in self._blocks if block.needs.cpus <= cpus)
        self.tasks -= sum(len(block.tasks) for block in wide)
        return wide
