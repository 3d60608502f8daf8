"""Where the tasks of the queue's twin are that no run holds: ready, waiting for others, cancelled, or ended. Pure.

The part of `queue.memory` that knows of parents and children.
"""

from __future__ import annotations

from bisect import insort
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from itertools import starmap

from mpifarm.core.job.policy import JobText
from mpifarm.core.model import JobId, Kind, Parent, Part, State, TaskText
from mpifarm.core.needs import Needs
from mpifarm.core.protocol.verbs import Outcome
from mpifarm.core.ranges import pieces
from mpifarm.queue.lease_limits import check_kind


@dataclass(slots=True)
class Job:
    text: JobText
    tags: Mapping[str, str]
    max_fails: int | None
    tasks: list[TaskText] = field(default_factory=list)
    shapes: list[tuple[Needs, Kind]] = field(default_factory=list)
    needs: list[tuple[int, int, Parent]] = field(default_factory=list)
    """Tasks [lo, hi) wait for a parent, whose job is named."""
    priority: int = 0
    held: bool = False
    mean_bytes: float = 1.0

    def parents(self, task: int) -> list[Parent]:
        return [parent for lo, hi, parent in self.needs if lo <= task < hi]


@dataclass(slots=True, order=True)
class Range:
    """Tasks `[lo, hi)` of one job that no run holds."""

    lo: int
    hi: int
    attempt: int = field(compare=False)
    needs: Needs = field(compare=False)
    kind: Kind = field(compare=False, default=Kind.COMMAND)
    fails: int = field(compare=False, default=0)
    crashes: int = field(compare=False, default=0)

    def cut(self, lo: int, hi: int) -> tuple[list[Range], list[Range]]:
        """The part within `[lo, hi)`, and what is left of it: one or none, and up to two."""
        cuts = [(replace(self, lo=lo, hi=hi), inside) for lo, hi, inside in pieces(self.lo, self.hi, [(lo, hi)])]
        return [part for part, inside in cuts if inside], [part for part, inside in cuts if not inside]


class Places:
    """Every task that no run holds is in one of these."""

    def __init__(self) -> None:
        self.jobs: dict[JobId, Job] = {}
        self.ready: dict[JobId, list[Range]] = {}
        self.waiting: dict[JobId, list[Range]] = {}
        self.cancelled: dict[JobId, list[Range]] = {}
        """Before they began."""
        self.outcomes: dict[tuple[JobId, int], Outcome] = {}

    def add(self, text: JobText, tags: Mapping[str, str], max_fails: int | None, parts: Iterable[PartLike]) -> None:
        """A job comes in."""
        number = text.id
        job = self.jobs[number] = Job(text, tags, max_fails)
        self.ready[number], self.waiting[number], self.cancelled[number] = [], [], []
        ranges: list[Range] = []
        for needs, texts, parents, kind in starmap(Part, parts):
            check_kind(kind)
            lo, hi = len(job.tasks) + 1, len(job.tasks) + len(texts) + 1
            job.tasks += (TaskText(text) if isinstance(text, bytes) else text for text in texts)
            job.shapes += [(needs, kind)] * len(texts)
            job.needs += [(lo, hi, parent._replace(job=parent.job or number)) for parent in parents]
            free = ranges and not parents and not job.parents(ranges[-1].lo)
            if free and (ranges[-1].needs, ranges[-1].kind) == (needs, kind):
                ranges[-1].hi = hi
            else:
                ranges.append(Range(lo, hi, 1, needs, kind))
        job.mean_bytes = max(1.0, sum(len(task.body) for task in job.tasks) / len(job.tasks))
        for part in ranges:
            self._place(number, part)
        self.settle()

    def cut(self, places: dict[JobId, list[Range]], job: JobId, lo: int, hi: int) -> list[Range]:
        """Take the tasks of a range out of a place."""
        cuts = [part.cut(lo, hi) for part in places[job]]
        places[job] = [part for _, outside in cuts for part in outside]
        return [part for inside, _ in cuts for part in inside]

    def cancel(self, job: JobId, lo: int, hi: int) -> int:
        """What is ready or waits will not begin. Returns the number of tasks."""
        parts = self.cut(self.ready, job, lo, hi) + self.cut(self.waiting, job, lo, hi)
        for part in parts:
            insort(self.cancelled[job], part)
        self.settle()
        return sum(part.hi - part.lo for part in parts)

    def retry(self, job: JobId, lo: int, hi: int) -> int:
        """What did not succeed runs again, and so does what was cancelled for that."""
        back: list[tuple[JobId, Range]] = []
        for task in [task for of, task in self.outcomes if of == job and lo <= task < hi]:
            row = self.outcomes[job, task][0]
            if row.state != State.SUCCEEDED:
                del self.outcomes[job, task]
                back.append((job, Range(task, task + 1, row.attempt + 1, *self.jobs[job].shapes[task - 1])))
        back += [(job, replace(part, fails=0, crashes=0)) for part in self.cut(self.cancelled, job, lo, hi)]
        for of, part in back:  # grows: dependants of dependants
            for child, need_lo, need_hi in self._children(of, part):
                back += [(child, found) for found in self.cut(self.cancelled, child, need_lo, need_hi)]
        for of, part in back:
            self._place(of, part)
        self.settle()
        return sum(part.hi - part.lo for _, part in back)

    def _children(self, job: JobId, part: Range) -> Iterator[tuple[JobId, int, int]]:
        """Those that wait for any of these to succeed."""
        for child, its in self.jobs.items():
            for lo, hi, parent in its.needs:
                if parent.job == job and not parent.any and parent.lo < part.hi and part.lo < parent.hi:
                    yield child, lo, hi

    def _place(self, job: JobId, part: Range) -> None:
        """To those that wait, if it needs anything (see `settle`), else ready."""
        insort((self.waiting if self.jobs[job].parents(part.lo) else self.ready)[job], part)

    def settle(self) -> None:
        """Until nothing moves: what has all its parents is ready, what can never have them is cancelled."""
        moved = True
        while moved:
            moved = False
            for job, parts in self.waiting.items():
                for part in list(parts):
                    ends = [self._parent(parent) for parent in self.jobs[job].parents(part.lo)]
                    to = self.cancelled if None in ends else self.ready if all(ends) else None
                    if to is not None:
                        parts.remove(part)
                        insort(to[job], part)
                        moved = True

    def _parent(self, parent: Parent) -> bool | None:
        """Whether it has ended as it must. None: it never will."""
        assert parent.job is not None
        states = [self._ended(parent.job, task) for task in range(parent.lo, parent.hi)]
        if not parent.any and any(state not in (None, State.SUCCEEDED) for state in states):
            return None
        return None not in states

    def _ended(self, job: JobId, task: int) -> State | None:
        if (job, task) in self.outcomes:
            return State(self.outcomes[job, task][0].state)
        gone = any(part.lo <= task < part.hi for part in self.cancelled[job])
        return State.CANCELLED if gone else None

    def located(self) -> Counter[tuple[JobId, int]]:
        """How many places each task is in."""
        places = Counter(self.outcomes.keys())
        for ranges in (self.ready, self.waiting, self.cancelled):
            for job, parts in ranges.items():
                for part in parts:
                    assert part.lo < part.hi
                    places.update((job, task) for task in range(part.lo, part.hi))
        return places


PartLike = tuple[Needs, list[TaskText]] | tuple[Needs, list[TaskText], tuple[Parent, ...]]
"""A `Part`, or one without parents."""
