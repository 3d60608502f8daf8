"""The two queues as tests see them: the verbs, and around them submit, counts, proof, and time that can pass."""

from __future__ import annotations

from collections import Counter
from typing import Protocol

import psycopg
import pytest

from mpifarm.core.model import Block, FailureClass, JobId, LeaseId, Part, RunId, Span, State, TaskText
from mpifarm.core.needs import Needs
from mpifarm.core.protocol.facts import Cancelled, Terms
from mpifarm.core.protocol.verbs import Grant, RunInfo
from mpifarm.core.row import AttemptRow
from mpifarm.queue import Queue
from mpifarm.queue.caps import CAPS
from mpifarm.queue.client import Client
from mpifarm.queue.memory import MemoryQueue
from mpifarm.queue.run_verbs import PostgresQueue
from mpifarm.queue.statements import filled, queries
from mpifarm.server.dsn import Dsn

MANY = 1 << 30
LEASE_S = 60.0
ROOM = Needs(cpus=64)
HERE = RunInfo(
    "a-host", 1, "no-boot", "slurm 77", "mpifarm run", "1.0", nodes=2, ranks=8, slots=8, node_names=("n0", "n1")
)

Parts = list[tuple[Needs, list[TaskText]]]


def lower(monkeypatch: pytest.MonkeyPatch, **most: int) -> None:
    """Lowers caps by their names, so that little is needed to go past them."""
    for name, number in most.items():
        monkeypatch.setitem(CAPS, name, CAPS[name]._replace(most=number))
    for name, text in filled().items():
        monkeypatch.setitem(queries(), name, text)


def like_tasks(count: int, needs: Needs | None = None) -> Parts:
    return [(needs or Needs(), [TaskText(b"echo %d" % number) for number in range(1, count + 1)])]


def ended(block: Block, task: int, state: State = State.SUCCEEDED) -> tuple[AttemptRow, int, bytes | None]:
    """An outcome of a task of `block`, as the recorder made it durable."""
    failure = {State.SUCCEEDED: 0, State.FAILED: FailureClass.EXIT, State.CANCELLED: FailureClass.CANCELLED}[state]
    values = dict.fromkeys(AttemptRow._fields, 0) | {
        "lease": block.lease,
        "job": block.job,
        "task": task,
        "attempt": block.attempt,
        "state": state,
        "failure": failure,
        "exit_code": 3 if state is State.FAILED else 0,
        "node": 1,
        "cpus": block.needs.cpus,
        "started": 1_700_000_000.0,
        "ended": 1_700_000_002.5,
    }
    return AttemptRow(**values), task - 1, b"oh no\n" if state is State.FAILED else None  # type: ignore[arg-type]


def all_ended(block: Block, state: State = State.SUCCEEDED) -> list[tuple[AttemptRow, int, bytes | None]]:
    return [ended(block, task, state) for task in range(block.lo, block.hi)]


def span(block: Block, lo: int, hi: int, attempt: int | None = None) -> Span:
    return Span(block.lease, block.job, lo, hi, block.attempt + 1 if attempt is None else attempt)


def lease(queue: Queue, run: RunId, tasks_max: int = MANY, bytes_max: int = MANY, room: Needs = ROOM) -> Grant:
    return queue.lease(run, tasks_max, bytes_max, room)


def one(queue: Queue, run: RunId, tasks_max: int = MANY) -> Block:
    """The only block of a grant."""
    (block,) = lease(queue, run, tasks_max).blocks
    return block


class World(Protocol):
    """A queue and the strings a test can pull around it."""

    queue: Queue

    def submit(self, parts: Parts, name: str = "job") -> JobId: ...
    def counts(self, job: JobId) -> dict[str, int]: ...
    def set_priority(self, job: JobId, priority: int) -> None: ...
    def set_held(self, job: JobId, held: bool) -> None: ...
    def pass_time(self, seconds: float) -> None: ...
    def check(self) -> None: ...
    def outcome_lease(self, job: JobId, task: int) -> LeaseId | None: ...
    def submit_on(self, terms: Terms, *parts: Part) -> JobId: ...
    def cancel(self, job: JobId, lo: int, hi: int) -> Cancelled: ...
    def retry(self, job: JobId, lo: int, hi: int) -> int: ...
    def drain(self, run: RunId, now: bool) -> bool: ...


