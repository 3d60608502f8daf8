"""The schema file and the migrations make the same database; other versions are refused with what to do."""

from __future__ import annotations

import threading
from typing import Any

import psycopg
import pytest

from mpifarm.core.model import FailureClass, Kind, State
from mpifarm.core.needs import Needs
from mpifarm.core.protocol.facts import Terms
from mpifarm.errors import QueueError, SchemaError
from mpifarm.queue import Batch, schema, statements
from mpifarm.queue.client import Client
from mpifarm.queue.run_verbs import PostgresQueue
from mpifarm.server.dsn import Dsn
from tests.queue.worlds import HERE, LEASE_S, all_ended, lease, like_tasks

pytestmark = pytest.mark.postgres

CATALOG = {
    "columns": """
        SELECT table_name, row_number() OVER (PARTITION BY table_name ORDER BY ordinal_position), column_name,
            data_type, udt_name, is_nullable, column_default, is_identity, identity_generation, generation_expression
        FROM information_schema.columns WHERE table_schema = 'mpifarm'""",
    "constraints": """
        SELECT conrelid::regclass::text, conname, pg_get_constraintdef(oid)
        FROM pg_constraint WHERE connamespace = 'mpifarm'::regnamespace AND contype <> 'n'""",
    "indexes": "SELECT indexname, indexdef FROM pg_indexes WHERE schemaname = 'mpifarm'",
    "views": "SELECT viewname, definition FROM pg_views WHERE schemaname = 'mpifarm'",
    "functions": """
        SELECT proname, pg_get_functiondef(oid) FROM pg_proc WHERE pronamespace = 'mpifarm'::regnamespace""",
    "relations": """
        SELECT relname, relkind, reloptions FROM pg_class WHERE relnamespace = 'mpifarm'::regnamespace""",
    "sequences": """
        SELECT sequencename, data_type::text, start_value, increment_by, max_value
        FROM pg_sequences WHERE schemaname = 'mpifarm'""",
}


def catalog(connection: psycopg.Connection[Any]) -> dict[str, list[str]]:
    return {name: sorted(map(repr, connection.execute(query))) for name, query in CATALOG.items()}


def test_schema_equals_migrations(pg_empty: Dsn) -> None:
    with psycopg.connect(pg_empty.text, autocommit=True) as connection:
        connection.execute(statements.schema())
        made = catalog(connection)
        connection.execute("DROP SCHEMA mpifarm CASCADE")
        assert schema.upgrade(connection) == (0, schema.VERSION)
        assert catalog(connection) == made
        assert all(made.values())
        assert schema.upgrade(connection) == (schema.VERSION, schema.VERSION)


def test_every_version_has_a_migration() -> None:
    assert len(statements.migrations()) == schema.VERSION
    assert b"INSERT INTO mpifarm.meta (version) VALUES (%d);" % schema.VERSION in statements.schema()


def test_made_on_first_use_by_whoever_comes_first(pg_empty: Dsn) -> None:
    errors: list[BaseException] = []

    def use() -> None:
        try:
            with Client.connect(pg_empty) as client:
                assert client.jobs() == []
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=use) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert not errors


@pytest.mark.parametrize(
    ("version", "says"), [(schema.VERSION + 1, "upgrade mpifarm"), (schema.VERSION - 1, "mpifarm db upgrade")]
)
def test_another_version_is_refused(pg_dsn: Dsn, version: int, says: str) -> None:
    with psycopg.connect(pg_dsn.text, autocommit=True) as connection:
        connection.execute("ALTER TABLE mpifarm.meta DROP CONSTRAINT meta_version_check")
        connection.execute("UPDATE mpifarm.meta SET version = %s", [version])
        with pytest.raises(SchemaError, match=says):
            Client.connect(pg_dsn)
        # And changes nothing.
        row = connection.execute("SELECT version FROM mpifarm.meta").fetchone()
        assert row == (version,)


