"""Rows of the queue as tests need them, with what matters to a test changed, and a client that gives them."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from typing import Any

from mpifarm.core.model import JobId, RunId, TaskText
from mpifarm.core.needs import Needs
from mpifarm.core.protocol.facts import Submitted, Terms
from mpifarm.errors import UsageError
from mpifarm.queue.client import FailureLine, JobSummary, RunLine, TaskLine

NOW = 1_800_000_000.0
NO_COUNTS = dict.fromkeys(("waiting", "pending", "running", "succeeded", "failed", "cancelled"), 0)


def a_job(name: str = "scan", **changes: Any) -> JobSummary:
    facts: dict[str, Any] = {
        "id": JobId(12),
        "name": name,
        "state": "pending",
        "submitted": NOW - 3600,
        "priority": 0,
        "held": False,
        "source": "scan.txt",
        "cwd": b"/home/ann",
        "total": 100,
    }
    return JobSummary(**(facts | NO_COUNTS | changes))


def a_task(number: int, **changes: Any) -> TaskLine:
    facts = dict.fromkeys(TaskLine._fields) | {
        "task": number,
        "state": "pending",
        "failure": "",
        "attempts": 0,
        "command": b"./simulate %d" % number,
    }
    return TaskLine(**(facts | changes))


def a_run(number: int = 3, **changes: Any) -> RunLine:
    facts = dict.fromkeys(RunLine._fields, 0) | {
        "id": number,
        "host": "node17",
        "pid": 4711,
        "allocation": "slurm 99",
        "nodes": 4,
        "ranks": 16,
        "slots": 64,
        "started": NOW - 600,
        "beat": NOW - 3,
        "ended": None,
        "file": "/tmp/run-3.h5",
        "live": True,
        "busy_s": 64 * 300.0,
    }
    return RunLine(**(facts | changes))


def a_failure(failure: str, count: int, example: int, **changes: Any) -> FailureLine:
    facts: dict[str, Any] = {"exit_code": None, "signal": None, "stderr_tail": None}
    return FailureLine(**({"failure": failure, "count": count, "example_task": example} | facts | changes))


class FakeClient:
    """Answers from lists; remembers what was submitted and asked."""

    def __init__(self, *jobs: JobSummary) -> None:
        self.all_jobs = list(jobs)
        self.lines: list[TaskLine] = []
        self.all_runs: list[RunLine] = []
        self.all_failures: list[FailureLine] = []
        self.parts: list[tuple[Needs, list[TaskText] | list[bytes]]] = []
        self.names: tuple[str | None, str, bytes] | None = None
        self.terms = Terms()
        self.asked_states: Collection[str] | None = None

    def submit(
        self,
        name: str | None,
        source: str,
        cwd: bytes,
        parts: Iterable[tuple[Needs, list[TaskText]]],
        progress: Callable[[int], None] | None = None,
    ) -> JobSummary:
        self.names = (name, source, cwd)
        for needs, tasks, *_ in parts:
            self.parts.append((needs, tasks))
            if progress is not None:
                progress(self.total)
        return a_job(name or "scan", total=self.total, pending=self.total)

    def submit_on(
        self,
        terms: Terms,
        source: str,
        cwd: bytes,
        parts: Iterable[tuple[Needs, list[TaskText]]],
        progress: Callable[[int], None] | None = None,
    ) -> Submitted:
        self.terms = terms
        job = self.submit(terms.name, source, cwd, parts, progress)
        return Submitted(job, job.total, 0)

    @property
    def total(self) -> int:
        return sum(len(tasks) for _, tasks in self.parts)

    @property
    def commands(self) -> list[bytes]:
        return [task if isinstance(task, bytes) else task.body for _, tasks in self.parts for task in tasks]

    def jobs(self) -> list[JobSummary]:
        return self.all_jobs

    def find(self, selector: str) -> JobSummary:
        for job in self.all_jobs:
            if selector in (job.name, "last"):
                return job
        raise UsageError(f"no job is called {selector}")

    def tasks(
        self,
        job: JobId,  # noqa: ARG002 - there is one job
        *,
        ranges: Sequence[tuple[int, int]] | None = None,
        states: Collection[str] | None = None,
    ) -> Iterator[TaskLine]:
        self.asked_states = states
        for line in self.lines:
            if (ranges is None or any(lo <= line.task < hi for lo, hi in ranges)) and (
                states is None or line.state in states
            ):
                yield line

    def places(self, job: JobId, lo: int = 1, hi: int = 2**31 - 1) -> Iterator[Any]:  # noqa: ARG002
        """None: every task is served by its line."""
        return iter(())

    def failures(self, job: JobId) -> list[FailureLine]:  # noqa: ARG002
        return self.all_failures

    def taken_back(self, run: RunId) -> list[tuple[int, int, int]]:  # noqa: ARG002
        return []

    def durations(self, job: JobId) -> tuple[float, float, float] | None:  # noqa: ARG002
        return (0.012, 0.5, 75.0)

    def runs(self, job: JobId | None = None) -> list[RunLine]:  # noqa: ARG002
        return self.all_runs
