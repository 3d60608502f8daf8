"""The queue in dictionaries: the twin of `queue.postgres` for tests and simulation. No I/O; the clock is passed in.

Plain rather than fast: what a lease still owns is a set of task numbers, so that this file can be believed by reading.
"""

from __future__ import annotations

from bisect import insort
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field

from mpifarm.core.job import JobText
from mpifarm.core.model import Block, FailureClass, JobId, LeaseId, RunId, Shape, Span, State, TaskText
from mpifarm.core.verbs import Batch, Grant, Order, Outcome, Return, RunInfo
from mpifarm.errors import QueueError
from mpifarm.queue.ranges import RANGES_MAX, SILENT_S, check_batch, merged, runs_of


@dataclass(slots=True)
class _Job:
    text: JobText
    tasks: list[TaskText]
    mean_bytes: float
    priority: int = 0
    held: bool = False


@dataclass(slots=True, order=True)
class _Ready:
    """Claimable tasks `[lo, hi)` of one job."""

    lo: int
    hi: int
    attempt: int = field(compare=False)
    shape: Shape = field(compare=False)


@dataclass(slots=True)
class _Lease:
    run: RunId
    job: JobId
    attempt: int
    shape: Shape
    left: set[int]
    """Tasks it still owns."""


@dataclass(slots=True)
class _Run:
    info: RunInfo
    beat: float
    ended: bool = False
    file: str = ""


