"""Every ordered pair of verbs on one lease, the second arriving while the first is not yet committed.

Two real connections. The first verb runs in a transaction that is left open; the second starts in a thread and is given
the time to finish or to wait for a lock; then the first commits. Whatever the order, each task must stay in exactly one
place, and the job must still be finished by whoever comes after.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from itertools import product
from typing import Any

import psycopg
import pytest

from mpifarm.core.model import Block, FailureClass, JobId, LeaseId, RunId
from mpifarm.errors import QueueError
from mpifarm.queue import Batch, Return
from mpifarm.queue.run_verbs import PostgresQueue
from mpifarm.server.dsn import Dsn
from tests.fix_farm import wait_for
from tests.queue.worlds import HERE, LEASE_S, PostgresWorld, all_ended, ended, lease, like_tasks, one, span

pytestmark = pytest.mark.postgres

DEADLINE_S = 30.0


class Race:
    """A job, a run that seems dead, its lease of tasks 1 to 10, and two connections to fight over it."""

    def __init__(self, dsn: Dsn) -> None:
        self.world = PostgresWorld(dsn)
        self.first, self.second = PostgresQueue.connect(dsn), PostgresQueue.connect(dsn)
        self.job: JobId = self.world.submit(like_tasks(20))
        self.run: RunId = self.first.open_run(HERE)
        self.block: Block = one(self.first, self.run, 10)
        self.world.pass_time(2 * LEASE_S)
        self.answer: Any = None

    def close(self) -> None:
        for queue in (self.first, self.second):
            queue.close()
        self.world.close()

    def run_both(self, first: Callable[[PostgresQueue], Any], second: Callable[[PostgresQueue], Any]) -> Any:
        """Returns what the second was answered, an exception included."""
        held, waiting = _connection(self.first), _connection(self.second).info.backend_pid
        held.execute("BEGIN")
        first(self.first)
        thread = threading.Thread(target=self._answer, args=(second,))
        thread.start()
        wait_for(lambda: not thread.is_alive() or self._waits(waiting), "the second verb to end or wait", DEADLINE_S)
        held.execute("COMMIT")
        thread.join(DEADLINE_S)
        assert not thread.is_alive()
        return self.answer

    def _answer(self, call: Callable[[PostgresQueue], Any]) -> None:
        try:
            self.answer = call(self.second)
        except QueueError as error:
            self.answer = error

    def _waits(self, pid: int) -> bool:
        row = self.world.plain.execute(
            "SELECT wait_event_type = 'Lock' FROM pg_stat_activity WHERE pid = %s", [pid]
        ).fetchone()
        return bool(row and row[0])

    def finish(self) -> None:
        """Another run does what is left; nothing was lost, nothing is done twice."""
        queue = self.first
        queue.close_run(self.run)
        run = queue.open_run(HERE)
        while blocks := lease(queue, run).blocks:
            outcomes = [outcome for block in blocks for outcome in all_ended(block)]
            assert not queue.record(run, Batch(outcomes, done=[block.lease for block in blocks]))
        assert self.world.counts(self.job) == {"succeeded": 20}
        self.world.check()


def _connection(queue: PostgresQueue) -> psycopg.Connection[Any]:
    connection = queue._database._connection
    assert connection is not None
    return connection


@pytest.fixture
def race(pg_dsn: Dsn) -> Iterator[Race]:
    race = Race(pg_dsn)
    yield race
    race.close()


def verbs(race: Race) -> dict[str, Callable[[PostgresQueue], Any]]:
    run, block = race.run, race.block
    some = Batch([ended(block, task) for task in range(1, 5)])
    back = Batch(returned=[Return(span(block, 5, 7), FailureClass.LOST)])
    rest = Batch([ended(block, task) for task in range(7, 11)], done=[block.lease])
    return {
        "lease": lambda queue: lease(queue, run, 5),
        "record": lambda queue: queue.record(run, some),
        "finish": lambda queue: queue.record(run, rest),
        "return": lambda queue: queue.record(run, back),
        "renew": lambda queue: queue.renew(run),
        "expire": lambda queue: queue.expire(LEASE_S),
        "close": lambda queue: queue.close_run(run),
    }


NAMES = ("lease", "record", "finish", "return", "renew", "expire", "close")


@pytest.mark.parametrize(("first", "second"), list(product(NAMES, NAMES)))
def test_pair(race: Race, first: str, second: str) -> None:
    calls = verbs(race)
    answer = race.run_both(calls[first], calls[second])
    race.world.check()
    takes_back = first in ("expire", "close")
    if second in ("record", "finish", "return"):
        assert answer == (frozenset({LeaseId(race.block.lease)}) if takes_back else frozenset())
    if (first, second) == ("close", "lease"):
        assert isinstance(answer, QueueError)
    else:
        assert not isinstance(answer, Exception)
    race.finish()


def test_a_lease_waits_when_all_that_is_left_is_locked(race: Race) -> None:
    answer = race.run_both(lambda queue: lease(queue, race.run, 3), lambda queue: lease(queue, race.run, 3))
    (block,) = answer.blocks
    assert (block.job, block.lo, block.hi) == (race.job, 14, 17)


def test_a_lease_that_waited_in_vain_is_empty(race: Race) -> None:
    answer = race.run_both(lambda queue: lease(queue, race.run), lambda queue: lease(queue, race.run))
    assert not answer.blocks


def test_two_expiries_put_back_once(race: Race) -> None:
    answer = race.run_both(lambda queue: queue.expire(LEASE_S), lambda queue: queue.expire(LEASE_S))
    assert answer == 0
    assert race.world.counts(race.job) == {"pending": 20}


def test_the_same_record_twice_at_once(race: Race) -> None:
    """A connection was lost and its statement is still at work when the batch is sent again."""
    batch = Batch(all_ended(race.block), done=[race.block.lease])
    answer = race.run_both(lambda queue: queue.record(race.run, batch), lambda queue: queue.record(race.run, batch))
    assert answer == frozenset()
    assert race.world.counts(race.job) == {"succeeded": 10, "pending": 10}