def test_a_user_who_may_not_make_the_schema_is_told(pg_empty: Dsn) -> None:
    with psycopg.connect(pg_empty.text, autocommit=True) as connection:
        connection.execute("DO $$ BEGIN CREATE ROLE guest LOGIN; EXCEPTION WHEN duplicate_object THEN NULL; END $$")
        guest = Dsn(psycopg.conninfo.make_conninfo(pg_empty.text, user="guest"), "the test")
        with pytest.raises(QueueError, match="GRANT CREATE ON DATABASE"):
            Client.connect(guest)


def test_the_numbers_in_checks_are_those_of_the_model(pg_dsn: Dsn) -> None:
    """The checks say 0..2 and 0..9."""
    assert sorted(state.value for state in State if state.final) == [0, 1, 2]
    assert sorted(failure.value for failure in FailureClass) == list(range(10))
    with psycopg.connect(pg_dsn.text, autocommit=True) as connection, pytest.raises(psycopg.errors.CheckViolation):
        connection.execute(
            "INSERT INTO mpifarm.outcome"
            " (job, no, lease, run, file_row, started, seconds, node, attempt, state, failure)"
            " VALUES (1, 1, 1, 1, 0, 0, 0, 0, 1, 3, 1)"
        )


def test_a_queue_of_version_1_with_work_under_way_is_upgraded_and_goes_on(pg_empty: Dsn) -> None:
    with psycopg.connect(pg_empty.text, autocommit=True) as connection:
        connection.execute(statements.migrations()[0])
        for statement in (
            "INSERT INTO mpifarm.job (name, source, cwd, total, mean_bytes) VALUES ('old', 'f', '/', 10, 4)",
            "INSERT INTO mpifarm.task SELECT 1, no, 'true' FROM generate_series(1, 10) AS no",
            "INSERT INTO mpifarm.shape VALUES (1, 1, 11, 1, 0)",
            "INSERT INTO mpifarm.ready (job, attempt, cpus, time_limit_s, lo, hi) VALUES (1, 1, 1, 0, 7, 11)",
            """INSERT INTO mpifarm.run (host, pid, boot, allocation, command, version, nodes, ranks, slots, node_names)
                VALUES ('h', 1, '', '', '', '', 1, 1, 1, '{n}')""",
            "INSERT INTO mpifarm.heartbeat VALUES (1, now() - interval '1 hour')",
            "INSERT INTO mpifarm.lease (run, job, attempt, cpus, time_limit_s, lo, hi) VALUES (1, 1, 1, 1, 0, 1, 6)",
            "INSERT INTO mpifarm.outcome VALUES (1, 2, 1, 1, 0, 0, 0, 0, 1, 1, 1, 3, NULL, 'oh no')",
            "INSERT INTO mpifarm.tally VALUES (1, 1, 0, 1, 0, 0, 1)",
            "INSERT INTO mpifarm.cancelled (job, lo, hi, attempt, cpus, time_limit_s) VALUES (1, 6, 7, 1, 1, 0)",
        ):
            connection.execute(statement.encode())
        with pytest.raises(SchemaError, match="mpifarm db upgrade"):
            Client.connect(pg_empty)
        assert schema.upgrade(connection) == (1, schema.VERSION)
    queue = PostgresQueue.connect(pg_empty)
    with Client.connect(pg_empty) as client:
        (job,) = client.jobs()
        assert (job.pending, job.running, job.failed, job.cancelled) == (4, 4, 1, 1)
        assert queue.expire(LEASE_S) == 4
        assert client.retry(job.id) == 2
        run = queue.open_run(HERE)
        blocks = lease(queue, run).blocks
        outcomes = [outcome for block in blocks for outcome in all_ended(block)]
        assert not queue.record(run, Batch(outcomes, done=[block.lease for block in blocks]))
        assert client.find("old").succeeded == 10
        assert not client.misplaced(job.id)
    queue.close()


