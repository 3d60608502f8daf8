"""Leased tasks that nobody was dealt yet, in the order the queue gave them.

They lie in rows by width, so that a node takes the next that it can hold without a look at those it cannot; how much of
a block is taken is a number, so that a cut costs the same from a long one.
"""

from __future__ import annotations

from collections import deque

from mpifarm.core.model import Block, JobId, LeaseId


class _Pile:
    """A block of which the first `taken` tasks are dealt. `turn`: its place in the order of all."""

    __slots__ = ("block", "taken", "turn")

    def __init__(self, block: Block, turn: int) -> None:
        self.block = block
        self.taken = 0
        self.turn = turn


class Stock:
    """Blocks, and how many tasks they hold."""

    def __init__(self) -> None:
        self._rows: dict[int, deque[_Pile]] = {}
        """By width; none is empty."""
        self._turn = 0
        self.tasks = 0

    def __bool__(self) -> bool:
        return self.tasks > 0

    @property
    def narrowest(self) -> int:
        """Width of what needs least; there must be something."""
        return min(self._rows)

    def add(self, block: Block) -> None:
        self._turn += 1
        self._rows.setdefault(block.needs.cpus, deque()).append(_Pile(block, self._turn))
        self.tasks += len(block.tasks)

    def cut(self, cpus: int, cpus_max: int) -> list[Block]:
        """Take off blocks worth `cpus` cores, of tasks no wider than `cpus_max`; at least one task if any fits."""
        taken: list[Block] = []
        while cpus > 0:
            width = self._next(cpus_max)
            if not width:
                break
            row = self._rows[width]
            pile = row[0]
            first, there = pile.taken, len(pile.block.tasks)
            count = min(there - first, max(1, cpus // width))
            taken.append(pile.block.part(first, count))
            pile.taken = first + count
            if pile.taken == there:
                row.popleft()
                if not row:
                    del self._rows[width]
            self.tasks -= count
            cpus -= count * width
        return taken

    def _next(self, cpus_max: int) -> int:
        """Width of the next task no wider than that; 0: there is none."""
        found, turn = 0, self._turn + 1
        for width, row in self._rows.items():
            if width <= cpus_max and row[0].turn < turn:
                found, turn = width, row[0].turn
        return found

    def drop(self, lease: LeaseId) -> None:
        """Forget what belongs to this lease."""
        for block in self._empty():
            if block.lease != lease:
                self.add(block)

    def cancel(self, job: JobId, lo: int, hi: int) -> list[Block]:
        """Take off the tasks `[lo, hi)` of a job."""
        cancelled: list[Block] = []
        for block in self._empty():
            if block.job != job or block.hi <= lo or hi <= block.lo:
                self.add(block)
                continue
            first, last = max(lo, block.lo) - block.lo, min(hi, block.hi) - block.lo
            cancelled.append(block.part(first, last - first))
            for rest in (block.head(first), block.tail(last)):
                if rest.tasks:
                    self.add(rest)
        return cancelled

    def take_wider(self, cpus: int) -> list[Block]:
        """Take off all blocks of tasks wider than `cpus`; 0 takes everything."""
        if all(width <= cpus for width in self._rows):
            return []
        wide: list[Block] = []
        for block in self._empty():
            if block.needs.cpus > cpus:
                wide.append(block)
            else:
                self.add(block)
        return wide

    def _empty(self) -> list[Block]:
        """Take off everything, in order."""
        piles = sorted((pile for row in self._rows.values() for pile in row), key=lambda pile: pile.turn)
        self._rows, self.tasks = {}, 0
        return [pile.block.tail(pile.taken) if pile.taken else pile.block for pile in piles]
