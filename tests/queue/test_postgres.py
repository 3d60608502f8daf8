"""The queue in Postgres keeps the contract, survives lost answers, and reads by index whatever it holds."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import psycopg
import pytest

from mpifarm.core.model import FailureClass, TaskText
from mpifarm.core.needs import Needs
from mpifarm.errors import QueueUnreachable
from mpifarm.queue import Batch, Return
from mpifarm.queue.run_verbs import SQL, PostgresQueue
from mpifarm.server import liveness
from mpifarm.server.dsn import Dsn
from tests.queue.contract import QueueContract
from tests.queue.proxy import Proxy
from tests.queue.worlds import HERE, LEASE_S, PostgresWorld, all_ended, ended, lease, like_tasks, one, span

pytestmark = pytest.mark.postgres


@pytest.fixture
def world(pg_dsn: Dsn) -> Iterator[PostgresWorld]:
    world = PostgresWorld(pg_dsn)
    yield world
    world.close()


class TestPostgresQueue(QueueContract):
    pass


@pytest.fixture
def wire(world: PostgresWorld) -> Iterator[tuple[PostgresQueue, Proxy]]:
    """A second queue on the same database, over a wire that can lose answers."""
    given = psycopg.conninfo.conninfo_to_dict(world.dsn.text)
    with tempfile.TemporaryDirectory() as folder, Proxy(str(given["host"]), Path(folder)) as proxy:
        queue = PostgresQueue.connect(Dsn(psycopg.conninfo.make_conninfo(world.dsn.text, host=folder), "the test"))
        yield queue, proxy
        queue.close()


def lost(proxy: Proxy, call: Callable[[], object]) -> None:
    """The call reaches the server, its answer does not come back."""
    proxy.lose_next_answer()
    with pytest.raises(QueueUnreachable, match="does not answer"):
        call()


def test_a_lost_lease_comes_with_the_next(world: PostgresWorld, wire: tuple[PostgresQueue, Proxy]) -> None:
    queue, proxy = wire
    job = world.submit([(Needs(), [TaskText(b"%d" % number, b"entry") for number in range(10)])])
    run = queue.open_run(HERE)
    first = one(queue, run, 3)
    lost(proxy, lambda: lease(queue, run, 4))
    assert world.counts(job) == {"running": 7, "pending": 3}
    again = one(queue, run)
    assert (again.lo, again.hi, again.attempt) == (4, 8, 1)
    assert again.tasks[0] == TaskText(b"3", b"entry")
    rest = one(queue, run)
    assert (rest.lo, rest.hi) == (8, 11)
    outcomes = [outcome for block in (first, again, rest) for outcome in all_ended(block)]
    assert not queue.record(run, Batch(outcomes, done=[first.lease, again.lease, rest.lease]))
    assert world.counts(job) == {"succeeded": 10}


def test_a_lost_record_is_not_doubled(world: PostgresWorld, wire: tuple[PostgresQueue, Proxy]) -> None:
    """Whichever answer of the server is lost: that of the outcomes, or that of the commit."""
    queue, proxy = wire
    job = world.submit(like_tasks(60))
    run = queue.open_run(HERE)
    committed = set()
    for number in range(6):
        block = one(queue, run, 10)
        first = Batch([ended(block, block.lo)], [Return(span(block, block.lo + 1, block.lo + 3), FailureClass.LOST)])
        last = Batch([ended(block, task) for task in range(block.lo + 3, block.hi)], done=[block.lease])
        for batch in (first, last):
            before = world.counts(job)
            proxy.lose_next_answer(number)
            try:
                queue.record(run, batch)
            except QueueUnreachable:
                committed.add(world.counts(job) != before)
            proxy.heal()
            assert queue.record(run, batch) == frozenset()
            world.check()
        world.client.cancel(job, ranges=[(block.lo + 1, block.lo + 3)])  # what was lost need not come again
    assert committed == {True, False}
    assert world.counts(job) == {"succeeded": 48, "cancelled": 12}
    (line,) = world.client.runs(job)
    assert (line.succeeded, line.returned, line.busy_s) == (48, 12, 120.0)


def test_other_verbs_may_be_sent_again(world: PostgresWorld, wire: tuple[PostgresQueue, Proxy]) -> None:
    queue, proxy = wire
    job = world.submit(like_tasks(4))
    run = queue.open_run(HERE)
    lease(queue, run, 3)
    calls: list[Callable[[], None]] = [
        lambda: queue.renew(run),
        lambda: queue.name_file(run, "/f"),
        lambda: queue.close_run(run),
    ]
    for call in calls:
        lost(proxy, call)
        call()
        world.check()
    assert world.counts(job) == {"pending": 4}


def test_a_server_that_restarts_is_met_again(world: PostgresWorld) -> None:
    job = world.submit(like_tasks(4))
    run = world.queue.open_run(HERE)
    world.plain.execute(
        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
        " WHERE datname = current_database() AND pid <> pg_backend_pid()"
    )
    with pytest.raises(QueueUnreachable):
        world.queue.renew(run)
    world.queue.renew(run)
    assert one(world.queue, run).job == job


def test_a_process_that_is_gone_needs_no_waiting(world: PostgresWorld) -> None:
    """On the same host and boot, a run's death is a fact and not a matter of heartbeats."""
    world.submit(like_tasks(4))
    here = replace(HERE, host=socket.gethostname(), boot=liveness.boot_id())
    process = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    run = world.queue.open_run(replace(here, pid=process.pid))
    alive = world.queue.open_run(replace(here, pid=os.getpid()))
    lease(world.queue, run, 2)
    lease(world.queue, alive, 2)
    assert world.queue.expire(LEASE_S) == 0
    assert all(line.live for line in world.client.runs())
    process.communicate(b"\n", timeout=30)
    assert [line.live for line in world.client.runs()] == [False, True]
    assert world.queue.expire(LEASE_S) == 2


