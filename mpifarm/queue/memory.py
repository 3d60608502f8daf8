"""The queue in dictionaries: the twin of `queue.run_verbs` for tests and simulation. No I/O; the clock is passed in.

Plain rather than fast: what a lease still owns is a set of task numbers, so that this file can be believed by reading.
Beside the verbs of a run it has those of people, as `queue.client` has them.
"""

from __future__ import annotations

from bisect import insort
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from itertools import islice

from mpifarm.core.job.policy import JobText, Policy
from mpifarm.core.job.routing import route
from mpifarm.core.model import Block, FailureClass, JobId, LeaseId, RunId, Span, State
from mpifarm.core.needs import Needs
from mpifarm.core.protocol.facts import Cancelled
from mpifarm.core.protocol.verbs import Batch, CancelTasks, DrainRun, Grant, Order, Outcome, Return, RunInfo
from mpifarm.core.ranges import runs_of
from mpifarm.errors import QueueError
from mpifarm.queue.caps import cap
from mpifarm.queue.lease_limits import SILENT_S, check_batch, merged
from mpifarm.queue.memory_places import PartLike, Places, Range


@dataclass(slots=True)
class _Lease:
    run: RunId
    job: JobId
    part: Range
    left: set[int]
    """Tasks it still owns."""
    cancelled: set[int] = field(default_factory=set)
    """Tasks its run was ordered to end: they never become ready again."""


@dataclass(slots=True)
class _Run:
    info: RunInfo
    began: float
    beat: float
    ended: bool = False
    file: str = ""
    orders: list[Order] = field(default_factory=list)


