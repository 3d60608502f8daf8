"""The queue in Postgres, as a run uses it: one connection, one thread, one round trip per verb.

The statements stand in sql/queries.sql. Imports psycopg: only rank 0 may load this module.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import psycopg
from psycopg.errors import UniqueViolation
from psycopg.types.json import Jsonb

from mpifarm.core.job.policy import JobText, Policy
from mpifarm.core.model import Block, FailureClass, JobId, Kind, LeaseId, Limits, RunId, State, TaskText
from mpifarm.core.needs import Needs
from mpifarm.core.protocol.verbs import Batch, CancelTasks, DrainRun, Grant, Order, Return, RunInfo
from mpifarm.core.row import AttemptRow, output_checksums
from mpifarm.errors import QueueError, QueueUnreachable
from mpifarm.queue.arrays import Byteas, Float4s, Float8s, Int2s, Int4s, Int8s
from mpifarm.queue.caps import cap
from mpifarm.queue.connection import Connection, Database
from mpifarm.queue.dead_runs import dead_runs, put_back
from mpifarm.queue.dependants import (
    end_what_was_asked,
    gates_behind,
    judge,
    ranges_of,
    settle,
    stop_where_too_many_failed,
)
from mpifarm.queue.lease_limits import SILENT_S, check_batch, merged
from mpifarm.queue.naming import called
from mpifarm.queue.statements import queries
from mpifarm.server.dsn import Dsn
from mpifarm.server.liveness import process_started

SQL = queries()
# CPU of the server per row, in microseconds, for batches of 1000 and 5000 (PostgreSQL 18): with ON CONFLICT 4.9 and
# 3.9, without 3.5 and 2.8, COPY in a transaction of its own 2.9 and 1.3. COPY would need four round trips and the fence
# in Python for that; conflicts are rare enough to be met by trying again.
_SHAPES_KEPT = 10_000
_SHAPE = 13
"""The place of its number in a row of `lease`."""

_COUNTS = ("ready_left", "too_wide", "silent", "too_long", "waiting", "others_slots")
"""Of a Grant, in the order of `lease`."""
_MORE = 1 << 40
"""Added to a count that stopped at its cap."""


class PostgresQueue:
    """`mpifarm.queue.Queue` in a database."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._last_lease = 0  # the youngest that was answered
        self._answer_lost = False  # a lease was asked for and no answer came
        self._record_lost = False  # the same of a record
        self._orders_seen: list[int] = []
        self._shapes: dict[int, tuple[Kind, Needs]] = {}

    @classmethod
    def connect(cls, dsn: Dsn) -> PostgresQueue:
        """Raises QueueUnreachable, SchemaError, SiteError."""
        return cls(Database(dsn, answer_s=Limits().answer_s))

    def another(self) -> PostgresQueue:
        """A second connection to the same queue, for another thread. What one has heard of orders the other does not
        hear again: it may be about tasks that were retried since. Raises as `connect`."""
        made = PostgresQueue(self._database.another())
        made._orders_seen = self._orders_seen
        return made

    def close(self) -> None:
        self._database.close()

    # --- the run ---------------------------------------------------------------------------------------------

    def names_of(self, selectors: Sequence[str]) -> tuple[str, ...]:
        """The jobs that are meant by names, numbers and `last`; with `all` none, which is no choice. Raises
        UsageError."""
        if "all" in selectors:
            return ()
        with self._database.using() as connection:
            return tuple(dict.fromkeys(called(connection, selector)[1] for selector in selectors))

    def unmatched(self, tags: Sequence[str]) -> list[str]:
        """Returns those of these words of `RunInfo.tags` that fit no job now."""
        with self._database.using() as connection:
            return [word for (word,) in connection.execute(SQL["unmatched"], {"tags": list(tags)})]

    def open_run(self, run: RunInfo) -> RunId:
        values = {
            "host": run.host,
            "pid": run.pid,
            "pid_started": process_started(run.pid),
            "boot": run.boot,
            "allocation": run.allocation,
            "command": run.command,
            "version": run.version,
            "nodes": run.nodes,
            "ranks": run.ranks,
            "slots": run.slots,
            "node_names": list(run.node_names),
            "jobs": list(run.jobs),
            "tags": list(run.tags),
            "room": None if run.room is None else Jsonb(run.room.to_json()),
            "seconds_left": run.seconds_left,
        }
        with self._database.using() as connection:
            return RunId(_number(connection, "open_run", values))

    def name_file(self, run: RunId, path: str) -> None:
        with self._database.using() as connection:
            connection.execute(SQL["name_file"], {"run": run, "path": path})

    def renew(self, run: RunId) -> tuple[Order, ...]:
        values = {"run": run, "seen": Int8s(self._orders_seen)}
        with self._database.using() as connection:
            rows = connection.execute(SQL["renew"], values, prepare=True).fetchall()
        self._orders_seen += [number for number, *_ in rows]
        return tuple(DrainRun(now) if job is None else CancelTasks(job, lo, hi) for _, job, lo, hi, now in rows)

    def close_run(self, run: RunId) -> None:
        with self._database.using() as connection, connection.transaction():
            connection.execute(SQL["end_run"], {"run": run})
            put_back(connection, [run], waiting=True)
            connection.execute(SQL["forget_requests"], {"run": run})
            connection.execute(SQL["fold_tally"], {"run": run})

    def expire(self, lease_s: float) -> int:
        with self._database.using() as connection:
            dead = dead_runs(connection, lease_s)
            if not dead:
                return 0
            with connection.transaction():
                return put_back(connection, dead)

    # --- lease -----------------------------------------------------------------------------------------------

    def lease(self, run: RunId, tasks_max: int, bytes_max: int, room: Needs) -> Grant:
        values = {
            **room._asdict(),
            "resources": Jsonb(dict(room.resources)),
            "run": run,
            "tasks_max": tasks_max,
            "bytes_max": bytes_max,
            "leased": cap("leased"),
            "silent_s": SILENT_S,
        }
        try:
            with self._database.using() as connection:
                grant = self._lost_grant(connection, run)
                if not grant.blocks:
                    grant = self._ask(connection, SQL["lease"], values)
                if not grant.blocks and grant.ready_left:
                    # All of it was locked by others. Waiting for a single row cannot make a deadlock.
                    grant = self._ask(connection, SQL["lease_waiting"], {**values, "leased": 1})
        except QueueUnreachable:
            self._answer_lost = True
            raise
        if grant.blocks:
            self._last_lease = grant.blocks[-1].lease
        return grant

    def _lost_grant(self, connection: Connection, run: RunId) -> Grant:
        """What an answer that never arrived held: nobody else may run it while this run lives."""
        if not self._answer_lost:
            return Grant()
        connection.execute(SQL["await_leases"], {"run": run})
        grant = self._ask(connection, SQL["leased_since"], {"run": run, "last": self._last_lease})
        self._answer_lost = False
        return grant

    def _ask(self, connection: Connection, statement: bytes, values: dict[str, Any]) -> Grant:
        rows = connection.execute(statement, values, prepare=True, binary=True).fetchall()
        if rows and not rows[0][0]:
            raise QueueError(f"run {values['run']} has ended; it can lease nothing")
        blocks: list[Block] = []
        jobs: dict[JobId, JobText] = {}
        counts: list[int] = []
        shapes = self._shapes_of(connection, {row[_SHAPE] for row in rows if row[_SHAPE] is not None})
        for row in rows:
            counts, (lease, *of_lease) = list(map(int, row[1:7])), row[7:]
            if lease is not None:
                job, attempt, lo, fails, crashes, shape, name, cwd, policy, bodies, entries = of_lease
                tasks = list(map(TaskText, bodies, entries) if entries else map(TaskText, bodies))
                kind, needs = shapes[shape]
                blocks.append(Block(LeaseId(lease), JobId(job), attempt, needs, lo, tasks, fails, crashes, kind))
                if job not in jobs:
                    jobs[job] = JobText(JobId(job), name, cwd, Policy.from_json(policy))
        at_least = frozenset(name for name, count in zip(_COUNTS, counts) if count >= _MORE)
        return Grant(tuple(blocks), tuple(jobs.values()), *(count % _MORE for count in counts), at_least=at_least)

    def _shapes_of(self, connection: Connection, numbers: set[int]) -> Mapping[int, tuple[Kind, Needs]]:
        """These shapes at least, one object for all leases of each; those that are not known yet are asked for."""
        if numbers - self._shapes.keys():
            if len(self._shapes) >= _SHAPES_KEPT:
                self._shapes.clear()
            unknown = Int4s(sorted(numbers - self._shapes.keys()))
            for number, kind, needs in connection.execute(SQL["shapes_numbered"], {"shapes": unknown}):
                self._shapes[number] = Kind(kind), Needs.from_json(needs)
        return self._shapes

    # --- record ----------------------------------------------------------------------------------------------

    def record(self, run: RunId, batch: Batch) -> frozenset[LeaseId]:
        check_batch(batch)
        returned = merged(batch.returned)
        leases = {row.lease for row, _, _ in batch.outcomes} | {part.span.lease for part in returned} | set(batch.done)
        columns = _columns(batch)
        values = {
            "run": run,
            "leases": Int8s(sorted(leases)),
            "done": Int8s(batch.done),
            **_outcome_columns(batch, columns),
            **_span_columns(returned),
        }
        try:
            with self._database.using() as connection:
                held = self._write(connection, values, columns, returned)
                self._record_lost = False
                return self._late(connection, batch, returned, leases.difference(held))
        except QueueUnreachable:
            self._record_lost = True
            raise

    def _write(
        self, connection: Connection, values: dict[str, Any], columns: dict[str, Any], returned: list[Return]
    ) -> list[int]:
        """Send a batch, which may have been sent before; `columns`: of its outcomes. Returns the leases that it named
        and that still are."""
        resolved = ranges_of(zip(columns["job"], columns["task"]))
        back = [part.span for part in returned]
        never = (part.span for part in returned if part.failure is FailureClass.CANCELLED)
        resolved += [(span.job, span.lo, span.hi) for span in never]
        bad = State.FAILED.value
        failed = {job for job, state in zip(columns["job"], columns["state"]) if state == bad}

        def follow(recorded: psycopg.Cursor[tuple[Any, ...]], gates: list[int]) -> list[int]:
            given: dict[int, float] = dict(recorded)
            settle(connection, judge(connection, gates))
            end_what_was_asked(connection, values["run"], back, given)
            stop_where_too_many_failed(connection, failed)
            return list(given)

        if not self._record_lost:
            try:
                with _pipeline(connection), connection.transaction():
                    return follow(
                        connection.execute(SQL["record_new"], values, prepare=True), gates_behind(connection, resolved)
                    )
            except UniqueViolation:
                pass
        # What was recorded before may have been taken back meanwhile by a retry, which locks the leases as well: the
        # statement after the locks sees one or the other.
        with connection.transaction():
            connection.execute(SQL["lock_named_leases"], {"leases": values["leases"]})
            return follow(connection.execute(SQL["record"], values), gates_behind(connection, resolved))

    def _late(
        self, connection: Connection, batch: Batch, returned: list[Return], gone: set[LeaseId]
    ) -> frozenset[LeaseId]:
        """Returns those leases that are gone and of which something in the batch is not recorded."""
        if not gone:
            return frozenset()
        # A statement of its own: it must see what the same batch, sent before, committed meanwhile.
        rows = [row for row, _, _ in batch.outcomes if row.lease in gone]
        spans = [part for part in returned if part.span.lease in gone]
        named = {
            "lease": Int8s([row.lease for row in rows]),
            "job": Int4s([row.job for row in rows]),
            "no": Int4s([row.task for row in rows]),
            **_span_columns(spans),
        }
        return frozenset(LeaseId(lease) for (lease,) in connection.execute(SQL["unrecorded"], named))


