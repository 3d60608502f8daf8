"""The dispatcher's ledger: which leased task is where inside this run, and what is ready to be recorded.

A leased task is in stock, with a leader, or resolved; a lease whose tasks are all resolved is done. An outcome is
believed only if it comes for the attempt the ledger says is out: everything else is late and forgotten. Here too is
decided how a task is resolved: by an outcome, or by going back to run again (see `mpifarm.core.retries`), which
what is cancelled never does.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable, Iterator

from mpifarm.core.job import JobText, Policy
from mpifarm.core.messages import Durable
from mpifarm.core.model import Block, FailureClass, JobId, LeaseId, Span, State
from mpifarm.core.retries import failed_runs_again, lost_runs_again
from mpifarm.core.row import AttemptRow, unpack_rows
from mpifarm.core.verbs import Batch, CancelTasks, Outcome, Return

LeasedTask = tuple[int, int]
"""Lease and task."""
_Key = tuple[LeaseId, int]
LeaseRange = tuple[LeaseId, int, int]
"""Tasks `[lo, hi)` of a lease."""


class _Dealt:
    """One block in one leader's hands; shared by the entries of all its tasks."""

    __slots__ = ("block", "rank")

    def __init__(self, rank: int, block: Block) -> None:
        self.rank = rank
        self.block = block


class _Lease:
    """What is left of a lease."""

    __slots__ = ("block", "cancelled", "left", "unstarted")

    def __init__(self, block: Block) -> None:
        self.block = block
        self.left = len(block.tasks)
        """Tasks that are not resolved."""
        self.unstarted: list[Span] = []
        """They go back when the lease is done: until then its row answers for them, should this run die."""
        self.cancelled: list[tuple[int, int]] = []
        """Ranges, sorted and apart."""

    def cancel(self, lo: int, hi: int) -> None:
        ranges = sorted([*self.cancelled, (lo, hi)])
        self.cancelled = ranges[:1]
        for lo, hi in ranges[1:]:
            last_lo, last_hi = self.cancelled[-1]
            if lo <= last_hi:
                self.cancelled[-1] = last_lo, max(hi, last_hi)
            else:
                self.cancelled.append((lo, hi))

    def is_cancelled(self, task: int) -> bool:
        return bool(self.cancelled) and any(lo <= task < hi for lo, hi in self.cancelled)


def _split(span: Span, ranges: Iterable[tuple[int, int]]) -> Iterator[tuple[Span, bool]]:
    """The span in pieces, and whether each lies in one of the sorted ranges."""
    lo = span.lo
    for range_lo, range_hi in ranges:
        cut_lo, cut_hi = max(lo, range_lo), min(span.hi, range_hi)
        if cut_lo >= cut_hi:
            continue
        if lo < cut_lo:
            yield span._replace(lo=lo, hi=cut_lo), False
        yield span._replace(lo=cut_lo, hi=cut_hi), True
        lo = cut_hi
    if lo < span.hi:
        yield span._replace(lo=lo), False


