"""The queue as people use it: submit jobs, change them, look at them. For `cli` and `report`; a run uses
`queue.run_verbs`. How jobs are changed stands in `queue.people_verbs`.

Imports psycopg. Memory stays flat whatever the number of tasks, in both directions.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

from psycopg import Rollback
from psycopg.types.json import Jsonb

from mpifarm.core.job.policy import Policy
from mpifarm.core.lifecycle import STATES
from mpifarm.core.model import FailureClass, JobId, Limits, Parent, Part, RunId, State
from mpifarm.core.needs import Needs
from mpifarm.core.protocol.facts import FailureLine, JobSummary, PastAttempt, RunLine, Submitted, TaskLine, Terms
from mpifarm.core.ranges import disjoint
from mpifarm.errors import UsageError
from mpifarm.queue.arrays import Int4s
from mpifarm.queue.caps import cap
from mpifarm.queue.connection import Connection, Database
from mpifarm.queue.dependants import judge, settle
from mpifarm.queue.load import Loading, Place
from mpifarm.queue.naming import called, check_name, free_names, taken
from mpifarm.queue.people_verbs import Changes
from mpifarm.queue.screening import Screening
from mpifarm.queue.statements import queries
from mpifarm.server.dsn import Dsn
from mpifarm.server.liveness import surely_gone

if TYPE_CHECKING:
    from mpifarm.queue.output_places import Places

__all__ = ["Client", "FailureLine", "JobSummary", "RunLine", "TaskLine"]

SQL = queries()

_FAILURES = {failure.value: failure.name.lower() for failure in FailureClass}
_BAD = frozenset(("failed", "cancelled"))


class Client(Changes):
    """A connection to the queue; a context manager."""

    @classmethod
    def connect(cls, dsn: Dsn, answer_s: float | None = None) -> Client:
        """`answer_s`: as in `Database`. Raises QueueUnreachable, SchemaError, SiteError."""
        return cls(Database(dsn, answer_s=answer_s))

    def __enter__(self) -> Client:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        self._database.close()

    # --- submitting ------------------------------------------------------------------------------------------

    def submit(
        self,
        name: str | None,
        source: str,
        cwd: bytes,
        parts: Iterable[Part],
        progress: Callable[[int], None] | None = None,
    ) -> JobSummary:
        """A new job of all tasks in `parts`: see `submit_on`."""
        job = self.submit_on(Terms(name), source, cwd, parts, progress).job
        assert job is not None
        return job

    def submit_on(
        self,
        terms: Terms,
        source: str,
        cwd: bytes,
        parts: Iterable[Part],
        progress: Callable[[int], None] | None = None,
    ) -> Submitted:
        """A new job of the tasks in `parts`, or more tasks of a job, in one transaction: they appear whole or not at
        all. `progress` is told how many tasks were sent so far. Raises UsageError for a taken name, another directory
        than that of the job, a bad command, or no tasks."""
        if terms.name is not None:
            check_name(terms.name)
        with self._database.using() as connection:
            if terms.name is not None and connection.execute(SQL["job_named"], {"name": terms.name}).fetchone():
                raise taken(terms.name)
            earlier, cancelled = tuple[str, ...](), 0
            with connection.transaction():
                job, before = terms.job, 0
                if job is None:
                    job = JobId(_one(connection, "new_job_id", {}))
                else:
                    connection.execute(SQL["lock_adding"], {"job": job})
                    before = _size(connection, job, cwd)
                place = Place(connection, job, before, terms.after)
                loading = Screening(place, cwd, terms.once) if terms.dedupe or terms.once else Loading(place)
                loading.load(parts, progress)
                if loading.tasks + loading.skipped == 0:
                    raise UsageError(f"{source or 'the job'}: no tasks; nothing was submitted")
                if loading.tasks + before == 0:
                    raise Rollback  # nothing stays, not even a shape
                if loading.tasks:
                    _put_job(connection, terms, source, cwd, job, loading)
                    loading.make_ready()
                    if terms.after or terms.dedupe or terms.once:  # else whatever waits, waits for tasks beside it
                        cancelled = _look_at_parents(connection, job, before, terms.after, loading.parents)
                    earlier = _note_file(connection, terms, job, before, loading.tasks)
            summary = self._summaries(connection, job)[0] if loading.tasks or before else None
            left_out = tuple(loading.queued.items()), tuple(loading.ended.items())
            return Submitted(summary, loading.tasks, loading.skipped, earlier, *left_out, cancelled)

    # --- looking ---------------------------------------------------------------------------------------------

    def jobs(self) -> list[JobSummary]:
        """All jobs, oldest first."""
        with self._database.using() as connection:
            return self._summaries(connection, None)

    def find(self, selector: str) -> JobSummary:
        """The job with this name or number, or the youngest for `last`. Raises UsageError with near names."""
        with self._database.using() as connection:
            return self._summaries(connection, called(connection, selector)[0])[0]

    def tasks(
        self, job: JobId, *, ranges: Sequence[tuple[int, int]] | None = None, states: Collection[str] | None = None
    ) -> Iterator[TaskLine]:
        """Tasks in order of their number, fetched as they are asked for. `ranges`: half-open, None for all."""
        wanted = list(STATES if states is None else states)
        statement = SQL["tasks_bad" if _BAD.issuperset(wanted) else "tasks"]
        for lo, hi in disjoint(ranges) if ranges is not None else [(1, 2**31 - 1)]:
            values = {"job": job, "lo": lo, "hi": hi, "states": wanted}
            with (
                self._database.using() as connection,
                connection.transaction(),
                connection.cursor("tasks", binary=True) as cursor,
            ):
                cursor.itersize = cap("lines")
                cursor.execute(statement, values)
                for task, state, failure, *rest in cursor:
                    yield TaskLine(task, state, _FAILURES[failure or 0] if failure is not None else "", *rest)

    def places(self, job: JobId, lo: int = 1, hi: int = 2**31 - 1) -> Iterator[Places]:
        """Where the outputs of tasks from `lo` to `hi` are that have an outcome, many at once, in order."""
        from mpifarm.queue.output_places import places  # numpy

        with self._database.using() as connection:
            yield from places(connection, job, lo, hi)

    def counts(self, job: JobId, ranges: Sequence[tuple[int, int]]) -> dict[str, int]:
        """How many of these tasks are in which state; for a whole job, `find` costs less."""
        counts = dict.fromkeys(STATES, 0)
        with self._database.using() as connection:
            for lo, hi in disjoint(ranges):
                for state, count in connection.execute(SQL["counts"], {"job": job, "lo": lo, "hi": hi}):
                    counts[state] += count
        return counts

    def attempts(self, job: JobId, task: int) -> list[PastAttempt]:
        """The attempts of a task that do not count, in order."""
        with self._database.using() as connection:
            rows = connection.execute(SQL["attempts"], {"job": job, "no": task}).fetchall()
        return [
            PastAttempt(attempt, State(state).name.lower() if State(state).final else None, _FAILURES[failure], *rest)
            for attempt, state, failure, *rest in rows
        ]

    def taken_back(self, run: RunId) -> list[tuple[int, int, int]]:
        """(lease, lo, hi), in order, of tasks whose outcomes in this run no longer count."""
        with self._database.using() as connection:
            return connection.execute(SQL["taken_back"], {"run": run}).fetchall()

    def leased_when(self, lease: int) -> float | None:
        """When a lease was given, in Unix seconds; None once it is gone."""
        with self._database.using() as connection:
            row = connection.execute(SQL["leased_when"], {"lease": lease}).fetchone()
        return None if row is None else float(row[0])

    def shapes(self, job: JobId, lo: int = 1, hi: int = 2**31 - 1) -> list[tuple[int, int, Needs]]:
        """What the tasks from `lo` to `hi` need, as half-open ranges in order."""
        with self._database.using() as connection:
            rows = connection.execute(SQL["shapes"], {"job": job, "lo": lo, "hi": hi})
            return [(first, end, Needs.from_json(needs)) for first, end, needs in rows]

    def pending(self, job: JobId, lo: int = 1, hi: int = 2**31 - 1) -> dict[Needs, int]:
        """How many of the tasks from `lo` to `hi` are pending, by what they need."""
        with self._database.using() as connection:
            rows = connection.execute(SQL["ready_needs"], {"job": job, "lo": lo, "hi": hi})
            return {Needs.from_json(needs): tasks for needs, tasks in rows}

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
        for *values, room, boot, pid_started in rows:
            line = RunLine(*values)._replace(room=None if room is None else Needs.from_json(room))
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
    number, name, submitted, priority, held, source, cwd, total, tags, *counted, policy, max_fails = row
    waiting, pending, succeeded, failed, cancelled = counted
    # Every task is in one place: what neither waits nor is ready nor recorded is leased.
    running = total - waiting - pending - succeeded - failed - cancelled
    if running:
        state = "running"
    elif pending:
        state = "pending"
    elif waiting:
        state = "waiting"
    else:
        state = "failed" if failed else "cancelled" if cancelled else "succeeded"
    counts = (total, waiting, pending, running, succeeded, failed, cancelled)
    rest = tuple(sorted(tags.items())), Policy.from_json(policy), max_fails
    return JobSummary(JobId(number), name, state, submitted, priority, held, source, cwd, *counts, *rest)


def _size(connection: Connection, job: JobId, cwd: bytes) -> int:
    """Tasks of a job to which others are added from a directory. Raises UsageError."""
    row = connection.execute(SQL["job_size"], {"job": job}).fetchone()
    if row is None:
        raise UsageError(f"job {job} is gone; nothing was submitted")
    total, its_cwd, name = row
    if its_cwd != cwd:
        there = its_cwd.decode("utf-8", "backslashreplace")
        raise UsageError(
            f"the tasks of {name} start in {there}, and this is another directory: submit from there,"
            " or make a job of its own; nothing was submitted"
        )
    return int(total)


def _put_job(connection: Connection, terms: Terms, source: str, cwd: bytes, job: JobId, loading: Loading) -> None:
    """The row of the job: last, so that a submit that takes minutes keeps its name from nobody meanwhile."""
    if terms.job is not None:
        grown = {"job": job, "tasks": loading.tasks, "body_bytes": loading.body_bytes}
        if not connection.execute(SQL["grow_job"], grown).rowcount:
            raise UsageError(f"job {job} is gone; nothing was submitted")
        return
    row = {
        "id": job,
        "source": source,
        "cwd": cwd,
        "total": loading.tasks,
        "mean_bytes": max(1.0, loading.body_bytes / loading.tasks),
        "priority": terms.priority,
        "held": terms.held,
        "tags": Jsonb(dict(terms.tags)),
        "policy": Jsonb(terms.policy.to_json()),
        "max_fails": terms.max_fails,
    }
    for candidate in [terms.name] if terms.name is not None else free_names(source):
        if connection.execute(SQL["add_job"], {**row, "name": candidate}).rowcount:
            return
    raise taken(terms.name or source)


def _look_at_parents(
    connection: Connection, job: JobId, before: int, after: Sequence[Parent], others: set[JobId]
) -> int:
    """Begin at once what has nothing to wait for any more, and cancel what waits in vain. Returns how many tasks that
    is. `others`: jobs with parents, beside those of `after`."""
    parents = dict.fromkeys(others, 2) | {parent.job: parent.hi for parent in after if parent.job is not None}
    totals: dict[int, int] = dict(connection.execute(SQL["lock_parents"], {"jobs": Int4s(sorted(parents))}).fetchall())
    if any(hi > totals.get(parent, 0) + 1 for parent, hi in parents.items()):
        raise UsageError("a job that these tasks should wait for is gone; nothing was submitted")
    gates = [gate for (gate,) in connection.execute(SQL["gates_of_others"], {"job": job, "lo": before + 1})]
    doomed = judge(connection, gates)
    return sum(hi - lo for _, lo, hi in doomed) + settle(connection, doomed)


def _note_file(connection: Connection, terms: Terms, job: JobId, before: int, tasks: int) -> tuple[str, ...]:
    """Remember which file brought these tasks; the jobs that it brought tasks to before."""
    if terms.path is None or terms.digest is None:
        return ()
    file = {"path": terms.path, "digest": terms.digest()}
    jobs = [name for (name,) in connection.execute(SQL["submitted_before"], file)]
    place = {"job": job, "lo": before + 1, "hi": before + tasks + 1}
    connection.execute(SQL["note_submission"], file | place)
    return tuple(jobs)


def _one(connection: Connection, name: str, values: dict[str, Any]) -> int:
    row = connection.execute(SQL[name], values).fetchone()
    assert row is not None
    return int(row[0])