def _columns(batch: Batch) -> dict[str, Any]:
    """The rows of the outcomes, by field."""
    fields = AttemptRow._fields
    rows = zip(*(row for row, _, _ in batch.outcomes))
    return dict(zip(fields, rows)) if batch.outcomes else dict.fromkeys(fields, ())


def _outcome_columns(batch: Batch, columns: dict[str, Any]) -> dict[str, object]:
    file_rows = [file_row for _, file_row, _ in batch.outcomes]
    sums = output_checksums(
        *(columns[name] for name in ("stdout_bytes", "stderr_bytes", "stdout_crc32", "stderr_crc32"))
    )
    return {
        "lease": Int8s(columns["lease"]),
        "no": Int4s(columns["task"]),
        "file_row": Int8s(file_rows),
        "started": Float8s(columns["started"]),
        # A node's clock may be set back while a task runs.
        "seconds": Float4s([max(0.0, ended - started) for started, ended in zip(columns["started"], columns["ended"])]),
        "node": Int4s(columns["node"]),
        "state": Int2s(columns["state"]),
        "failure": Int2s(columns["failure"]),
        "exit_code": Int2s(
            [None if signal or code < 0 else code for signal, code in zip(columns["signal"], columns["exit_code"])]
        ),
        "signal": Int2s([signal or None for signal in columns["signal"]]),
        "tail": Byteas([tail for _, _, tail in batch.outcomes]),
        "processes_left": Int2s([min(left, 32_767) or None for left in columns["left"]]),
        "checksum": Int4s([None if at is None else checksum for at, checksum in zip(file_rows, sums)]),
    }


def _span_columns(returned: list[Return]) -> dict[str, object]:
    return {
        "span_lease": Int8s([part.span.lease for part in returned]),
        "span_lo": Int4s([part.span.lo for part in returned]),
        "span_hi": Int4s([part.span.hi for part in returned]),
        "span_attempt": Int2s([part.span.attempt for part in returned]),
        "span_failure": Int2s([part.failure for part in returned]),
        "span_state": Int2s([part.state for part in returned]),
        "span_exit_code": Int2s([None if part.signal or part.exit_code < 0 else part.exit_code for part in returned]),
        "span_signal": Int2s([part.signal or None for part in returned]),
        "span_fails": Int2s([part.span.fails for part in returned]),
        "span_crashes": Int2s([part.span.crashes for part in returned]),
    }


def _number(connection: Connection, name: str, values: dict[str, Any]) -> int:
    row = connection.execute(SQL[name], values).fetchone()
    assert row is not None
    return int(row[0])


def _pipeline(connection: Connection) -> AbstractContextManager[object]:
    """Statements leave without waiting for each other's answers, where libpq (14) can do that: over a slow link a
    record is two round trips and not four."""
    return connection.pipeline() if psycopg.Pipeline.is_supported() else nullcontext()
