"""A database that goes away in every way there is: what the verbs of a run and of a person say, and when."""

from __future__ import annotations

import time
from collections.abc import Iterator

import psycopg
import pytest

from mpifarm.core.model import Limits
from mpifarm.core.protocol.verbs import Batch
from mpifarm.errors import QueueUnreachable
from mpifarm.queue.client import Client
from mpifarm.queue.connection import Database
from mpifarm.queue.run_verbs import PostgresQueue
from mpifarm.server.dsn import Dsn
from tests.queue.proxy import Proxy
from tests.queue.worlds import HERE, all_ended, lease, like_tasks, one

pytestmark = pytest.mark.postgres

ANSWER_S = 0.3


@pytest.fixture
def proxy(pg_dsn: Dsn) -> Iterator[Proxy]:
    with Proxy(str(psycopg.conninfo.conninfo_to_dict(pg_dsn.text)["host"])) as proxy:
        yield proxy


def through(proxy: Proxy, dsn: Dsn, **more: object) -> Dsn:
    words = {"host": "127.0.0.1", "port": proxy.port, **more}
    return Dsn(psycopg.conninfo.make_conninfo(dsn.text, **words), "the test")


@pytest.fixture
def queue(proxy: Proxy, pg_dsn: Dsn) -> Iterator[PostgresQueue]:
    """As a run has it, but that gives up sooner."""
    queue = PostgresQueue(Database(through(proxy, pg_dsn, connect_timeout=2), answer_s=ANSWER_S))
    yield queue
    queue.close()


def test_a_stalled_connection_is_noticed_and_replaced(proxy: Proxy, queue: PostgresQueue, pg_dsn: Dsn) -> None:
    """Every byte is acknowledged, none arrives: TCP sees nothing wrong."""
    with Client.connect(pg_dsn) as client:
        job = client.submit("job", "source", b"/tmp", like_tasks(10)).id
        run = queue.open_run(HERE)
        block = one(queue, run, 4)
        batch = Batch(all_ended(block), done=[block.lease])
        for verb in (
            lambda: queue.renew(run),
            lambda: lease(queue, run, 3, 1 << 20),
            lambda: queue.record(run, batch),
        ):
            proxy.stall()
            began = time.monotonic()
            with pytest.raises(QueueUnreachable, match=r"silent for 0\.3 s"):
                verb()
            assert ANSWER_S <= time.monotonic() - began < 30 * ANSWER_S  # the machine may be busy
            proxy.heal()  # what the old connection had swallowed arrives now, beside what is sent again
            verb()
        assert client.find("job").succeeded == 4
        assert client.misplaced(job) == []


def test_a_slow_answer_is_waited_for_as_long_as_something_comes(proxy: Proxy, pg_dsn: Dsn) -> None:
    """The limit is on silence, not on the whole: many answers in a row may take any time."""
    database = Database(through(proxy, pg_dsn), answer_s=ANSWER_S)
    with database.using() as connection:
        began = time.monotonic()
        for _ in range(4):
            connection.execute("SELECT pg_sleep(0.15)")
        assert time.monotonic() - began > 2 * ANSWER_S
    with pytest.raises(QueueUnreachable, match="silent"), database.using() as connection:
        connection.execute("SELECT pg_sleep(30)")
    database.close()


def test_a_person_may_ask_for_what_takes_long(pg_dsn: Dsn) -> None:
    database = Database(pg_dsn)
    with database.using() as connection:
        connection.execute("SELECT pg_sleep(0.5)")
    database.close()


@pytest.mark.parametrize("how", ["cut", "refuse"])
def test_a_verb_in_the_middle_of_an_outage_is_unreachable(proxy: Proxy, queue: PostgresQueue, how: str) -> None:
    run = queue.open_run(HERE)
    getattr(proxy, how)()
    with pytest.raises(QueueUnreachable):
        queue.renew(run)
        queue.renew(run)  # a cut may be heard of only after what was sent
    if how == "refuse":
        with pytest.raises(QueueUnreachable, match="refused"):
            queue.renew(run)
    proxy.heal()
    queue.renew(run)


def test_a_stalled_server_is_told_at_the_first_connection(proxy: Proxy, pg_dsn: Dsn) -> None:
    proxy.stall()
    with pytest.raises(QueueUnreachable, match=r"timeout[^$]*usual causes"):
        PostgresQueue.connect(through(proxy, pg_dsn, connect_timeout=2))


def test_a_transaction_that_is_cut_is_undone_and_may_be_sent_again(
    queue: PostgresQueue, pg_dsn: Dsn, caplog: pytest.LogCaptureFixture
) -> None:
    """The server ends the session between two statements of one transaction, as a restart does."""
    with Client.connect(pg_dsn) as client:
        job = client.submit("job", "source", b"/tmp", like_tasks(10)).id
        run = queue.open_run(HERE)
        block = one(queue, run, 4)
        batch = Batch(all_ended(block), done=[block.lease])
        queue._record_lost = True  # makes a transaction of two statements of it
        with psycopg.connect(pg_dsn.text, autocommit=True) as other, other.transaction():
            other.execute("SELECT id FROM mpifarm.lease FOR UPDATE")
            with pytest.raises(QueueUnreachable):
                queue.record(run, batch)  # silent: it waits for the lock
            other.execute(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
                " WHERE datname = current_database() AND wait_event_type = 'Lock'"
            )
        assert client.find("job").succeeded == 0
        assert not queue.record(run, batch)
        assert client.find("job").succeeded == 4 and client.misplaced(job) == []
    assert caplog.records == []


def test_the_limits_of_a_run_leave_time_for_a_new_connection() -> None:
    limits = Limits()
    assert limits.answer_s + 10 + limits.heartbeat_every_s < limits.lease_s
