"""Leased tasks that nobody was dealt yet, in the order the queue gave them.

They lie in rows by width, so that a node takes the next that it can hold without a look at those it cannot; how much of
a block is taken is a number, so that a cut costs the same from a long one. Tasks that have failed on some node lie in
rows of their own, and wait for another one.
"""

from __future__ import annotations

from collections import deque
from typing import NamedTuple

from mpifarm.core.dispatcher.elsewhere import Ranks
from mpifarm.core.model import Block, JobId, LeaseId

_LOOK_AHEAD = 16
"""So many blocks of tasks that failed before are looked at for one that has not failed on this node."""


class Taker(NamedTuple):
    """Who takes: up to `cpus_max` cores for one task; `since`: what came into stock before has waited long enough for
    another node; `others`: besides this one there are so many."""

    rank: int
    cpus_max: int
    others: int = 0
    since: float = 0.0


class _Pile:
    """A block of which the first `taken` tasks are dealt. `turn`: its place in the order of all; `failed`: where its
    tasks have failed; `at`: when it came."""

    __slots__ = ("at", "block", "failed", "taken", "turn")

    def __init__(self, block: Block, turn: int, failed: Ranks, at: float) -> None:
        self.block = block
        self.taken = 0
        self.turn = turn
        self.failed = failed
        self.at = at

    def may_go_to(self, taker: Taker) -> bool:
        failed = self.failed
        return taker.rank not in failed or len(failed) > taker.others or self.at < taker.since


_Rows = dict[int, deque[_Pile]]


class Stock:
    """Blocks, and how many tasks they hold."""

    def __init__(self) -> None:
        self._rows: _Rows = {}
        self._again: _Rows = {}
        """By width; none is empty. The second: of tasks that failed somewhere."""
        self._turn = 0
        self.tasks = 0

    def __bool__(self) -> bool:
        return self.tasks > 0

    @property
    def narrowest(self) -> int:
        """Width of what needs least; there must be something."""
        return min([*self._rows, *self._again]) if self._again else min(self._rows)

    @property
    def choosy(self) -> bool:
        """Some of it may not go to every node that is wide enough."""
        return bool(self._again)

    def add(self, block: Block, failed: Ranks = (), at: float = 0.0) -> None:
        self._turn += 1
        rows = self._again if failed else self._rows
        rows.setdefault(block.needs.cpus, deque()).append(_Pile(block, self._turn, failed, at))
        self.tasks += len(block.tasks)

    def cut(self, cpus: int, taker: Taker) -> list[Block]:
        """Take off blocks worth `cpus` cores, of tasks that may go to the taker; at least one task if any may."""
        taken: list[Block] = []
        while cpus > 0:
            found = self._next(taker)
            if found is None:
                break
            rows, width, place = found
            row = rows[width]
            pile = row[place]
            first, there = pile.taken, len(pile.block.tasks)
            count = min(there - first, max(1, cpus // width))
            taken.append(pile.block.part(first, count))
            pile.taken = first + count
            if pile.taken == there:
                del row[place]
                if not row:
                    del rows[width]
            self.tasks -= count
            cpus -= count * width
        return taken

    def _next(self, taker: Taker) -> tuple[_Rows, int, int] | None:
        """Where the next task for this taker lies: rows, width, place in the row."""
        found, turn = None, self._turn + 1
        for width, row in self._rows.items():
            if width <= taker.cpus_max and row[0].turn < turn:
                found, turn = (self._rows, width, 0), row[0].turn
        for width, row in self._again.items():
            if width > taker.cpus_max:
                continue
            for place in range(min(len(row), _LOOK_AHEAD)):
                if row[place].may_go_to(taker):
                    if row[place].turn < turn:
                        found, turn = (self._again, width, place), row[place].turn
                    break
        return found

    def drop(self, lease: LeaseId) -> None:
        """Forget what belongs to this lease."""
        for block, failed, at in self._empty():
            if block.lease != lease:
                self.add(block, failed, at)

    def cancel(self, job: JobId, lo: int, hi: int) -> list[Block]:
        """Take off the tasks `[lo, hi)` of a job."""
        cancelled: list[Block] = []
        for block, failed, at in self._empty():
            if block.job != job or block.hi <= lo or hi <= block.lo:
                self.add(block, failed, at)
                continue
            first, last = max(lo, block.lo) - block.lo, min(hi, block.hi) - block.lo
            cancelled.append(block.part(first, last - first))
            for rest in (block.head(first), block.tail(last)):
                if rest.tasks:
                    self.add(rest, failed, at)
        return cancelled

    def take_wider(self, cpus: int) -> list[Block]:
        """Take off all blocks of tasks wider than `cpus`; 0 takes everything."""
        if all(width <= cpus for width in (*self._rows, *self._again)):
            return []
        wide: list[Block] = []
        for block, failed, at in self._empty():
            if block.needs.cpus > cpus:
                wide.append(block)
            else:
                self.add(block, failed, at)
        return wide

    def _empty(self) -> list[tuple[Block, Ranks, float]]:
        """Take off everything, in order."""
        rows = (*self._rows.values(), *self._again.values())
        piles = sorted((pile for row in rows for pile in row), key=lambda pile: pile.turn)
        self._rows, self._again, self.tasks = {}, {}, 0
        return [(pile.block.tail(pile.taken) if pile.taken else pile.block, pile.failed, pile.at) for pile in piles]
