"""What follows when tasks have ended: those that waited for them become ready or are cancelled, and a job of which too
many have failed is stopped. Imports no psycopg of its own.

Part of `queue.run_verbs` (a record settles in its own transaction), of `queue.people_verbs` and of a submit. Two
records that end the last two parents of a task at the same time must not both leave it waiting: each locks the waiting
range after its own outcomes are written, and looks in a statement after that, which sees whatever the other has
committed.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence

from mpifarm.core.model import JobId, RunId, Span
from mpifarm.core.ranges import runs_of
from mpifarm.queue.arrays import Float8s, Int4s, Int8s
from mpifarm.queue.caps import cap
from mpifarm.queue.connection import Connection
from mpifarm.queue.statements import queries

SQL = queries()

Resolved = tuple[int, int, int]
"""Job, lo, hi: tasks of a half-open range that have ended."""


def ranges_of(ended: Iterable[tuple[int, int]]) -> list[Resolved]:
    """(job, task) pairs as ranges."""
    of_job: dict[int, set[int]] = {}
    for job, task in ended:
        of_job.setdefault(job, set()).add(task)
    return [(job, lo, hi) for job, tasks in of_job.items() for lo, hi in _runs(tasks)]


def _runs(tasks: set[int]) -> list[tuple[int, int]]:
    lo, hi = min(tasks), max(tasks) + 1
    return [(lo, hi)] if hi - lo == len(tasks) else runs_of(sorted(tasks))


def settle(connection: Connection, resolved: Sequence[Resolved]) -> int:
    """Release or cancel what waited for these tasks, and what waited for what that cancels. Inside a transaction.
    Returns the number of tasks cancelled."""
    tasks = 0
    while resolved:
        resolved = judge(connection, gates_behind(connection, resolved))
        tasks += sum(hi - lo for _, lo, hi in resolved)
    return tasks


def gates_behind(connection: Connection, resolved: Sequence[Resolved]) -> list[int]:
    """The waiting ranges that wait for any of these tasks, locked."""
    values = {
        "job": Int4s([job for job, _, _ in resolved]),
        "lo": Int4s([lo for _, lo, _ in resolved]),
        "hi": Int4s([hi for _, _, hi in resolved]),
    }
    return [gate for (gate,) in connection.execute(SQL["lock_gates"], values, prepare=True)]


def judge(connection: Connection, gates: Iterable[int]) -> list[Resolved]:
    """Release or cancel these waiting ranges, if it is time. Returns what was cancelled."""
    wanted, cancelled = sorted(set(gates)), list[Resolved]()
    at, page = 0, cap("judged")
    while at < len(wanted):
        rows = connection.execute(SQL["judge"], {"gates": Int8s(wanted[at : at + page])}).fetchall()
        cancelled += [(job, lo, hi) for job, lo, hi, _ in rows]
        if not any(more for *_, more in rows):
            at += page
    return cancelled


def stop_where_too_many_failed(connection: Connection, jobs: Collection[int]) -> None:
    """Cancel the rest of those of these jobs that have more failed tasks than they may."""
    if jobs:
        for (job,) in connection.execute(SQL["over_max_fails"], {"jobs": Int4s(sorted(jobs))}).fetchall():
            cancel(connection, JobId(job), [(1, 2**31 - 1)], because_job=JobId(job))


def cancel(
    connection: Connection, job: JobId, ranges: Iterable[tuple[int, int]], because_job: JobId | None = None
) -> tuple[int, list[RunId]]:
    """Cancel what waits or is ready, and ask the runs that hold others to end them. Returns the number of tasks
    cancelled by that, and the runs. Inside a transaction."""
    # A record under way may be returning a task to `ready`: it is waited for, and one that waits for us will look
    # for what we ask (see `end_what_was_asked`).
    connection.execute(SQL["lock_job_leases"], {"job": job})
    tasks, runs = 0, set[RunId]()
    for lo, hi in ranges:
        tasks += cancel_unleased(connection, job, (lo, hi), because_job)
        # A statement of its own: it must see the lease that one had to wait for.
        runs.update(run for (run,) in connection.execute(SQL["ask_to_cancel"], {"job": job, "lo": lo, "hi": hi}))
    return tasks, sorted(runs)


def cancel_unleased(
    connection: Connection, job: JobId, tasks: tuple[int, int], because_job: JobId | None = None
) -> int:
    """Cancel those of tasks [lo, hi) that wait or are ready, and what waits for them to succeed. Returns how many."""
    lo, hi = tasks
    row = connection.execute(SQL["cancel"], {"job": job, "lo": lo, "hi": hi, "because_job": because_job}).fetchone()
    assert row is not None
    if row[0]:
        settle(connection, [(job, lo, hi)])
    return int(row[0])


def end_what_was_asked(connection: Connection, run: RunId, spans: Sequence[Span], given: Mapping[int, float]) -> None:
    """After a record that put `spans` back: those that people asked the run to end meanwhile must not begin again.
    `given`: when their leases were, in Unix seconds; what was asked before was about earlier ones."""
    known = [span for span in spans if span.lease in given]
    if not known:
        return
    values = {
        "run": run,
        "job": Int4s([span.job for span in known]),
        "lo": Int4s([span.lo for span in known]),
        "hi": Int4s([span.hi for span in known]),
        "given": Float8s([given[span.lease] for span in known]),
    }
    for job, lo, hi in connection.execute(SQL["asked_of"], values).fetchall():
        cancel_unleased(connection, job, (lo, hi))
