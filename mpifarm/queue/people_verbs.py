"""How people change jobs that are in the queue. The part of `queue.client` that is not submit; imports psycopg.

Nothing is done per task where a range will do. Verbs of people take turns on a job by locking its row; what they meet
of runs is settled by the locks of ready ranges and leases (see sql/queries.sql). Afterwards every task is in exactly
one place, whatever ran at the same time.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from itertools import groupby
from operator import itemgetter

from psycopg.types.json import Jsonb

from mpifarm.core.model import FailureClass, JobId, Limits, Parent, RunId, State
from mpifarm.core.protocol.facts import EVERYTHING, Cancelled, Holding, Needed
from mpifarm.errors import UsageError
from mpifarm.queue.arrays import Int2s, Int4s
from mpifarm.queue.caps import cap
from mpifarm.queue.connection import Connection, Database
from mpifarm.queue.dead_runs import dead_runs, put_back
from mpifarm.queue.dependants import cancel, judge, settle
from mpifarm.queue.statements import queries
from mpifarm.server.liveness import surely_gone
from mpifarm.units import listed

SQL = queries()

Ranges = Sequence[tuple[int, int]]
"""Task numbers, half-open."""


class Changes:
    """The verbs that change jobs, on a connection of their own."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def set_job(
        self,
        job: JobId,
        *,
        priority: int | None = None,
        held: bool | None = None,
        tags: Mapping[str, str] | None = None,
    ) -> None:
        """Change what is not None; one row, whatever the number of tasks. Tags are added to those there are. Jobs of a
        higher priority are leased first; a held job is not leased from, and what runs goes on."""
        values = {"job": job, "priority": priority, "held": held, "tags": Jsonb(dict(tags or {}))}
        with self._database.using() as connection:
            connection.execute(SQL["set_job"], values)

    def set_priority(self, job: JobId, priority: int) -> None:
        """Higher ones are leased first."""
        self.set_job(job, priority=priority)

    def set_held(self, job: JobId, held: bool) -> None:
        """A held job is not leased from; what runs goes on."""
        self.set_job(job, held=held)

    def retry(
        self,
        job: JobId,
        *,
        ranges: Ranges = EVERYTHING,
        states: Collection[State] = (State.FAILED, State.CANCELLED),
        failures: Collection[FailureClass] = tuple(FailureClass),
    ) -> int:
        """Tasks that ended in these states and with these failures become ready again, as the next attempt, with all
        the retries of their job; those that wait for others wait again, also those that were cancelled because of the
        ones retried. Returns how many. In slices: when it is interrupted, some are ready again and the others are as
        they were."""
        values = {"job": job, "states": Int2s(sorted(states)), "failures": Int2s(sorted(failures))}
        statement = SQL["rerun" if State.SUCCEEDED in states else "retry"]
        never_began = State.CANCELLED in states and FailureClass.CANCELLED in failures
        done = 0
        with self._database.using() as connection:
            for lo, hi in ranges:
                start = lo
                while start < hi:
                    with connection.transaction():
                        _lock(connection, job)
                        span = {"lo": start, "hi": hi, "retried": cap("retried")}
                        row = connection.execute(statement, values | span).fetchone()
                        assert row is not None
                        tasks, last = row
                        done += tasks
                        if tasks:
                            done += _wake(connection, job, start, last + 1)
                    if tasks < span["retried"]:
                        break
                    start = last + 1
                if never_began:  # after their parents, because of whom they may have been cancelled
                    with connection.transaction():
                        connection.execute(SQL["lock_job"], {"job": job})
                        done += _number(connection, SQL["revive"], {"job": job, "lo": lo, "hi": hi})
                        done += _wake(connection, job, lo, hi)
        return done

    def rerun(self, job: JobId, *, ranges: Ranges = EVERYTHING) -> int:
        """Every task that has ended becomes ready again, also those that succeeded. Returns how many."""
        return self.retry(job, ranges=ranges, states=[state for state in State if state.final])

    def cancel(self, job: JobId, *, ranges: Ranges = EVERYTHING) -> Cancelled:
        """Tasks that nobody has leased will not run; the runs that hold others are asked to end them, which takes a
        heartbeat and what the tasks make of a SIGTERM. What waits for any of them to succeed is cancelled too."""
        with self._database.using() as connection, connection.transaction():
            connection.execute(SQL["lock_job"], {"job": job})
            tasks, runs = cancel(connection, job, ranges)
            if not runs:
                return Cancelled(tasks, 0, ())
            held = [_number(connection, SQL["held_of"], {"job": job, "lo": lo, "hi": hi}) for lo, hi in ranges]
            return Cancelled(tasks, sum(held), tuple(runs))

    def drain(self, run: RunId, *, now: bool = False) -> bool:
        """Ask a run to begin nothing more and to end when its tasks have, or `now`: within its grace. False: it is not
        live. It hears of that with its next heartbeat."""
        asked = {"run": run, "now": now, "lease_s": Limits().lease_s}
        with self._database.using() as connection:
            return connection.execute(SQL["ask_to_drain"], asked).rowcount > 0

    def needed(self, job: JobId, task: int) -> list[Needed]:
        """What a task waits for, or has waited for."""
        with self._database.using() as connection:
            return [Needed(*row) for row in connection.execute(SQL["needed"], {"job": job, "no": task})]

    def needs(self, job: JobId, first: int = 1) -> Iterator[tuple[int, int, tuple[Parent, ...]]]:
        """(lo, hi, parents) of the tasks from `first` on that wait, or have waited, for others; in order."""
        values = {"job": job, "first": first, "past": 0, "needs": cap("needs")}
        while True:
            with self._database.using() as connection:
                rows = connection.execute(SQL["needs"], values).fetchall()
            for (lo, hi), group in groupby(rows, itemgetter(0, 1)):
                yield lo, hi, tuple(Parent(first, end, any_end, job) for _, _, first, end, any_end, job in group)
            if len(rows) < values["needs"]:
                return
            values["past"] = rows[-1][0]

    def holdings(self, job: JobId | None = None) -> list[Holding]:
        """What runs hold, of one job or of all."""
        with self._database.using() as connection:
            return _holdings(connection, job)

    def recover(self, *, dry_run: bool = False) -> list[Holding]:
        """Put back what dead runs hold, as the next attempt. Returns what was, or would be, put back."""
        lease_s = Limits().lease_s
        with self._database.using() as connection:
            if dry_run:
                return [holding for holding in _holdings(connection, None) if holding.dead]
            found = {holding.run: holding for holding in _holdings(connection, None)}
            taken = []
            for run in dead_runs(connection, lease_s):
                with connection.transaction():
                    tasks = put_back(connection, [run])
                if run in found:
                    taken.append(found[run]._replace(tasks=tasks))
            return taken

    def drop(self, job: JobId) -> None:
        """Delete a job and all that the queue knows of it. Raises UsageError, and changes nothing, while a live run
        holds tasks of it."""
        named = {"job": job}
        with self._database.using() as connection, connection.transaction():
            connection.execute(SQL["lock_adding"], named)
            # Held, and with nothing ready, nobody can lease from it while the rest goes.
            connection.execute(SQL["set_job"], {"priority": None, "held": True, "tags": Jsonb({})} | named)
            others = [name for (name,) in connection.execute(SQL["dependants"], named)]
            if others:
                raise UsageError(f"tasks of {listed(others)} wait for tasks of this job: cancel or drop those first")
            connection.execute(SQL["drop_ready"], named)
            connection.execute(SQL["drop_waiting"], named)
            live = [holding for holding in _holdings(connection, job) if not holding.dead]
            if live:
                held = ", ".join(f"run {holding.run} holds {holding.tasks:,}" for holding in live)
                raise UsageError(f"tasks of this job are running ({held}): stop the run first; nothing was deleted")
            connection.execute(SQL["drop_leases"], named)
            connection.execute(SQL["drop_job"], named)


