"""The dispatcher's ledger: which leased task is where inside this run, and what is ready to be recorded.

A leased task is in stock, with a leader, or resolved; a lease whose tasks are all resolved is done. An outcome is
believed only if it comes for the attempt the ledger says is out: everything else is late and forgotten. Here too is
decided how a task is resolved: by an outcome, or by going back to run again (see `mpifarm.core.job.retries`), which
what is cancelled never does.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable, Iterator

from mpifarm.core.dispatcher.elsewhere import Elsewhere
from mpifarm.core.dispatcher.lease import Dealt, Lease, split
from mpifarm.core.dispatcher.suspicion import Suspicion
from mpifarm.core.job.policy import JobText, Policy
from mpifarm.core.job.retries import failed_runs_again, lost_runs_again
from mpifarm.core.model import Block, FailureClass, JobId, LeaseId, Span, State
from mpifarm.core.protocol.messages import Durable
from mpifarm.core.protocol.verbs import Batch, CancelTasks, Outcome, Return
from mpifarm.core.row import AttemptRow, unpack_rows

_SUCCEEDED = int(State.SUCCEEDED)

LeasedTask = tuple[int, int]
"""Lease and task."""
LeaseRange = tuple[LeaseId, int, int]
"""Tasks `[lo, hi)` of a lease."""


class Ledger:
    """Every leased task of the run, exactly once."""

    def __init__(self, suspicion: Suspicion) -> None:
        self.suspicion = suspicion
        self.elsewhere = Elsewhere()
        self._leases: dict[LeaseId, Lease] = {}
        self._hands: dict[int, dict[Dealt, None]] = {}
        """By rank, in the order in which they were dealt; what is all resolved is gone."""
        self.tasks_out = 0
        """Tasks in leaders' hands."""
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
        self._leases[block.lease] = Lease(block)

    def deal(self, rank: int, block: Block) -> None:
        """Tasks went from stock to a leader."""
        dealt = Dealt(rank, block)
        self._hands.setdefault(rank, {})[dealt] = None
        self._leases[block.lease].out.update(dict.fromkeys(range(block.lo, block.hi), dealt))
        self.tasks_out += dealt.left

    def is_out(self, lease: LeaseId, task: int) -> bool:
        """Whether a leader has it."""
        return lease in self._leases and task in self._leases[lease].out

    def _take_back(self, lease: Lease, task: int) -> Block | None:
        """Out of the hands of its leader: the block it was dealt with. None: no leader has it."""
        dealt = lease.out.pop(task, None)
        if dealt is None:
            return None
        self.tasks_out -= 1
        dealt.left -= 1
        if not dealt.left:
            hand = self._hands[dealt.rank]
            del hand[dealt]
            if not hand:
                del self._hands[dealt.rank]
        return dealt.block

    # --- ends ------------------------------------------------------------------------------------------------

    def end(self, durable: Durable) -> int:
        """Outcomes whose bytes are on disk. Returns how many were believed."""
        leases, tails = self._leases, durable.tails
        begun = self.begun
        for file_row, row in enumerate(unpack_rows(durable.rows), durable.first_row):
            lease = leases.get(row.lease)
            dealt = lease.out.get(row.task) if lease else None
            if lease is None or dealt is None or dealt.block.attempt != row.attempt:
                continue
            self._take_back(lease, row.task)
            self._believe(lease, dealt, (row, file_row, tails.get((row.lease, row.task)) if tails else None))
        return self.begun - begun

    def _believe(self, lease: Lease, dealt: Dealt, outcome: Outcome) -> None:
        row = outcome[0]
        self.begun += 1
        self.busy_s += (row.ended - row.started) * row.cpus
        if row.state == _SUCCEEDED:
            self.suspicion.succeeded(dealt.rank, row.job)
        elif row.state == State.FAILED:
            self.suspicion.failed(dealt.rank, row.job, row.failure)
        if row.state == _SUCCEEDED or not self._returned_instead(dealt, State(row.state), outcome):
            self.ended[State(row.state)] += 1
            self.elsewhere.ended(row.job, row.task)
            self._batch.outcomes.append(outcome)
        self._resolve(lease, 1)

    def _returned_instead(self, dealt: Dealt, state: State, outcome: Outcome) -> bool:
        """Whether the task has not ended with this attempt."""
        row, block = outcome[0], dealt.block
        cancelled = self._leases[row.lease].is_cancelled(row.task)
        if state is State.RETURNED:
            self._run_again(Return(_again(block, row.task), FailureClass(row.failure)), _cancelled(outcome), cancelled)
            return True
        if state is State.FAILED and not cancelled and self._runs_again(block, row):
            self.retried += 1
            self.elsewhere.failed(row.job, row.task, dealt.rank)
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
        lease = self._leases.get(span.lease)
        if lease is None:
            return  # it was refused meanwhile
        for task in range(span.lo, span.hi):
            if self._take_back(lease, task) is None:
                return
        self.put_back(span)

    def put_back(self, span: Span) -> None:
        """Never-started tasks out of stock or a leader's hands."""
        lease = self._leases.get(span.lease)
        if lease is not None:
            self._set_aside(lease, span)
            self._resolve(lease, span.hi - span.lo)

    def _set_aside(self, lease: Lease, span: Span) -> None:
        for piece, cancelled in split(span, lease.cancelled):
            if cancelled:
                self.ended[State.CANCELLED] += piece.hi - piece.lo
                self._returned.append((Return(piece, FailureClass.CANCELLED), None))
            else:
                lease.unstarted.append(piece)

    def holds(self, rank: int) -> bool:
        """Whether this leader holds any task."""
        return rank in self._hands

    @property
    def holders(self) -> list[int]:
        """Ranks of the leaders that hold tasks."""
        return list(self._hands)

    def _in_hand(self, rank: int) -> Iterator[tuple[Lease, int, Block]]:
        """What a leader holds, in the order in which it was dealt."""
        for dealt in list(self._hands.get(rank, ())):
            lease = self._leases[dealt.block.lease]
            for task in range(dealt.block.lo, dealt.block.hi):
                if lease.out.get(task) is dealt:
                    yield lease, task, dealt.block

    def first_dealt(self, rank: int, cpus: int) -> set[LeasedTask]:
        """Returns as much of what a leader holds as so many cores run at once: a node begins in the order of deals."""
        first: set[LeasedTask] = set()
        for _, task, block in self._in_hand(rank):
            if cpus <= 0:
                break
            first.add((block.lease, task))
            cpus -= block.needs.cpus
        return first

    def lose(self, rank: int, node: int, begun: Collection[LeasedTask], now: float) -> int:
        """A leader is gone: whatever it held runs again as a new attempt, unless it was lost too often. Returns the
        number of tasks. `node`: its number; `begun`: what ran there, and may have been the cause; `now`: Unix seconds.
        """
        lost = list(self._in_hand(rank))
        for lease, task, block in lost:
            self._take_back(lease, task)
            self.begun += 1
            row = _lost_row(block, task, node, now)
            outcome: Outcome = (row, None, None)
            cancelled = lease.is_cancelled(task)
            crashes = 1 if (block.lease, task) in begun else 0
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
        refused = self._leases.get(lease)
        if refused is not None:
            for task in list(refused.out):
                self._take_back(refused, task)
                self.begun += 1  # for all we know: its end, if it comes, will not be believed
            del self._leases[lease]

    def _resolve(self, lease: Lease, tasks: int) -> None:
        lease.left -= tasks
        assert lease.left >= 0
        if not lease.left:
            del self._leases[lease.block.lease]
            self._batch.done.append(lease.block.lease)
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
                dealt = lease.out.get(task)
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
            for span, cancelled in split(part.span, [(order.lo, order.hi)]):
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
    """Makes the row of an attempt that left none: lost with its node for the last time it may be."""
    return AttemptRow(
        lease=block.lease, job=block.job, task=task, attempt=block.attempt, state=int(State.FAILED),
        failure=int(FailureClass.LOST), exit_code=-1, signal=0, node=node, slot=0, cpus=block.needs.cpus,
        started=now, ended=now,
    )  # fmt: skip