class MemoryQueue:
    """One database's worth of queue, for any number of runs. `now` returns seconds."""

    def __init__(self, now: Callable[[], float]) -> None:
        self._now = now
        self._jobs: dict[JobId, _Job] = {}
        self._ready: dict[JobId, list[_Ready]] = {}
        self._leases: dict[LeaseId, _Lease] = {}
        self._runs: dict[RunId, _Run] = {}
        self._returned: dict[LeaseId, list[Return]] = {}
        self._leases_given = 0
        self.outcomes: dict[tuple[JobId, int], Outcome] = {}
        """By (job, task): what was recorded, for good."""

    # --- jobs ------------------------------------------------------------------------------------------------

    def add_job(self, name: str, parts: Iterable[tuple[Shape, list[TaskText]]], cwd: bytes = b"/") -> JobId:
        """Submit."""
        job = JobId(len(self._jobs) + 1)
        tasks: list[TaskText] = []
        ready: list[_Ready] = []
        for shape, texts in parts:
            lo = len(tasks) + 1
            tasks += texts
            if ready and ready[-1].shape == shape:
                ready[-1].hi = len(tasks) + 1
            else:
                ready.append(_Ready(lo, len(tasks) + 1, 1, shape))
        mean = sum(len(task.command) for task in tasks) / len(tasks)
        self._jobs[job] = _Job(JobText(job, name, cwd), tasks, max(1.0, mean))
        self._ready[job] = ready
        return job

    def set_priority(self, job: JobId, priority: int) -> None:
        self._jobs[job].priority = priority

    def set_held(self, job: JobId, held: bool) -> None:
        self._jobs[job].held = held

    def counts(self, job: JobId) -> Counter[str]:
        """Tasks of a job by state, as `report` names them."""
        counts = Counter(State(row.state).name.lower() for (of, _), (row, _, _) in self.outcomes.items() if of == job)
        counts["pending"] = sum(part.hi - part.lo for part in self._ready[job])
        counts["running"] = sum(len(lease.left) for lease in self._leases.values() if lease.job == job)
        return +counts

    # --- the verbs -------------------------------------------------------------------------------------------

    def open_run(self, run: RunInfo) -> RunId:
        number = RunId(len(self._runs) + 1)
        self._runs[number] = _Run(run, self._now())
        return number

    def name_file(self, run: RunId, path: str) -> None:
        self._runs[run].file = path

    def lease(self, run: RunId, tasks_max: int, bytes_max: int, cpus_max: int) -> Grant:
        if self._runs[run].ended:
            raise QueueError(f"run {run} has ended; it can lease nothing")
        blocks: list[Block] = []
        for job, part in [pair for pair in self._claimable() if pair[1].shape.cpus <= cpus_max][:RANGES_MAX]:
            mean_bytes = self._jobs[job].mean_bytes
            fits = int(bytes_max / mean_bytes) if blocks else max(1, int(bytes_max / mean_bytes))
            take = min(part.hi - part.lo, tasks_max, fits)
            if take <= 0:
                break
            tasks_max -= take
            bytes_max -= int(take * mean_bytes)
            blocks.append(self._take(run, job, part, take))
        left = [part for _, part in self._claimable()]
        return Grant(
            blocks=tuple(blocks),
            jobs=tuple(self._jobs[job].text for job in dict.fromkeys(block.job for block in blocks)),
            ready_left=sum(part.hi - part.lo for part in left if part.shape.cpus <= cpus_max),
            too_wide=sum(part.hi - part.lo for part in left if part.shape.cpus > cpus_max),
            silent=sum(len(own.left) for own in self._leases.values() if own.run != run and self._silent(own.run)),
        )

    def _claimable(self) -> Iterator[tuple[JobId, _Ready]]:
        """Ready ranges in the order they are given out."""
        for job in sorted(self._jobs, key=lambda job: (-self._jobs[job].priority, job)):
            if not self._jobs[job].held:
                for part in self._ready[job]:
                    yield job, part

    def _take(self, run: RunId, job: JobId, part: _Ready, count: int) -> Block:
        self._leases_given += 1
        lease = LeaseId(self._leases_given)
        lo, hi = part.lo, part.lo + count
        part.lo = hi
        if part.lo == part.hi:
            self._ready[job].remove(part)
        self._leases[lease] = _Lease(run, job, part.attempt, part.shape, set(range(lo, hi)))
        return Block(lease, job, part.attempt, part.shape, lo, self._jobs[job].tasks[lo - 1 : hi - 1])

    def _silent(self, run: RunId) -> bool:
        return self._runs[run].ended or self._now() - self._runs[run].beat > SILENT_S

    def record(self, run: RunId, batch: Batch) -> frozenset[LeaseId]:
        check_batch(batch)
        returned = merged(batch.returned)
        named = {row.lease for row, _, _ in batch.outcomes} | {part.span.lease for part in returned} | set(batch.done)
        alive = {lease for lease in named if lease in self._leases and self._leases[lease].run == run}
        refused = frozenset(lease for lease in named - alive if not self._recorded(lease, batch, returned))
        for row, file_row, tail in batch.outcomes:
            if row.lease in alive and row.task in self._leases[row.lease].left:
                self._leases[row.lease].left.remove(row.task)
                self.outcomes[row.job, row.task] = (row, file_row, tail)
        for part in returned:
            span = part.span
            if span.lease in alive and self._leases[span.lease].left.issuperset(range(span.lo, span.hi)):
                self._return(part)
        for lease in batch.done:
            if lease in alive and not self._leases[lease].left:
                del self._leases[lease]
        return refused

    def _recorded(self, lease: LeaseId, batch: Batch, returned: list[Return]) -> bool:
        """Whether everything the batch says of a lease that is gone was recorded before."""
        for row, _, _ in batch.outcomes:
            if row.lease == lease:
                known = self.outcomes.get((row.job, row.task))
                if known is None or known[0].lease != lease:
                    return False
        return all(part in self._returned.get(lease, ()) for part in returned if part.span.lease == lease)

    def _return(self, part: Return) -> None:
        span = part.span
        lease = self._leases[span.lease]
        lease.left.difference_update(range(span.lo, span.hi))
        self._returned.setdefault(span.lease, []).append(part)
        insort(self._ready[lease.job], _Ready(span.lo, span.hi, span.attempt, lease.shape))

    def renew(self, run: RunId) -> tuple[Order, ...]:
        self._runs[run].beat = self._now()
        return ()

    def expire(self, lease_s: float) -> int:
        dead = {number for number, run in self._runs.items() if run.ended or self._now() - run.beat > lease_s}
        return self._put_back(dead)

    def close_run(self, run: RunId) -> None:
        self._runs[run].ended = True
        self._put_back({run})

    def another(self) -> MemoryQueue:
        return self

    def close(self) -> None:
        pass

    def _put_back(self, runs: set[RunId]) -> int:
        """What leases of these runs still own becomes ready again, as the next attempt."""
        count = 0
        for number, lease in [(n, lease) for n, lease in self._leases.items() if lease.run in runs]:
            count += len(lease.left)
            for lo, hi in runs_of(sorted(lease.left)):
                self._return(Return(Span(number, lease.job, lo, hi, lease.attempt + 1), FailureClass.LOST))
            del self._leases[number]
        return count

    # --- proof -----------------------------------------------------------------------------------------------

    def check(self) -> None:
        """Asserts that every task is in exactly one place."""
        places = Counter(self.outcomes.keys())
        for job, parts in self._ready.items():
            for part in parts:
                assert part.lo < part.hi
                places.update((job, task) for task in range(part.lo, part.hi))
        for lease in self._leases.values():
            places.update((lease.job, task) for task in lease.left)
        tasks = {(job, task) for job, of in self._jobs.items() for task in range(1, len(of.tasks) + 1)}
        assert places.keys() == tasks
        assert all(count == 1 for count in places.values())
