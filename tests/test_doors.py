"""The queue's door on a real Postgres: what goes on while a verb takes long."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import psycopg
import pytest

from mpifarm.core.model import JobId, Limits, Part, State, TaskText
from mpifarm.core.needs import Needs
from mpifarm.core.protocol.actions import AskLease, AskRecord, Granted, Ordered, QueueTrouble, Recorded
from mpifarm.core.protocol.facts import Terms
from mpifarm.core.protocol.verbs import Batch, CancelTasks, DrainRun
from mpifarm.rank.queue_door import Inbox, QueueDoor
from mpifarm.server.dsn import Dsn
from tests.fix_farm import wait_for
from tests.queue.worlds import HERE, PostgresWorld, ended, like_tasks, one

pytestmark = pytest.mark.postgres

LIMITS = Limits(heartbeat_every_s=0.1, silent_s=1.0)


@pytest.fixture
def world(pg_dsn: Dsn) -> Iterator[PostgresWorld]:
    made = PostgresWorld(pg_dsn)
    yield made
    made.close()


def beat(world: PostgresWorld) -> Any:
    row = world.plain.execute("SELECT beat FROM mpifarm.heartbeat").fetchone()
    assert row is not None
    return row[0]


def bug(error: BaseException) -> None:
    raise error


def take(inbox: Inbox, kind: type) -> Any:
    """The next event of a kind; others are dropped."""
    found: list[Any] = []

    def came() -> bool:
        found.extend(event for _, event in inbox.take() if isinstance(event, kind))
        return bool(found)

    wait_for(came, str(kind))
    return found[0]


def test_a_long_verb_stops_neither_the_heartbeat_nor_orders(world: PostgresWorld, pg_dsn: Dsn) -> None:
    world.submit(like_tasks(3))
    run = world.queue.open_run(HERE)
    inbox = Inbox()
    door = QueueDoor(world.queue, run, LIMITS, inbox, bug)
    door.start()
    with psycopg.connect(pg_dsn.text) as other:
        other.execute("SELECT FROM mpifarm.run FOR NO KEY UPDATE")
        door.ask(AskLease(3, Needs()))
        wait_for(lambda: other.execute("SELECT 1 FROM pg_locks WHERE NOT granted").fetchone(), "the lease to hang")
        for _ in range(3):
            before = beat(world)
            wait_for(lambda before=before: beat(world) > before, "a heartbeat")  # type: ignore[misc]
        assert world.client.drain(run)
        assert take(inbox, Ordered).orders == (DrainRun(False),)
        other.rollback()
    assert len(take(inbox, Granted).grant.blocks) == 1
    door.leave(5.0)


def test_a_run_takes_two_connections_and_lives_with_one(world: PostgresWorld) -> None:
    run = world.queue.open_run(HERE)
    inbox = Inbox()
    world.queue.another = refuse  # type: ignore[method-assign]
    door = QueueDoor(world.queue, run, LIMITS, inbox, bug)
    door.start()
    for _ in range(2):
        before = beat(world)
        wait_for(lambda before=before: beat(world) > before, "a heartbeat by the door itself")  # type: ignore[misc]
    door.leave(5.0)
    assert not [event for _, event in inbox.take() if isinstance(event, QueueTrouble)]


def test_the_other_connection_does_not_tell_old_orders_again(world: PostgresWorld) -> None:
    run = world.queue.open_run(HERE)
    other = world.queue.another()
    assert world.client.drain(run)
    assert other.renew(run) == (DrainRun(False),)
    assert world.queue.renew(run) == ()
    other.close()


def refuse() -> Any:
    from mpifarm.errors import QueueUnreachable

    raise QueueUnreachable("too many connections")


@pytest.mark.parametrize("most", [0, 3])
def test_a_run_hears_at_once_that_too_many_tasks_failed(world: PostgresWorld, most: int) -> None:
    """Not with its next heartbeat: until then as many more would fail as fit in that."""
    job = world.submit_on(Terms(max_fails=most), Part(Needs(), [TaskText(b"false")] * 100))
    run, inbox = world.queue.open_run(HERE), Inbox()
    block = one(world.queue, run, 50)
    door = QueueDoor(world.queue, run, LIMITS, inbox, bug)  # not started: no heartbeat
    for task in range(1, most + 2):
        assert not any(isinstance(event, Ordered) for _, event in inbox.take())
        door._answer(AskRecord(Batch([ended(block, task, State.FAILED)])))
    recorded, ordered = [event for _, event in inbox.take()][-2:]
    assert isinstance(recorded, Recorded)
    assert isinstance(ordered, Ordered)
    assert [order[:2] for order in ordered.orders if isinstance(order, CancelTasks)] == [(JobId(job), 1)]
    assert world.counts(job) == {"failed": most + 1, "running": 49 - most, "cancelled": 50}