def _holdings(connection: Connection, job: JobId | None) -> list[Holding]:
    rows = connection.execute(SQL["holdings"], {"job": job, "lease_s": Limits().lease_s}).fetchall()
    return [
        Holding(RunId(run), host, dead or surely_gone(host, boot, pid, pid_started), age_s, tasks)
        for run, host, boot, pid, pid_started, dead, age_s, tasks in rows
    ]


def _lock(connection: Connection, job: JobId) -> None:
    """Let nobody lease, return or record tasks of a job until the commit; nor cancel what waits for them."""
    named: dict[str, object] = {"job": job}
    depended_on = _number(connection, SQL["has_dependants"], named)
    connection.execute(SQL["lock_parents"] if depended_on else SQL["lock_job"], {**named, "jobs": Int4s([job])})
    connection.execute(SQL["lock_job_leases"], named)


def _wake(connection: Connection, job: JobId, lo: int, hi: int) -> int:
    """After tasks [lo, hi) were retried: what was cancelled because of them waits again, and whatever waits is looked
    at. Returns the number of tasks that were cancelled and wait again, less those that are cancelled once more."""
    span = {"job": job, "lo": lo, "hi": hi}
    row = connection.execute(SQL["revive_dependants"], span).fetchone()
    assert row is not None
    revived, gates = row
    own = [gate for (gate,) in connection.execute(SQL["gates_of_job"], span)]
    doomed = judge(connection, [*gates, *own])
    return int(revived) - sum(end - first for _, first, end in doomed) - settle(connection, doomed)


def _number(connection: Connection, statement: bytes, values: dict[str, object]) -> int:
    row = connection.execute(statement, values).fetchone()
    assert row is not None
    return int(row[0])
