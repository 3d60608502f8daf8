"""What people and policies ask of runs, on a real Postgres: cancel, drain, routing by job, tag and time, retries."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from dataclasses import replace

import pytest

from mpifarm.core.job.policy import Policy, RetryRule
from mpifarm.core.model import FailureClass, JobId, Part, RunId, State, TaskText
from mpifarm.core.needs import Needs
from mpifarm.core.protocol.facts import Cancelled, Terms
from mpifarm.core.protocol.verbs import CancelTasks, DrainRun
from mpifarm.queue import Batch, Return
from mpifarm.server.dsn import Dsn
from tests.fix_farm import wait_for
from tests.queue.worlds import HERE, LEASE_S, PostgresWorld, ended, lease, like_tasks, one, span

pytestmark = pytest.mark.postgres

TWO = Part(Needs(), [TaskText(b"true")] * 2)


@pytest.fixture
def world(pg_dsn: Dsn) -> Iterator[PostgresWorld]:
    made = PostgresWorld(pg_dsn)
    yield made
    made.close()


def test_running_tasks_are_asked_to_end(world: PostgresWorld) -> None:
    job = world.submit(like_tasks(20))
    run, other = world.queue.open_run(HERE), world.queue.open_run(HERE)
    block = one(world.queue, run, 10)
    world.queue.record(run, Batch([ended(block, 1)]))
    assert world.client.cancel(job, ranges=[(1, 6), (9, 13)]) == Cancelled(2, 6, (run,))
    orders = world.queue.renew(run)
    assert orders == (CancelTasks(job, 1, 6), CancelTasks(job, 9, 13))
    assert world.queue.renew(run) == () and world.queue.renew(other) == ()
    never = [
        Return(span(block, 2, 4, 1), FailureClass.CANCELLED),
        Return(span(block, 9, 10, 1), FailureClass.CANCELLED),
    ]
    ends = [ended(block, task, State.CANCELLED) for task in (4, 5)]
    world.queue.record(run, Batch([*ends, *(ended(block, task) for task in (6, 7, 8, 10))], never, [block.lease]))
    world.check()
    assert world.counts(job) == {"succeeded": 5, "cancelled": 7, "pending": 8}
    assert [past.failure for past in world.client.attempts(job, 2)] == ["cancelled"]
    assert world.client.runs()[0].returned == 0
    assert world.client.retry(job) == 7
    assert world.counts(job) == {"succeeded": 5, "pending": 15}
    world.check()


@pytest.mark.parametrize("how", ["close", "expire"])
def test_what_a_run_was_asked_to_end_does_not_begin_again(world: PostgresWorld, how: str) -> None:
    job = world.submit(like_tasks(20))
    run = world.queue.open_run(HERE)
    one(world.queue, run, 10)
    world.client.cancel(job, ranges=[(3, 5), (15, 16)])
    world.client.retry(job, ranges=[(15, 16)])
    if how == "close":
        world.queue.close_run(run)
    else:
        world.pass_time(LEASE_S + 1)
        world.queue.expire(LEASE_S)
    assert world.counts(job) == {"pending": 18, "cancelled": 2}
    world.check()


def test_drain(world: PostgresWorld) -> None:
    run, dead = world.queue.open_run(HERE), world.queue.open_run(HERE)
    assert world.client.drain(run)
    assert world.client.drain(run, now=True)
    assert world.queue.renew(run) == (DrainRun(False), DrainRun(True))
    world.queue.close_run(run)
    assert not world.client.drain(run)
    assert not world.client.drain(RunId(99))
    world.pass_time(LEASE_S + 1)
    assert not world.client.drain(dead)


def test_a_run_takes_what_it_may(world: PostgresWorld) -> None:
    terms = [
        Terms("plain"),
        Terms("gpu", tags={"gpu": ""}),
        Terms("site", tags={"site": "here", "gpu": "a100"}, priority=9),
    ]
    jobs = {term.name: world.submit_on(term, TWO) for term in terms}

    def taken(jobs_: tuple[str, ...] = (), tags: tuple[str, ...] = ()) -> list[str]:
        run = world.queue.open_run(replace(HERE, jobs=jobs_, tags=tags))
        order = [block.job for block in lease(world.queue, run).blocks]
        world.queue.close_run(run)
        names = {number: str(name) for name, number in jobs.items()}
        return [names[job] for job in order]

    assert taken() == ["site", "plain", "gpu"]
    assert taken(("plain",)) == ["plain"]
    assert taken(("plain", "gpu", "no-such")) == ["plain", "gpu"]
    assert taken(tags=("gpu",)) == ["site", "gpu"]
    assert taken(tags=("gpu=", "*")) == ["gpu", "site", "plain"]
    assert taken(tags=("site=here",)) == ["site"]
    assert taken(tags=("site=there",)) == []
    assert taken(tags=("fpga", "*")) == ["site", "plain", "gpu"]
    assert taken(("plain",), ("gpu",)) == []
    line = world.client.runs()[-1]
    assert (list(line.jobs), list(line.tags), line.ends) == (["plain"], ["gpu"], None)


def test_nothing_is_leased_that_cannot_end_in_time(world: PostgresWorld) -> None:
    world.submit(like_tasks(2, Needs(time_limit_s=100.0)) + like_tasks(3, Needs(time_limit_s=1000.0)) + like_tasks(4))
    run = world.queue.open_run(replace(HERE, seconds_left=500.0))
    grant = lease(world.queue, run)
    assert [block.needs.time_limit_s for block in grant.blocks] == [100.0, 0.0]
    grant = lease(world.queue, run)
    assert (grant.blocks, grant.ready_left, grant.too_long, grant.too_wide) == ((), 0, 3, 0)
    ends = world.client.runs()[0].ends
    assert ends is not None
    patient = world.queue.open_run(HERE)
    grant = lease(world.queue, patient)
    assert [block.needs.time_limit_s for block in grant.blocks] == [1000.0]
    assert grant.others_slots == HERE.slots


def test_a_policy_travels_with_its_job(world: PostgresWorld) -> None:
    rules = (RetryRule(FailureClass.EXIT, 137, 5), RetryRule(FailureClass.OOM, None, 1))
    policy = Policy(2, rules, 0, "tail:64K", ("out/*.npy", "x"))
    job = world.submit_on(Terms(policy=policy, max_fails=7), TWO)
    assert lease(world.queue, world.queue.open_run(HERE)).jobs[0].policy == policy
    found = world.client.find(str(job))
    assert (found.policy, found.max_fails) == (policy, 7)
    plain = world.submit_on(Terms(), TWO)
    assert world.client.find(str(plain)).policy == Policy()
    assert world.plain.execute("SELECT policy FROM mpifarm.job WHERE id = %s", [plain]).fetchone() == ({},)


def test_failed_attempts_that_run_again(world: PostgresWorld) -> None:
    job = world.submit(like_tasks(5))
    run = world.queue.open_run(HERE)
    block = one(world.queue, run)
    again = span(block, 2, 3)._replace(fails=1)
    lost = span(block, 3, 5)._replace(crashes=2)
    returned = [
        Return(again, FailureClass.EXIT, State.FAILED, exit_code=7),
        Return(lost, FailureClass.LOST),
    ]
    world.queue.record(run, Batch([ended(block, 1), ended(block, 5)], returned, [block.lease]))
    world.check()
    assert world.counts(job) == {"succeeded": 2, "pending": 3}
    blocks = lease(world.queue, run).blocks
    assert [(b.lo, b.hi, b.attempt, b.fails, b.crashes) for b in blocks] == [(2, 3, 2, 1, 0), (3, 5, 2, 0, 2)]
    (past,) = world.client.attempts(job, 2)
    assert (past.state, past.failure, past.exit_code, past.signal) == ("failed", "exit", 7, None)
    assert world.client.taken_back(run) == [(block.lease, 2, 3)]
    # Another run's death keeps the counts and charges nothing.
    world.queue.close_run(run)
    blocks = lease(world.queue, world.queue.open_run(HERE)).blocks
    assert [(b.lo, b.hi, b.attempt, b.fails, b.crashes) for b in blocks] == [(2, 3, 3, 1, 0), (3, 5, 3, 0, 2)]
    # A task that was lost too often has no row in a file.
    row, _, tail = ended(blocks[1], 3, State.FAILED)
    gone = row._replace(failure=int(FailureClass.LOST), exit_code=0)
    run = RunId(2)
    world.queue.record(run, Batch([(gone, None, tail)]))
    (line,) = world.client.tasks(job, ranges=[(3, 4)])
    assert (line.state, line.failure, line.file_row, line.checksum) == ("failed", "lost", None, None)
    # By hand it has all its retries again.
    world.client.retry(job)
    blocks = lease(world.queue, run).blocks
    assert [(b.lo, b.hi, b.attempt, b.fails, b.crashes) for b in blocks] == [(3, 4, 4, 0, 0)]


def test_cancel_of_ten_million_is_one_order(world: PostgresWorld) -> None:
    job = world.submit(like_tasks(50_000))
    run = world.queue.open_run(HERE)
    for _ in range(20):
        lease(world.queue, run, 1000)
    assert world.client.cancel(JobId(job)) == Cancelled(30_000, 20_000, (run,))
    assert len(world.queue.renew(run)) == 1


@pytest.mark.parametrize("first", ["cancel", "record"])
def test_a_cancel_and_a_return_of_the_same_task_at_once(world: PostgresWorld, pg_dsn: Dsn, first: str) -> None:
    """Whichever commits first: what the record puts back does not begin again."""
    job = world.submit(like_tasks(10))
    run = world.queue.open_run(HERE)
    block = one(world.queue, run)
    again = Return(span(block, 3, 6)._replace(fails=1), FailureClass.EXIT, State.FAILED, exit_code=1)
    batch = Batch([ended(block, 1)], [again])
    other = PostgresWorld(pg_dsn)
    calls = {
        "cancel": lambda here: here.client.cancel(job, ranges=[(4, 9)]),
        "record": lambda here: here.queue.record(run, batch),
    }
    second = "record" if first == "cancel" else "cancel"
    owner = world.client if first == "cancel" else world.queue
    with owner._database.using() as held:  # type: ignore[attr-defined]
        held.execute("BEGIN")
        calls[first](world)
        thread = threading.Thread(target=calls[second], args=(other,))
        thread.start()
        query = "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND datname = current_database()"
        wait_for(lambda: world.plain.execute(query).fetchone() == (1,), "the second to wait for the first")
        held.execute("COMMIT")
    thread.join(30)
    other.close()
    world.check()
    assert world.counts(job) == {"succeeded": 1, "pending": 1, "cancelled": 2, "running": 6}
    # What was asked is over with its lease: by hand they run again, and another return leaves them ready.
    assert world.client.retry(job) == 2
    later = one(world.queue, run, 1)
    assert (later.lo, later.hi) == (3, 4)
    (fourth, *_) = lease(world.queue, run).blocks
    lost = Return(span(fourth, 4, 5), FailureClass.LOST)
    world.queue.record(run, Batch(returned=[lost]))
    assert world.counts(job)["pending"] == 1
