"""What the queue tells people: one kind of row each for jobs, tasks, runs and failures. Plain data, never psycopg."""

from __future__ import annotations

from typing import NamedTuple

from mpifarm.core.model import JobId, RunId


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


class FailureLine(NamedTuple):
    """How many tasks of a job ended badly in one way, and the first of them."""

    failure: str
    count: int  # type: ignore[assignment]
    example_task: int
    exit_code: int | None
    signal: int | None
    stderr_tail: bytes | None
