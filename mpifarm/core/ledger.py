"""The dispatcher's ledger: which leased task is where inside this run, and what is ready to be recorded.

A leased task is in stock, with a leader, or resolved; a lease whose tasks are all resolved is done. An outcome is
believed only if it comes for the attempt the ledger says is out: everything else is late and forgotten.
"""

from __future__ import annotations

from collections import Counter

from mpifarm.core.messages import Durable
from mpifarm.core.model import Block, FailureClass, LeaseId, Span, State
from mpifarm.core.row import AttemptRow, unpack_rows
from mpifarm.core.verbs import Batch, Return

_Key = tuple[LeaseId, int]


class _Dealt:
    """One block in one leader's hands; shared by the entries of all its tasks."""

    __slots__ = ("block", "rank")

    def __init__(self, rank: int, block: Block) -> None:
        self.rank = rank
        self.block = block


class Ledger:
    """Every leased task of the run, exactly once."""

    def __init__(self) -> None:
        self._out: dict[_Key, _Dealt] = {}
        self._unresolved: dict[LeaseId, int] = {}
        self._unstarted: dict[LeaseId, list[Span]] = {}  # go back when their lease is done
        self._batch = Batch()
        self.ended: Counter[State] = Counter()
        self.busy_s = 0.0
        """Core seconds of attempts that ended."""

    @property
    def tasks_out(self) -> int:
        """Tasks in leaders' hands."""
        return len(self._out)

    @property
    def leases(self) -> int:
        return len(self._unresolved)

    @property
    def unrecorded(self) -> int:
        """Outcomes and returns waiting for `take`."""
        return len(self._batch.outcomes) + len(self._batch.returned) + len(self._batch.done)

    def take(self) -> Batch:
        batch, self._batch = self._batch, Batch()
        return batch

    def lease(self, block: Block) -> None:
        """A block was leased; its tasks are in stock."""
        assert block.lease not in self._unresolved
        self._unresolved[block.lease] = len(block.tasks)

    def knows(self, lease: LeaseId) -> bool:
        return lease in self._unresolved

    def deal(self, rank: int, block: Block) -> None:
        """Tasks went from stock to a leader."""
        dealt = _Dealt(rank, block)
        lease = block.lease
        self._out.update(((lease, task), dealt) for task in range(block.lo, block.hi))

    def end(self, durable: Durable) -> int:
        """Outcomes whose bytes are on disk. Returns how many were believed."""
        believed = 0
        for file_row, row in enumerate(unpack_rows(durable.rows), durable.first_row):
            dealt = self._out.get((row.lease, row.task))
            if dealt is None or dealt.block.attempt != row.attempt:
                continue
            believed += 1
            del self._out[row.lease, row.task]
            self._believe(row, file_row, durable.tails.get((row.lease, row.task)))
        return believed

    def _believe(self, row: AttemptRow, file_row: int, tail: bytes | None) -> None:
        state = State(row.state)
        self.ended[state] += 1
        self.busy_s += (row.ended - row.started) * row.cpus
        if state.final:
            self._batch.outcomes.append((row, file_row, tail))
        else:
            span = Span(row.lease, row.job, row.task, row.task + 1, row.attempt + 1)
            self._batch.returned.append(Return(span, FailureClass(row.failure)))
        self._resolve(row.lease, 1)

    def unstarted(self, span: Span) -> None:
        """Tasks that a leader gives back without having started them."""
        for task in range(span.lo, span.hi):
            if self._out.pop((span.lease, task), None) is None:
                return  # the lease was refused meanwhile
        self.put_back(span)

    def put_back(self, span: Span) -> None:
        """Never-started tasks out of stock or a leader's hands. They return to the queue when their lease is done:
        until then the lease row answers for them, should this run die."""
        if span.lease in self._unresolved:
            self._unstarted.setdefault(span.lease, []).append(span)
            self._resolve(span.lease, span.hi - span.lo)

    def holds(self, rank: int) -> bool:
        return any(dealt.rank == rank for dealt in self._out.values())

    def lose(self, rank: int) -> int:
        """A leader is gone: whatever it held runs again as a new attempt. Returns the number of tasks."""
        lost = [(key, dealt) for key, dealt in self._out.items() if dealt.rank == rank]
        for (lease, task), dealt in lost:
            del self._out[lease, task]
            span = Span(lease, dealt.block.job, task, task + 1, dealt.block.attempt + 1)
            self._batch.returned.append(Return(span, FailureClass.LOST))
            self._resolve(lease, 1)
        return len(lost)

    def refuse(self, lease: LeaseId) -> None:
        """The queue took this lease back (we were taken for dead): nothing of it is ours any more."""
        if self._unresolved.pop(lease, None) is not None:
            self._unstarted.pop(lease, None)
            for key in [key for key in self._out if key[0] == lease]:
                del self._out[key]

    def _resolve(self, lease: LeaseId, tasks: int) -> None:
        left = self._unresolved[lease] - tasks
        assert left >= 0
        if left:
            self._unresolved[lease] = left
            return
        del self._unresolved[lease]
        self._batch.done.append(lease)
        spans = self._unstarted.pop(lease, ())
        self._batch.returned.extend(Return(span, FailureClass.NONE) for span in spans)