class MemoryQueue:
    """One database's worth of queue, for any number of runs. `now` returns seconds."""

    def __init__(self, now: Callable[[], float]) -> None:
        self._now = now
        self._places = Places()
        self._leases: dict[LeaseId, _Lease] = {}
        self._runs: dict[RunId, _Run] = {}
        self._returned: dict[LeaseId, list[Return]] = {}
        self.leases_given = 0

    @property
    def outcomes(self) -> dict[tuple[JobId, int], Outcome]:
        """By (job, task): what was recorded, for good."""
        return self._places.outcomes

    # --- what people do --------------------------------------------------------------------------------------

    def add_job(
        self,
        name: str,
        parts: Iterable[PartLike],
        cwd: bytes = b"/",
        *,
        policy: Policy | None = None,
        tags: Mapping[str, str] | None = None,
        max_fails: int | None = None,
    ) -> JobId:
        """Submit."""
        job = JobId(len(self._places.jobs) + 1)
        self._places.add(JobText(job, name, cwd, policy or Policy()), tags or {}, max_fails, parts)
        return job

    def set_priority(self, job: JobId, priority: int) -> None:
        self._places.jobs[job].priority = priority

    def set_held(self, job: JobId, held: bool) -> None:
        self._places.jobs[job].held = held

    def counts(self, job: JobId) -> Counter[str]:
        """Tasks of a job by state, as `report` names them."""
        counts = Counter(State(row.state).name.lower() for (of, _), (row, _, _) in self.outcomes.items() if of == job)
        for state, places in (
            ("pending", self._places.ready),
            ("waiting", self._places.waiting),
            ("cancelled", self._places.cancelled),
        ):
            counts[state] += sum(part.hi - part.lo for part in places[job])
        counts["running"] = sum(len(lease.left) for lease in self._leases.values() if lease.job == job)
        return +counts

    def cancel(self, job: JobId, lo: int = 1, hi: int = 1 << 31) -> Cancelled:
        """What no run holds will not begin; runs that hold others are ordered to end them."""
        tasks = self._places.cancel(job, lo, hi)
        asked, runs = 0, set[RunId]()
        for lease in self._leases.values():
            if lease.job == job and (held := {task for task in lease.left if lo <= task < hi}):
                asked += len(held)
                lease.cancelled |= held
                runs.add(lease.run)
        for run in runs:
            self._runs[run].orders.append(CancelTasks(job, lo, hi))
        return Cancelled(tasks, asked, tuple(sorted(runs)))

    def drain(self, run: RunId, *, now: bool = False) -> bool:
        """Ask a run to end. False: it is not live."""
        live = not self._runs[run].ended and not self._silent(run)
        if live:
            self._runs[run].orders.append(DrainRun(now))
        return live

    def retry(self, job: JobId, lo: int = 1, hi: int = 1 << 31) -> int:
        """What did not succeed runs again, and so does what was cancelled for that."""
        return self._places.retry(job, lo, hi)

    # --- the verbs of a run ----------------------------------------------------------------------------------

    def open_run(self, run: RunInfo) -> RunId:
        number = RunId(len(self._runs) + 1)
        self._runs[number] = _Run(run, self._now(), self._now())
        return number

    def name_file(self, run: RunId, path: str) -> None:
        self._runs[run].file = path

    def lease(self, run: RunId, tasks_max: int, bytes_max: int, room: Needs) -> Grant:
        its = self._runs[run]
        if its.ended:
            raise QueueError(f"run {run} has ended; it can lease nothing")
        jobs = self._jobs_of(its.info)
        left_s = float("inf") if its.info.seconds_left is None else its.info.seconds_left - (self._now() - its.began)
        ready = [(job, part) for job in jobs for part in self._places.ready[job]]
        narrow = [(job, part) for job, part in ready if part.needs.fits(room)]
        fitting = [(job, part) for job, part in narrow if part.needs.begins_with_s <= left_s]
        ready_left, stopped = _counted((part for _, part in fitting), "counted_ready")
        blocks: list[Block] = []
        for job, part in fitting[: cap("leased")]:
            mean_bytes = self._places.jobs[job].mean_bytes
            fits = int(bytes_max / mean_bytes) if blocks else max(1, int(bytes_max / mean_bytes))
            take = min(part.hi - part.lo, tasks_max, fits)
            if take <= 0:
                break
            tasks_max -= take
            bytes_max -= int(take * mean_bytes)
            blocks.append(self._take(run, job, part, take))
        others = [other for other in self._runs if other != run and not self._silent(other)]
        grant = Grant(
            blocks=tuple(blocks),
            jobs=tuple(self._places.jobs[job].text for job in dict.fromkeys(block.job for block in blocks)),
            ready_left=max(0, ready_left - sum(len(block.tasks) for block in blocks)),
            others_slots=sum(self._runs[other].info.slots for other in others),
            at_least=frozenset({"ready_left"} if stopped else ()),
        )
        if blocks:  # what only matters to a run that got nothing is counted only then
            return grant
        too_wide, stopped_wide = _counted((part for _, part in ready if not part.needs.fits(room)), "counted")
        too_long, stopped_long = _counted((part for _, part in narrow if part.needs.begins_with_s > left_s), "counted")
        waiting, stopped_waiting = _counted((part for job in jobs for part in self._places.waiting[job]), "counted")
        stops = {"too_wide": stopped_wide, "too_long": stopped_long, "waiting": stopped_waiting}
        return replace(
            grant,
            too_wide=too_wide,
            silent=sum(len(own.left) for own in self._leases.values() if own.run != run and self._silent(own.run)),
            too_long=too_long,
            waiting=waiting,
            at_least=grant.at_least.union(name for name, stopped in stops.items() if stopped),
        )

    def _jobs_of(self, info: RunInfo) -> list[JobId]:
        """The jobs a run may take from, in the order it does."""
        routes: dict[JobId, int] = {}
        for number, job in self._places.jobs.items():
            nth = route(info.tags, job.tags)
            if nth is not None and not job.held and (not info.jobs or job.text.name in info.jobs):
                routes[number] = nth
        return sorted(routes, key=lambda job: (routes[job], -self._places.jobs[job].priority, job))

    def _take(self, run: RunId, job: JobId, part: Range, count: int) -> Block:
        self.leases_given += 1
        lease = LeaseId(self.leases_given)
        taken = replace(part, hi=part.lo + count)
        part.lo = taken.hi
        if part.lo == part.hi:
            self._places.ready[job].remove(part)
        self._leases[lease] = _Lease(run, job, taken, set(range(taken.lo, taken.hi)))
        texts = self._places.jobs[job].tasks[taken.lo - 1 : taken.hi - 1]
        return Block(lease, job, taken.attempt, taken.needs, taken.lo, texts, taken.fails, taken.crashes, taken.kind)

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
        self._places.settle()
        for number in {row.job for row, _, _ in batch.outcomes if row.state == State.FAILED}:
            limit = self._places.jobs[number].max_fails
            if limit is not None and self.counts(number)["failed"] > limit:
                self.cancel(number)
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
        for lo, hi, never in _runs_by(range(span.lo, span.hi), lease.cancelled):
            back = Range(lo, hi, span.attempt, lease.part.needs, lease.part.kind, span.fails, span.crashes)
            never = never or part.failure is FailureClass.CANCELLED
            insort((self._places.cancelled if never else self._places.ready)[lease.job], back)

    def renew(self, run: RunId) -> tuple[Order, ...]:
        self._runs[run].beat = self._now()
        orders, self._runs[run].orders = tuple(self._runs[run].orders), []
        return orders

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
            charged = lease.part.fails, lease.part.crashes
            for lo, hi in runs_of(sorted(lease.left)):
                self._return(
                    Return(Span(number, lease.job, lo, hi, lease.part.attempt + 1, *charged), FailureClass.LOST)
                )
            del self._leases[number]
        self._places.settle()
        return count

    # --- proof -----------------------------------------------------------------------------------------------

    def check(self) -> None:
        """Asserts that every task is in exactly one place."""
        places = self._places.located()
        for lease in self._leases.values():
            places.update((lease.job, task) for task in lease.left)
        jobs = self._places.jobs.items()
        assert places.keys() == {(job, task) for job, of in jobs for task in range(1, len(of.tasks) + 1)}
        assert all(count == 1 for count in places.values())


def _runs_by(tasks: range, chosen: set[int]) -> Iterator[tuple[int, int, bool]]:
    """The tasks as ranges `(lo, hi, chosen)`."""
    for which in (False, True):
        for lo, hi in runs_of(task for task in tasks if (task in chosen) is which):
            yield lo, hi, which


def _counted(parts: Iterable[Range], name: str) -> tuple[int, bool]:
    """Tasks of as many of these ranges as the cap lets be counted, and whether it stopped there."""
    tasks = [part.hi - part.lo for part in islice(parts, cap(name))]
    return sum(tasks), len(tasks) == cap(name)
