"""What people tell the queue and it tells them: one kind of row each for jobs, tasks, attempts, runs and failures.
Plain data, never psycopg."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from mpifarm.core.job.policy import Policy
from mpifarm.core.model import JobId, Parent, RunId
from mpifarm.core.needs import Needs

EVERYTHING = ((1, 2**31 - 1),)
"""All tasks of a job, as half-open ranges."""


@dataclass(frozen=True, slots=True)
class Terms:
    """On what terms tasks are submitted."""

    name: str | None = None
    """Of a new job; None: made from the source."""
    job: JobId | None = None
    """The job they are added to, which keeps its own priority, hold and tags."""
    priority: int = 0
    held: bool = False
    tags: Mapping[str, str] = field(default_factory=dict)
    policy: Policy = field(default_factory=Policy)
    max_fails: int | None = None
    """More failed tasks than that stop the job."""
    after: tuple[Parent, ...] = ()
    """Tasks of other jobs that all of these wait for."""
    dedupe: bool = False
    """Leave out tasks that have succeeded in this directory, in whatever job, or are queued."""
    once: bool = False
    """Leave out also those that have ended badly."""
    path: bytes | None = None
    """Of the file they come from; None: from no file."""
    digest: Callable[[], bytes] | None = None
    """Of that file, asked for after the last task."""


class Submitted(NamedTuple):
    """What a submit did. `job` is None when no task was left for a new one."""

    job: JobSummary | None
    tasks: int
    skipped: int
    before: tuple[str, ...] = ()
    """Jobs that the same file with the same content was submitted to, the last first."""
    queued: tuple[tuple[str, int], ...] = ()
    """How many of the skipped are queued in which job; the others have succeeded,"""
    ended: tuple[tuple[str, int], ...] = ()
    """or ended badly."""
    cancelled: int = 0
    """Tasks that will not run, since what they wait for has not succeeded."""


class PastAttempt(NamedTuple):
    """An attempt that does not count. `state` None: given back, never started when `failure` is none."""

    attempt: int
    state: str | None
    failure: str
    exit_code: int | None
    signal: int | None
    run: RunId
    ended: float
    lost_with: list[tuple[str, int, int]] | None = None
    """(job, lo, hi) of all that was lost with its node, itself included."""


class Holding(NamedTuple):
    """What a run holds under leases; `beat_age_s`: how long ago it last renewed them."""

    run: RunId
    host: str
    dead: bool
    beat_age_s: float
    tasks: int


class JobSummary(NamedTuple):
    """A job and how many of its tasks are where. `submitted` in Unix seconds."""

    id: JobId
    name: str
    state: str
    submitted: float
    priority: int
    held: bool
    source: str
    cwd: bytes
    total: int
    waiting: int
    pending: int
    running: int
    succeeded: int
    failed: int
    cancelled: int
    tags: tuple[tuple[str, str], ...] = ()
    policy: Policy = Policy()
    max_fails: int | None = None


class TaskLine(NamedTuple):
    """A task and its last attempt; what an attempt without outcome does not have yet is None."""

    task: int
    state: str
    failure: str
    exit_code: int | None
    signal: int | None
    seconds: float | None
    started: float | None
    node: str | None
    attempts: int
    command: bytes
    entry: bytes | None
    run: RunId | None
    file: str | None
    file_row: int | None
    lease: int | None
    attempt: int | None
    stderr_tail: bytes | None
    checksum: int | None = None
    """See `mpifarm.core.row.output_checksum`."""
    because: str | None = None
    """JOB.T whose end cancelled it."""
    left: int | None = None
    """Processes it left behind, killed; None: none."""


class Needed(NamedTuple):
    """Tasks `[lo, hi)` of a job that a task waits for. `any`: they must have ended, else they must have succeeded."""

    job: str
    lo: int
    hi: int
    any: bool
    met: bool


class Cancelled(NamedTuple):
    """What a cancel did. `tasks`: cancelled by now; `asked`: those that live runs were asked to stop."""

    tasks: int
    asked: int
    runs: tuple[RunId, ...]


class RunLine(NamedTuple):
    """A run and what it did, for one job or for all. Times in Unix seconds, `busy_s` in core seconds."""

    id: RunId
    host: str
    pid: int
    allocation: str
    nodes: int
    ranks: int
    slots: int
    started: float
    beat: float
    ended: float | None
    file: str | None
    succeeded: int
    failed: int
    cancelled: int
    returned: int
    live: bool
    busy_s: float
    held: int = 0
    """Tasks it holds now."""
    ends: float | None = None
    """When its allocation ends."""
    jobs: Sequence[str] = ()
    tags: Sequence[str] = ()
    """What it works on; see `mpifarm.core.protocol.verbs.RunInfo`."""
    room: Needs | None = None
    """What each of its nodes has; None: not known."""


class FailureLine(NamedTuple):
    """How many tasks of a job ended badly in one way, and the first of them."""

    failure: str
    count: int  # type: ignore[assignment]
    example_task: int
    exit_code: int | None
    signal: int | None
    stderr_tail: bytes | None
    entry: bytes | None = None
    """Of that task."""