class Ledger:
    """Every leased task of the run, exactly once."""

    def __init__(self) -> None:
        self._out: dict[_Key, _Dealt] = {}
        self._leases: dict[LeaseId, _Lease] = {}
        self._policies: dict[JobId, Policy] = {}
        self._batch = Batch()
        self._returned: list[tuple[Return, Outcome | None]] = []
        """Unrecorded; beside each the outcome it becomes when it is cancelled first (None: it never began)."""
        self.ended: Counter[State] = Counter()
        """Tasks by how they ended here; RETURNED: cut short."""
        self.retried = 0
        """Failed attempts that run again."""
        self.unbegun = 0
        """Tasks that went back without having been started."""
        self.begun = 0
        """Attempts that ended, however, and those of refused leases, which may have begun."""
        self.busy_s = 0.0
        """Core seconds of attempts that ended."""

    @property
    def tasks_out(self) -> int:
        """Tasks in leaders' hands."""
        return len(self._out)

    @property
    def leases(self) -> int:
        return len(self._leases)

    @property
    def unrecorded(self) -> int:
        """Outcomes and returns waiting for `take`."""
        return len(self._batch.outcomes) + len(self._returned) + len(self._batch.done)

    def take(self) -> Batch:
        batch, self._batch = self._batch, Batch()
        batch.returned.extend(part for part, _ in self._returned)
        self._returned = []
        return batch

    def learn(self, jobs: Iterable[JobText]) -> None:
        """What is to be done with failures of these jobs."""
        self._policies.update((job.id, job.policy) for job in jobs)

    def lease(self, block: Block) -> None:
        """A block was leased; its tasks are in stock."""
        assert block.lease not in self._leases
        self._leases[block.lease] = _Lease(block)

    def deal(self, rank: int, block: Block) -> None:
        """Tasks went from stock to a leader."""
        dealt = _Dealt(rank, block)
        lease = block.lease
        self._out.update(((lease, task), dealt) for task in range(block.lo, block.hi))

    # --- ends ------------------------------------------------------------------------------------------------

    def end(self, durable: Durable) -> int:
        """Outcomes whose bytes are on disk. Returns how many were believed."""
        believed = 0
        for file_row, row in enumerate(unpack_rows(durable.rows), durable.first_row):
            dealt = self._out.get((row.lease, row.task))
            if dealt is None or dealt.block.attempt != row.attempt:
                continue
            believed += 1
            del self._out[row.lease, row.task]
            self._believe(dealt.block, (row, file_row, durable.tails.get((row.lease, row.task))))
        return believed

    def _believe(self, block: Block, outcome: Outcome) -> None:
        row = outcome[0]
        state = State(row.state)
        self.begun += 1
        self.busy_s += (row.ended - row.started) * row.cpus
        if state is State.SUCCEEDED or not self._returned_instead(block, state, outcome):
            self.ended[state] += 1
            self._batch.outcomes.append(outcome)
        self._resolve(row.lease, 1)

    def _returned_instead(self, block: Block, state: State, outcome: Outcome) -> bool:
        """Whether the task has not ended with this attempt."""
        row = outcome[0]
        cancelled = self._leases[row.lease].is_cancelled(row.task)
        if state is State.RETURNED:
            self._run_again(Return(_again(block, row.task), FailureClass(row.failure)), _cancelled(outcome), cancelled)
            return True
        if state is State.FAILED and not cancelled and self._runs_again(block, row):
            self.retried += 1
            span = _again(block, row.task, fails=1)
            part = Return(span, FailureClass(row.failure), state, row.exit_code, row.signal)
            self._returned.append((part, outcome))
            return True
        return False

    def _runs_again(self, block: Block, row: AttemptRow) -> bool:
        policy = self._policies.get(block.job, Policy())
        return failed_runs_again(policy, FailureClass(row.failure), row.exit_code, row.signal, block.fails)

    def _run_again(self, part: Return, if_cancelled: Outcome, cancelled: bool) -> None:
        """An attempt that did not fail was cut short."""
        if cancelled:
            self.ended[State.CANCELLED] += 1
            self._batch.outcomes.append(if_cancelled)
        else:
            self.ended[State.RETURNED] += 1
            self._returned.append((part, if_cancelled))

    def unstarted(self, span: Span) -> None:
        """Tasks that a leader gives back without having started them."""
        for task in range(span.lo, span.hi):
            if self._out.pop((span.lease, task), None) is None:
                return  # the lease was refused meanwhile
        self.put_back(span)

    def put_back(self, span: Span) -> None:
        """Never-started tasks out of stock or a leader's hands."""
        lease = self._leases.get(span.lease)
        if lease is not None:
            self._set_aside(lease, span)
            self._resolve(span.lease, span.hi - span.lo)

    def _set_aside(self, lease: _Lease, span: Span) -> None:
        for piece, cancelled in _split(span, lease.cancelled):
            if cancelled:
                self.ended[State.CANCELLED] += piece.hi - piece.lo
                self._returned.append((Return(piece, FailureClass.CANCELLED), None))
            else:
                lease.unstarted.append(piece)

    def holds(self, rank: int) -> bool:
        return any(dealt.rank == rank for dealt in self._out.values())

    def first_dealt(self, rank: int, cpus: int) -> set[LeasedTask]:
        """Of what a leader holds, as much as so many cores run at once: a node begins in the order it was dealt."""
        first: set[LeasedTask] = set()
        for key, dealt in self._out.items():
            if cpus <= 0:
                break
            if dealt.rank == rank:
                first.add(key)
                cpus -= dealt.block.needs.cpus
        return first

    def lose(self, rank: int, node: int, begun: Collection[LeasedTask], now: float) -> int:
        """A leader is gone: whatever it held runs again as a new attempt, unless it was lost too often. Returns the
        number of tasks. `node`: its number; `begun`: what ran there, and may have been the cause; `now`: Unix seconds.
        """
        lost = [(key, dealt.block) for key, dealt in self._out.items() if dealt.rank == rank]
        for (lease, task), block in lost:
            del self._out[lease, task]
            self.begun += 1
            row = _lost_row(block, task, node, now)
            outcome: Outcome = (row, None, None)
            cancelled = self._leases[lease].is_cancelled(task)
            crashes = 1 if (lease, task) in begun else 0
            policy = self._policies.get(block.job, Policy())
            if cancelled or not crashes or lost_runs_again(policy, block.crashes + crashes):
                part = Return(_again(block, task, crashes=crashes), FailureClass.LOST)
                self._run_again(part, _cancelled(outcome), cancelled)
            else:
                self.ended[State.FAILED] += 1
                self._batch.outcomes.append(outcome)
            self._resolve(lease, 1)
        return len(lost)

    def refuse(self, lease: LeaseId) -> None:
        """The queue took this lease back (we were taken for dead): nothing of it is ours any more."""
        if self._leases.pop(lease, None) is not None:
            for key in [key for key in self._out if key[0] == lease]:
                del self._out[key]
                self.begun += 1  # for all we know: its end, if it comes, will not be believed

    def _resolve(self, number: LeaseId, tasks: int) -> None:
        lease = self._leases[number]
        lease.left -= tasks
        assert lease.left >= 0
        if not lease.left:
            del self._leases[number]
            self._batch.done.append(number)
            self.unbegun += sum(span.hi - span.lo for span in lease.unstarted)
            self._returned.extend((Return(span, FailureClass.NONE), None) for span in lease.unstarted)

    # --- cancel ----------------------------------------------------------------------------------------------

    def cancel(self, order: CancelTasks) -> dict[int, list[LeaseRange]]:
        """Nothing of this runs again. Returns what leaders hold of it, by rank. The cost grows with what the run holds,
        not with what the order names; a second time changes nothing."""
        held: dict[int, list[LeaseRange]] = {}
        for number, lease in self._leases.items():
            lo, hi = max(order.lo, lease.block.lo), min(order.hi, lease.block.hi)
            if lease.block.job != order.job or lo >= hi:
                continue
            lease.cancel(lo, hi)
            spans, lease.unstarted = lease.unstarted, []
            for span in spans:
                self._set_aside(lease, span)
            for task in range(lo, hi):
                dealt = self._out.get((number, task))
                if dealt is not None:
                    ranges = held.setdefault(dealt.rank, [])
                    if ranges and ranges[-1][0] == number and ranges[-1][2] == task:
                        ranges[-1] = number, ranges[-1][1], task + 1
                    else:
                        ranges.append((number, task, task + 1))
        self._cancel_unrecorded(order)
        return held

    def _cancel_unrecorded(self, order: CancelTasks) -> None:
        """What was to run again and is not recorded yet."""
        returned, self._returned = self._returned, []
        for part, outcome in returned:
            if part.span.job != order.job or part.failure is FailureClass.CANCELLED:
                self._returned.append((part, outcome))
                continue
            for span, cancelled in _split(part.span, [(order.lo, order.hi)]):
                if not cancelled:
                    self._returned.append((part._replace(span=span), outcome))
                elif outcome is None:
                    self.ended[State.CANCELLED] += span.hi - span.lo
                    self._returned.append((Return(span, FailureClass.CANCELLED), None))
                else:
                    if part.state is State.RETURNED:
                        self.ended[State.RETURNED] -= 1
                    else:
                        self.retried -= 1
                    self.ended[State(outcome[0].state)] += 1
                    self._batch.outcomes.append(outcome)


def _again(block: Block, task: int, fails: int = 0, crashes: int = 0) -> Span:
    """The next attempt of a task of the block, with what is charged to it."""
    return Span(block.lease, block.job, task, task + 1, block.attempt + 1, block.fails + fails, block.crashes + crashes)


def _cancelled(outcome: Outcome) -> Outcome:
    row, file_row, _ = outcome
    return row._replace(state=int(State.CANCELLED), failure=int(FailureClass.CANCELLED)), file_row, None


def _lost_row(block: Block, task: int, node: int, now: float) -> AttemptRow:
    """Of an attempt that left none: lost with its node for the last time it may be."""
    return AttemptRow(
        block.lease, block.job, task, block.attempt, int(State.FAILED), int(FailureClass.LOST), exit_code=-1, signal=0,
        node=node, slot=0, cpus=block.needs.cpus, started=now, ended=now, user_s=0.0, system_s=0.0, max_rss_kib=0,
        read_bytes=0, write_bytes=0, stdout_bytes=0, stderr_bytes=0, stdout_crc32=0, stderr_crc32=0, extent_lo=0,
        extent_hi=0,
    )  # fmt: skip