class MemoryWorld:
    def __init__(self) -> None:
        self.time = 1000.0
        self.memory = MemoryQueue(lambda: self.time)
        self.queue: Queue = self.memory

    def submit(self, parts: Parts, name: str = "job") -> JobId:
        return self.memory.add_job(name, parts, b"/tmp")

    def counts(self, job: JobId) -> dict[str, int]:
        return dict(self.memory.counts(job))

    def set_priority(self, job: JobId, priority: int) -> None:
        self.memory.set_priority(job, priority)

    def set_held(self, job: JobId, held: bool) -> None:
        self.memory.set_held(job, held)

    def pass_time(self, seconds: float) -> None:
        self.time += seconds

    def check(self) -> None:
        self.memory.check()

    def outcome_lease(self, job: JobId, task: int) -> LeaseId | None:
        found = self.memory.outcomes.get((job, task))
        return found[0].lease if found else None

    def submit_on(self, terms: Terms, *parts: Part) -> JobId:
        of_job = {"policy": terms.policy, "tags": terms.tags, "max_fails": terms.max_fails}
        return self.memory.add_job(terms.name or "job", parts, b"/tmp", **of_job)  # type: ignore[arg-type]

    def cancel(self, job: JobId, lo: int, hi: int) -> Cancelled:
        return self.memory.cancel(job, lo, hi)

    def retry(self, job: JobId, lo: int, hi: int) -> int:
        return self.memory.retry(job, lo, hi)

    def drain(self, run: RunId, now: bool) -> bool:
        return self.memory.drain(run, now=now)


class PostgresWorld:
    def __init__(self, dsn: Dsn) -> None:
        self.dsn = dsn
        self.queue: Queue = PostgresQueue.connect(dsn)
        self.client = Client.connect(dsn)
        self.plain = psycopg.connect(dsn.text, autocommit=True)

    def close(self) -> None:
        self.plain.close()
        self.client.close()
        self.queue.close()

    def submit(self, parts: Parts, name: str = "job") -> JobId:
        return self.client.submit(None, name, b"/tmp", (Part(*part) for part in parts)).id

    def submit_on(self, terms: Terms, *parts: Part) -> JobId:
        """Parts with parents, or on terms."""
        job = self.client.submit_on(terms, "job", b"/tmp", parts).job
        assert job is not None
        return job.id

    def cancel(self, job: JobId, lo: int, hi: int) -> Cancelled:
        return self.client.cancel(job, ranges=[(lo, hi)])

    def retry(self, job: JobId, lo: int, hi: int) -> int:
        return self.client.retry(job, ranges=[(lo, hi)])

    def drain(self, run: RunId, now: bool) -> bool:
        return self.client.drain(run, now=now)

    def counts(self, job: JobId) -> dict[str, int]:
        (summary,) = (summary for summary in self.client.jobs() if summary.id == job)
        names = ("waiting", "pending", "running", "succeeded", "failed", "cancelled")
        return dict(+Counter({name: getattr(summary, name) for name in names}))

    def set_priority(self, job: JobId, priority: int) -> None:
        self.client.set_priority(job, priority)

    def set_held(self, job: JobId, held: bool) -> None:
        self.client.set_held(job, held)

    def pass_time(self, seconds: float) -> None:
        self.plain.execute("UPDATE mpifarm.heartbeat SET beat = beat - make_interval(secs => %s)", [seconds])

    def check(self) -> None:
        for job in self.client.jobs():
            assert not self.client.misplaced(job.id), job

    def outcome_lease(self, job: JobId, task: int) -> LeaseId | None:
        row = self.plain.execute("SELECT lease FROM mpifarm.outcome WHERE job = %s AND no = %s", [job, task]).fetchone()
        return LeaseId(row[0]) if row else None
