"""What a node was dealt and has not ended: known to its leader, so that a lost launcher is not blamed on what waited.

Pure. A number is kept for every task, since any may end before any other.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable

from mpifarm.core.model import Block, LeaseId, Span
from mpifarm.core.ranges import runs_of


class Hand:
    """Task numbers by lease."""

    def __init__(self) -> None:
        self._leases: dict[LeaseId, tuple[Block, set[int]]] = {}
        """One of the blocks of each, for what they have in common."""

    def take(self, blocks: Iterable[Block]) -> None:
        """These were dealt."""
        for block in blocks:
            self._leases.setdefault(block.lease, (block, set()))[1].update(range(block.lo, block.hi))

    def end(self, lease: LeaseId, task: int) -> None:
        """It has ended."""
        self._remove(lease, (task,))

    def width_of(self, lease: LeaseId) -> int:
        """Cores of each task of a lease of which it holds any."""
        return self._leases[lease][0].needs.cpus if lease in self._leases else 1

    def give_back(self, spans: Iterable[Span]) -> None:
        """These will not be started."""
        for span in spans:
            self._remove(span.lease, range(span.lo, span.hi))

    def _remove(self, lease: LeaseId, tasks: Iterable[int]) -> None:
        held = self._leases.get(lease)
        if held is not None:
            held[1].difference_update(tasks)
            if not held[1]:
                del self._leases[lease]

    def unbegun(self, begun: Collection[tuple[int, int]]) -> tuple[Span, ...]:
        """Take out what is not among these (lease, task)."""
        spans: list[Span] = []
        for lease, (b, tasks) in self._leases.items():
            waiting = sorted(tasks.difference(task for its, task in begun if its == lease))
            spans += (Span(lease, b.job, lo, hi, b.attempt, b.fails, b.crashes) for lo, hi in runs_of(waiting))
        self.give_back(spans)
        return tuple(spans)
