"""The queue behind a pooler in transaction mode: what a transaction leaves in its session is not there in the next."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest

from mpifarm.core.model import Parent, Part, State, TaskText
from mpifarm.core.needs import Needs
from mpifarm.core.protocol.facts import Terms
from mpifarm.queue import Batch
from mpifarm.queue.client import Client
from mpifarm.queue.connection import Database
from mpifarm.queue.run_verbs import PostgresQueue
from mpifarm.server.dsn import Dsn
from tests.fix_farm import Farm
from tests.queue.pooler import Pooler
from tests.queue.worlds import HERE, all_ended, ended, lease, like_tasks, one

pytestmark = pytest.mark.postgres


@pytest.fixture
def pooled(pg_dsn: Dsn) -> Iterator[Dsn]:
    """The queue of the test, behind a pooler."""
    with Pooler(str(psycopg.conninfo.conninfo_to_dict(pg_dsn.text)["host"])) as pooler:
        yield Dsn(psycopg.conninfo.make_conninfo(pg_dsn.text, host="127.0.0.1", port=pooler.port), "the test")


def jit(dsn: Dsn) -> set[str]:
    database = Database(dsn)
    try:
        with database.using() as connection:
            return {row[0] for _ in range(4) for row in connection.execute("SHOW jit")}
    finally:
        database.close()


def test_the_pooler_of_these_tests_is_one(pooled: Dsn) -> None:
    with psycopg.connect(pooled.text, autocommit=True) as plain:
        pids = [plain.execute("SELECT pg_backend_pid()").fetchone() for _ in range(4)]
        assert pids[0] == pids[2] != pids[1] == pids[3]
        with plain.transaction():
            assert len({plain.execute("SELECT pg_backend_pid()").fetchone() for _ in range(4)}) == 1
        with pytest.raises(psycopg.errors.InvalidSqlStatementName):
            for _ in range(3):
                plain.execute("SELECT %s::text", ["prepared"], prepare=True)


def test_nothing_is_left_in_sessions_of_others(pooled: Dsn, pg_dsn: Dsn) -> None:
    with psycopg.connect(pg_dsn.text, autocommit=True) as plain:
        plain.execute("ALTER ROLE CURRENT_USER SET jit = on")
        try:
            assert jit(pg_dsn) == {"off"} and jit(pooled) == {"on"}
        finally:
            plain.execute("ALTER ROLE CURRENT_USER RESET jit")


def test_the_verbs_of_a_run(pooled: Dsn) -> None:
    """Each oftener than psycopg waits before it prepares a statement by itself."""
    client, queue = Client.connect(pooled), PostgresQueue.connect(pooled)
    heartbeat = queue.another()
    job = client.submit("job", "job", b"/tmp", [Part(*part) for part in like_tasks(40)]).id
    run = queue.open_run(HERE)
    queue.name_file(run, "/tmp/file.h5")
    for _ in range(8):
        block = one(queue, run, 4)
        heartbeat.renew(run)
        assert not queue.record(run, Batch(all_ended(block), done=[block.lease]))
        assert queue.expire(60.0) == 0
    block = one(queue, run, 4)
    queue.record(run, Batch([ended(block, block.lo, State.FAILED)]))
    assert client.cancel(job, ranges=[(block.lo + 1, block.lo + 2)]).asked == 1
    assert len(heartbeat.renew(run)) == 1
    queue.close_run(run)
    assert not client.misplaced(job)
    assert client.find("job").succeeded == 32 and client.find("job").failed == 1
    for door in (heartbeat, queue, client):
        door.close()


def test_the_verbs_of_people(pooled: Dsn) -> None:
    with Client.connect(pooled) as client:
        parts = [Part(Needs(), [TaskText(b"a"), TaskText(b"b")]), Part(Needs(2), [TaskText(b"c")], (Parent(1, 3),))]
        cwd = os.fsencode(Path.cwd())
        for number in range(8):
            client.submit_on(Terms(f"job{number}", dedupe=number > 3), "source", cwd, parts)
        job = client.find("job0").id
        for _ in range(8):
            assert client.cancel(job).tasks == 3 and client.retry(job) == 3
            client.set_job(job, priority=3, tags={"a": "b"})
            assert [line.task for line in client.tasks(job)] == [1, 2, 3]
            assert len(client.jobs()) == 4 and not client.misplaced(job)
            assert client.needed(job, 3) and client.pending(job) and client.shapes(job)
            assert client.counts(job, [(1, 3)])["pending"] == 2 and not client.recover()
        client.drop(job)
        assert len(client.jobs()) == 3


def test_a_whole_farm(farm: Farm, pooled: Dsn) -> None:
    environ = {"MPIFARM_DSN": pooled.text}
    (farm.cwd / "tasks.txt").write_text("".join(f"echo {number}\n" for number in range(2000)) + "false\n")
    farm.run("submit", "tasks.txt", environ=environ)
    out, said = farm.run("run", "--cpus", "2", ranks=2, environ=environ)
    assert b"2,000 succeeded, 1 failed" in out and "queue:" not in said
    assert b"1999\n" in farm.run("report", "tasks", "--tasks", "1-2000", environ=environ)[0]


def test_a_new_queue(pg_empty: Dsn) -> None:
    with Pooler(str(psycopg.conninfo.conninfo_to_dict(pg_empty.text)["host"])) as pooler:
        dsn = Dsn(psycopg.conninfo.make_conninfo(pg_empty.text, host="127.0.0.1", port=pooler.port), "the test")
        queue = PostgresQueue.connect(dsn)
        assert not lease(queue, queue.open_run(HERE)).blocks
        queue.close()