def test_another_process_with_the_same_pid_is_not_the_run() -> None:
    host, boot, pid = socket.gethostname(), liveness.boot_id(), os.getpid()
    started = liveness.process_started(pid)
    assert started is not None
    assert not liveness.surely_gone(host, boot, pid, started)
    assert liveness.surely_gone(host, boot, pid, started - 1)
    assert not liveness.surely_gone("another", boot, pid, started - 1)
    assert not liveness.surely_gone(host, "another", pid, started - 1)


def test_hot_statements_never_scan_a_table_of_tasks(world: PostgresWorld) -> None:
    """At a million tasks, whatever statistics there are by chance when a plan is made, and with a thousand spans."""
    job, tasks = world.submit(like_tasks(1)), 1_000_000
    for statement in (
        "INSERT INTO mpifarm.task SELECT 1, no, 'true' FROM generate_series(2, %(tasks)s) AS no",
        "UPDATE mpifarm.job SET total = %(tasks)s",
        "UPDATE mpifarm.task_shape SET hi = %(tasks)s + 1",
        """INSERT INTO mpifarm.shape (job, kind, needs)
            SELECT 2, 0, jsonb_build_object('time_limit_s', no) FROM generate_series(1, %(tasks)s / 100) AS no""",
        "UPDATE mpifarm.ready SET lo = %(tasks)s / 2 + 1, hi = %(tasks)s + 1",
        """INSERT INTO mpifarm.outcome (job, no, lease, run, file_row, started, seconds, node, attempt, state, failure)
            SELECT 1, no, 1, 1, no, 0, 0, 0, 1, 0, 0 FROM generate_series(1, %(tasks)s / 2) AS no""",
    ):
        world.plain.execute(statement.encode(), {"tasks": tasks})
    run = world.queue.open_run(HERE)
    block = one(world.queue, run, 1000)
    assert (block.job, block.lo) == (job, tasks // 2 + 1)
    some = list(range(block.lo, block.hi))
    leases, reals = [block.lease] * len(some), [1.0] * len(some)
    values: dict[str, dict[str, object]] = {
        "lease": {"tasks_max": 1000, "bytes_max": 1 << 20, "leased": 64, "silent_s": 15.0}
        | Needs(8)._asdict() | {"resources": "{}"},
        "record": {
            "leases": [block.lease], "done": [block.lease], "lease": leases, "no": some,
            "file_row": some, "started": reals, "seconds": reals, "node": some,
            "state": some, "failure": some, "exit_code": some, "signal": some,
            "tail": [b""] * len(some), "checksum": some, "processes_left": some,
            "span_lease": leases, "span_lo": some, "span_hi": some,
            "span_attempt": some, "span_failure": some, "span_state": some, "span_exit_code": some,
            "span_signal": some, "span_fails": some, "span_crashes": some,
        },
        "lock_gates": {"job": [job] * len(some), "lo": some, "hi": [no + 1 for no in some]},
        "judge": {"gates": some},
        "put_back": {"leases": [block.lease]},
        "add_shapes": {"job": job, "kind": [0] * 1000, "needs": [f'{{"cpus": {cpus}}}' for cpus in some]},
    }  # fmt: skip
    for known in ("", "ANALYZE mpifarm.task", "ANALYZE mpifarm.outcome", "ANALYZE"):
        world.plain.execute(known.encode())
        for name, arguments in values.items():
            rows = world.plain.execute(b"EXPLAIN " + SQL[name], {"run": run, **arguments})
            plan = "\n".join(row[0] for row in rows)
            for table in ("task", "outcome", "shape"):
                assert f"Seq Scan on {table}" not in plan, f"{known} {name}\n{plan}"
