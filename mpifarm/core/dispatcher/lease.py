"""One lease of a run, and what of it is in whose hands: the pages of the ledger. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from mpifarm.core.model import Block, Span
from mpifarm.core.ranges import disjoint, pieces


class Dealt:
    """One block in one leader's hands; shared by the entries of all its tasks."""

    __slots__ = ("block", "left", "rank")

    def __init__(self, rank: int, block: Block) -> None:
        self.rank = rank
        self.block = block
        self.left = len(block.tasks)
        """Tasks that are still in these hands."""


class Lease:
    """What is left of a lease."""

    __slots__ = ("block", "cancelled", "left", "out", "unstarted")

    def __init__(self, block: Block) -> None:
        self.block = block
        self.left = len(block.tasks)
        """Tasks that are not resolved."""
        self.out: dict[int, Dealt] = {}
        """Of each task in a leader's hands, with what it was dealt."""
        self.unstarted: list[Span] = []
        """They go back when the lease is done: until then its row answers for them, should this run die."""
        self.cancelled: list[tuple[int, int]] = []
        """Ranges, sorted and apart."""

    def cancel(self, lo: int, hi: int) -> None:
        self.cancelled = disjoint([*self.cancelled, (lo, hi)])

    def is_cancelled(self, task: int) -> bool:
        return bool(self.cancelled) and any(lo <= task < hi for lo, hi in self.cancelled)


def split(span: Span, ranges: Iterable[tuple[int, int]]) -> Iterator[tuple[Span, bool]]:
    """The span in pieces, and whether each lies in one of the sorted ranges."""
    for lo, hi, inside in pieces(span.lo, span.hi, ranges):
        yield span._replace(lo=lo, hi=hi), inside