def test_a_queue_of_version_2_with_work_under_way_is_upgraded_and_goes_on(pg_empty: Dsn) -> None:
    """What each task needs is as it was, wherever the task is."""
    narrow, wide = "1, 0", "4, 0.1"
    needed = "job, cpus, time_limit_s, lo, hi"
    columns = "attempt, job, cpus, time_limit_s, lo, hi"
    with psycopg.connect(pg_empty.text, autocommit=True) as connection:
        for migration in statements.migrations()[:2]:
            connection.execute(migration)
        for statement in (
            "UPDATE mpifarm.meta SET version = 2",
            """INSERT INTO mpifarm.job (name, source, cwd, total, mean_bytes)
                VALUES ('old', 'f', '/', 24, 4), ('other', 'f', '/', 2, 4)""",
            "INSERT INTO mpifarm.task SELECT 1, no, 'true' FROM generate_series(1, 24) AS no",
            "INSERT INTO mpifarm.task SELECT 2, no, 'true' FROM generate_series(1, 2) AS no",
            f"INSERT INTO mpifarm.shape ({needed}) VALUES (1, {narrow}, 1, 11), (1, {wide}, 11, 21)",
            f"INSERT INTO mpifarm.shape ({needed}) VALUES (1, {narrow}, 21, 25), (2, {wide}, 1, 3)",
            f"INSERT INTO mpifarm.ready ({columns}, fails) VALUES (2, 1, {narrow}, 7, 11, 1)",
            f"INSERT INTO mpifarm.ready ({columns}) VALUES (1, 1, {wide}, 15, 19)",
            f"INSERT INTO mpifarm.waiting ({columns}) VALUES (1, 1, {narrow}, 21, 25), (1, 2, {wide}, 1, 3)",
            "INSERT INTO mpifarm.need VALUES (1, 21, 25, 1, 11, 13, false), (2, 1, 3, 1, 1, 2, true)",
            """INSERT INTO mpifarm.run (host, pid, boot, allocation, command, version, nodes, ranks, slots, node_names)
                VALUES ('h', 1, '', '', '', '', 1, 1, 1, '{n}')""",
            "INSERT INTO mpifarm.heartbeat VALUES (1, now() - interval '1 hour')",
            f"INSERT INTO mpifarm.lease (run, {columns}) VALUES (1, 1, 1, {narrow}, 1, 7), (1, 1, 1, {wide}, 11, 15)",
            "INSERT INTO mpifarm.outcome VALUES (1, 2, 1, 1, 0, 0, 0, 0, 1, 1, 1, 3, NULL, 'oh no', NULL)",
            "INSERT INTO mpifarm.tally VALUES (1, 1, 0, 1, 0, 0, 1)",
            f"INSERT INTO mpifarm.cancelled ({columns}) VALUES (1, 1, {wide}, 19, 21)",
        ):
            connection.execute(statement.encode())
        assert schema.upgrade(connection) == (2, schema.VERSION)
    queue = PostgresQueue.connect(pg_empty)
    with Client.connect(pg_empty) as client:
        old, other = client.jobs()
        assert (old.pending, old.running, old.failed, old.cancelled, old.waiting) == (8, 9, 1, 2, 4)
        needs = Needs(), Needs(4, time_limit_s=0.1)
        assert client.shapes(old.id) == [(1, 11, needs[0]), (11, 21, needs[1]), (21, 25, needs[0])]
        assert client.shapes(other.id) == [(1, 3, needs[1])]
        assert client.pending(old.id) == {needs[0]: 4, needs[1]: 4}
        assert queue.expire(LEASE_S) == 9
        assert client.retry(old.id) == 3
        run, done = queue.open_run(HERE), 0
        while blocks := lease(queue, run).blocks:
            for block in blocks:
                assert block.needs == needs[block.job == other.id or 11 <= block.lo < 21], block
                assert (block.kind, block.fails) == (Kind.COMMAND, 7 <= block.lo < 11)
                done += len(block.tasks)
            outcomes = [outcome for block in blocks for outcome in all_ended(block)]
            assert not queue.record(run, Batch(outcomes, done=[block.lease for block in blocks]))
        assert done == 26
        assert [job.succeeded for job in client.jobs()] == [24, 2]
        assert not client.misplaced(old.id) and not client.misplaced(other.id)
        client.submit_on(Terms(job=old.id), "f", b"/", like_tasks(1, needs[1]) + like_tasks(1, Needs(2)))
        assert [its for _, _, its in client.shapes(old.id)] == [*needs, needs[0], needs[1], Needs(2)]
    queue.close()
