"""The queue as people use it: submit jobs, look at them. For `cli` and `report`; a run uses `queue.postgres`.

Imports psycopg. Memory stays flat whatever the number of tasks, in both directions.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from pathlib import PurePath
from typing import Any

from mpifarm.core.model import FailureClass, JobId, Limits, Shape, TaskText
from mpifarm.errors import UsageError
from mpifarm.queue.connection import Connection, Database
from mpifarm.queue.dsn import Dsn
from mpifarm.queue.lines import FailureLine, JobSummary, RunLine, TaskLine
from mpifarm.queue.liveness import surely_gone
from mpifarm.queue.loading import Loading
from mpifarm.queue.statements import queries

__all__ = ["Client", "FailureLine", "JobSummary", "RunLine", "TaskLine"]

SQL = queries()

_FAILURES = {failure.value: failure.name.lower() for failure in FailureClass}
_BAD = frozenset(("failed", "cancelled"))
_STATES = ("pending", "running", "succeeded", "failed", "cancelled")
_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.+-]{0,99}")
_ROWS_AT_ONCE = 2000


class Client:
    """A connection to the queue; a context manager."""

    def __init__(self, database: Database) -> None:
        self._database = database

    @classmethod
    def connect(cls, dsn: Dsn) -> Client:
        """Raises QueueUnreachable, SchemaError, SiteError."""
        return cls(Database(dsn))

    def __enter__(self) -> Client:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        self._database.close()

    # --- changing --------------------------------------------------------------------------------------------

    def submit(
        self,
        name: str | None,
        source: str,
        cwd: bytes,
        parts: Iterable[tuple[Shape, list[TaskText]]],
        progress: Callable[[int], None] | None = None,
    ) -> JobSummary:
        """A new job of all tasks in `parts`, in one transaction: it appears whole or not at all. `progress` is told
        how many tasks were sent so far. Raises UsageError for a taken name, a bad command, or no tasks."""
        if name is not None:
            _check_name(name)
        with self._database.using() as connection:
            if name is not None and connection.execute(SQL["job_named"], {"name": name}).fetchone():
                raise _taken(name)
            with connection.transaction():
                job = JobId(_one(connection, "new_job_id", {}))
                loading = Loading(connection, job)
                loading.load(parts, progress)
                if loading.tasks == 0:
                    raise UsageError(f"{source or 'the job'}: no tasks; nothing was submitted")
                # Last, so that a submit that takes minutes keeps its name from nobody meanwhile.
                row = {
                    "id": job,
                    "source": source,
                    "cwd": cwd,
                    "total": loading.tasks,
                    "mean_bytes": max(1.0, loading.command_bytes / loading.tasks),
                }
                for candidate in [name] if name is not None else _names(source):
                    if connection.execute(SQL["add_job"], {**row, "name": candidate}).rowcount:
                        break
                else:
                    raise _taken(name or source)
                loading.make_ready()
            return self._summaries(connection, job)[0]

    def set_priority(self, job: JobId, priority: int) -> None:
        """Higher ones are leased first."""
        with self._database.using() as connection:
            connection.execute(SQL["set_priority"], {"job": job, "priority": priority})

    def set_held(self, job: JobId, held: bool) -> None:
        """A held job is not leased from; what runs goes on."""
        with self._database.using() as connection:
            connection.execute(SQL["set_held"], {"job": job, "held": held})

    # --- looking ---------------------------------------------------------------------------------------------

    def jobs(self) -> list[JobSummary]:
        """All jobs, oldest first."""
        with self._database.using() as connection:
            return self._summaries(connection, None)

    def find(self, selector: str) -> JobSummary:
        """The job with this name or number, or the youngest for `last`. Raises UsageError with near names."""
        with self._database.using() as connection:
            jobs = connection.execute(SQL["job_names"]).fetchall()
            if not jobs:
                raise UsageError(f"no job is called {selector!r}: there are no jobs yet")
            names = {name: number for number, name in jobs}
            numbers = {str(number): number for number in names.values()}
            numbers["last"] = jobs[-1][0]
            found = names.get(selector, numbers.get(selector))
            if found is None:
                near = difflib.get_close_matches(selector, names, n=3, cutoff=0.5) or [name for _, name in jobs[-3:]]
                raise UsageError(f"no job is called {selector!r}; there is {', '.join(near)}")
            return self._summaries(connection, found)[0]

    def tasks(
        self, job: JobId, *, ranges: Sequence[tuple[int, int]] | None = None, states: Collection[str] | None = None
    ) -> Iterator[TaskLine]:
        """Tasks in order of their number, fetched as they are asked for. `ranges`: half-open, None for all."""
        wanted = list(_STATES if states is None else states)
        statement = SQL["tasks_bad" if _BAD.issuperset(wanted) else "tasks"]
        for lo, hi in _disjoint(ranges) if ranges is not None else [(1, 2**31 - 1)]:
            values = {"job": job, "lo": lo, "hi": hi, "states": wanted}
            with (
                self._database.using() as connection,
                connection.transaction(),
                connection.cursor("tasks", binary=True) as cursor,
            ):
                cursor.itersize = _ROWS_AT_ONCE
                cursor.execute(statement, values)
                for task, state, failure, *rest in cursor:
                    yield TaskLine(task, state, _FAILURES[failure or 0] if failure is not None else "", *rest)

    def failures(self, job: JobId) -> list[FailureLine]:
        """What went wrong, the most frequent first."""
        with self._database.using() as connection:
            rows = connection.execute(SQL["failures"], {"job": job}).fetchall()
        return [FailureLine(_FAILURES[failure], *rest) for failure, *rest in rows]

    def durations(self, job: JobId) -> tuple[float, float, float] | None:
        """Median, 95th percentile and maximum of the seconds its recorded attempts took."""
        with self._database.using() as connection:
            row = connection.execute(SQL["durations"], {"job": job}).fetchone()
        return None if row is None or row[0] is None else tuple(row[0])

    def runs(self, job: JobId | None = None) -> list[RunLine]:
        """Runs that worked on a job, or all, oldest first."""
        with self._database.using() as connection:
            rows = connection.execute(SQL["runs"], {"job": job, "lease_s": Limits().lease_s}).fetchall()
        lines = []
        for *values, boot, pid_started in rows:
            line = RunLine(*values)
            gone = line.live and surely_gone(line.host, boot, line.pid, pid_started)
            lines.append(line._replace(live=False) if gone else line)
        return lines

    def misplaced(self, job: JobId) -> list[tuple[int, int]]:
        """Where tasks of a job are not in exactly one place: (expected, found) task numbers. Empty: all is well."""
        with self._database.using() as connection:
            return [(expected, found) for expected, found in connection.execute(SQL["misplaced"], {"job": job})]

    def _summaries(self, connection: Connection, job: JobId | None) -> list[JobSummary]:
        return [_summary(*row) for row in connection.execute(SQL["jobs"], {"job": job})]


def _summary(*row: Any) -> JobSummary:
    number, name, submitted, priority, held, source, cwd, total, pending, succeeded, failed, cancelled = row
    # Every task is in one place: what is neither ready nor recorded is leased.
    running = total - pending - succeeded - failed - cancelled
    if running:
        state = "running"
    elif pending:
        state = "pending"
    else:
        state = "failed" if failed else "cancelled" if cancelled else "succeeded"
    counts = (total, 0, pending, running, succeeded, failed, cancelled)
    return JobSummary(JobId(number), name, state, submitted, priority, held, source, cwd, *counts)


def _names(source: str) -> Iterator[str]:
    """Names made from where the tasks came from: tasks.txt is tasks, then tasks-2, tasks-3 ..."""
    stem = re.sub(r"[^A-Za-z0-9_.+-]+", "-", PurePath(source).stem).strip("-.+")[:80]
    if not stem or stem.isdigit() or stem == "last":
        stem = f"job-{stem}" if stem else "job"
    yield stem
    for number in range(2, 1_000_000):
        yield f"{stem}-{number}"


def _check_name(name: str) -> None:
    if name.isdigit() or name == "last" or not _NAME.fullmatch(name):
        raise UsageError(
            f"{name!r} cannot be the name of a job: letters, digits and _ . + - make one; digits alone or `last` do not"
        )


def _taken(name: str) -> UsageError:
    return UsageError(f"there is a job called {name!r} already; nothing was submitted")


def _disjoint(ranges: Sequence[tuple[int, int]]) -> list[tuple[int, int]]:
    """Sorted, overlaps merged: each task is told once."""
    merged: list[tuple[int, int]] = []
    for lo, hi in sorted(ranges):
        if merged and lo <= merged[-1][1]:
            merged[-1] = (merged[-1][0], max(hi, merged[-1][1]))
        else:
            merged.append((lo, hi))
    return merged


def _one(connection: Connection, name: str, values: dict[str, Any]) -> int:
    row = connection.execute(SQL[name], values).fetchone()
    assert row is not None
    return int(row[0])
