"""What a run asks of the queue and what it is told: the arguments and answers of the queue's verbs, as plain data."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import NamedTuple

from mpifarm.core.job.policy import JobText
from mpifarm.core.model import Block, FailureClass, JobId, LeaseId, Span, State
from mpifarm.core.needs import Needs
from mpifarm.core.row import AttemptRow


@dataclass(frozen=True, slots=True)
class RunInfo:
    """What a run says of itself when it starts."""

    host: str
    pid: int
    boot: str
    allocation: str
    command: str
    version: str
    nodes: int
    ranks: int
    slots: int
    node_names: tuple[str, ...] = ()
    """By node number."""
    jobs: tuple[str, ...] = ()
    """Names of the jobs it works on; none: all."""
    tags: tuple[str, ...] = ()
    """Of the jobs it works on, those of the first first: NAME, NAME=VALUE, or * for whatever there is; none: all."""
    room: Needs | None = None
    """What each of its nodes has; None: not said."""
    seconds_left: float | None = None
    """Until its allocation ends; None: not known."""


@dataclass(frozen=True, slots=True)
class Grant:
    """The answer to `lease`: blocks, each with a lease row of its own, in the order they should run."""

    blocks: tuple[Block, ...] = ()
    jobs: tuple[JobText, ...] = ()
    ready_left: int = 0
    """Tasks still claimable by this run."""
    # The next four are counted when there was nothing to give.
    too_wide: int = 0
    """Tasks nobody holds that need more cores than a node of this run has."""
    silent: int = 0
    """Tasks leased by other runs that have missed several heartbeats: they may come back soon."""
    too_long: int = 0
    """Claimable tasks, wide enough a node is, whose time limit is longer than this run has left."""
    waiting: int = 0
    """Tasks of jobs this run may take that wait for others to end."""
    others_slots: int = 0
    """Slots of the other live runs that may take what is left."""
    at_least: frozenset[str] = field(default=frozenset(), kw_only=True)
    """Which of these counts stopped before the end, there being too many ranges: so many, or more."""


class Return(NamedTuple):
    """Tasks that are the run's no more, without an outcome."""

    span: Span
    failure: FailureClass
    """NONE: never started, allowed only when their lease is in `done`. CANCELLED: never started and never to be: they
    do not become ready again."""
    state: State = State.RETURNED
    """FAILED: an attempt that failed and runs again; its class, exit code and signal stay on record."""
    exit_code: int = 0
    signal: int = 0


class CancelTasks(NamedTuple):
    """An order: tasks `[lo, hi)` of a job must not begin, or be ended when they run."""

    job: JobId
    lo: int
    hi: int


class DrainRun(NamedTuple):
    """An order: begin nothing more and end; `now`: running tasks have the run's grace, else as long as they take."""

    now: bool


Order = CancelTasks | DrainRun
"""What people, or the queue itself, tell a live run."""


Outcome = tuple[AttemptRow, int | None, bytes | None]
"""(row, its number in the run file, tail of stderr). No number: the attempt left no row (it was lost with its node)."""


@dataclass(frozen=True, slots=True)
class Batch:
    """What one `record` transaction writes."""

    outcomes: list[Outcome] = field(default_factory=list)
    """Attempts that ended in a final state."""
    returned: list[Return] = field(default_factory=list)
    done: list[LeaseId] = field(default_factory=list)
    """Leases with nothing left: their rows are deleted."""

    def __bool__(self) -> bool:
        return bool(self.outcomes or self.returned or self.done)
