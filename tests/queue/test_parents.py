"""Tasks that wait for others, on a real Postgres: when they become ready, are cancelled, and come back."""

from __future__ import annotations

import threading
from collections.abc import Iterator

import pytest

from mpifarm.core.model import FailureClass, JobId, Parent, Part, RunId, State, TaskText
from mpifarm.core.needs import Needs
from mpifarm.core.protocol.facts import Needed, Terms
from mpifarm.errors import UsageError
from mpifarm.queue import Batch, Return
from mpifarm.queue.run_verbs import PostgresQueue
from mpifarm.server.dsn import Dsn
from tests.fix_farm import wait_for
from tests.queue.worlds import HERE, LEASE_S, PostgresWorld, all_ended, ended, lease, one, span

pytestmark = pytest.mark.postgres


@pytest.fixture
def world(pg_dsn: Dsn) -> Iterator[PostgresWorld]:
    made = PostgresWorld(pg_dsn)
    yield made
    made.close()


def part(count: int, *parents: Parent, cpus: int = 1) -> Part:
    return Part(Needs(cpus), [TaskText(b"true")] * count, parents)


def run_all(world: PostgresWorld, run: RunId, bad: frozenset[int] = frozenset()) -> list[list[int]]:
    """Work off the queue; the tasks of each lease. Those in `bad` fail."""
    waves = []
    while blocks := lease(world.queue, run).blocks:
        waves.append([task for block in blocks for task in range(block.lo, block.hi)])
        outcomes = [
            ended(block, task, State.FAILED if task in bad else State.SUCCEEDED)
            for block in blocks
            for task in range(block.lo, block.hi)
        ]
        assert not world.queue.record(run, Batch(outcomes, done=[block.lease for block in blocks]))
        world.check()
    return waves


def test_a_task_waits_until_its_parents_have_succeeded(world: PostgresWorld) -> None:
    job = world.submit_on(Terms(), part(3), part(1, Parent(1, 4)), part(2, Parent(4, 5)))
    assert world.counts(job) == {"pending": 3, "waiting": 3}
    world.check()
    run = world.queue.open_run(HERE)
    first, second = one(world.queue, run, 2), one(world.queue, run, 2)
    assert lease(world.queue, run).waiting == 3
    world.queue.record(run, Batch(all_ended(first), done=[first.lease]))
    assert world.counts(job)["waiting"] == 3
    world.queue.record(run, Batch(all_ended(second), done=[second.lease]))
    assert world.counts(job) == {"succeeded": 3, "pending": 1, "waiting": 2}
    assert run_all(world, run) == [[4], [5, 6]]
    assert world.counts(job) == {"succeeded": 6}


def test_a_parent_in_the_middle_of_a_lease_counts_when_it_is_recorded(world: PostgresWorld) -> None:
    """A child need not wait until the lease with its parent in it has been worked off."""
    job = world.submit_on(Terms(), part(100), part(1, Parent(50, 52)))
    run = world.queue.open_run(HERE)
    block = one(world.queue, run)
    world.queue.record(run, Batch([ended(block, 50)]))
    assert world.counts(job)["waiting"] == 1
    world.queue.record(run, Batch([ended(block, 51)]))
    assert world.counts(job) == {"succeeded": 2, "running": 98, "pending": 1}
    world.check()


@pytest.mark.parametrize("any_end", [False, True])
def test_a_failed_parent(world: PostgresWorld, any_end: bool) -> None:
    job = world.submit_on(Terms(), part(3), part(2, Parent(1, 4, any_end)), part(1, Parent(4, 6)))
    run = world.queue.open_run(HERE)
    waves = run_all(world, run, bad=frozenset({2}))
    if any_end:
        assert waves == [[1, 2, 3], [4, 5], [6]]
        return
    assert waves == [[1, 2, 3]]
    assert world.counts(job) == {"succeeded": 2, "failed": 1, "cancelled": 3}
    lines = {line.task: (line.state, line.failure, line.because) for line in world.client.tasks(job)}
    assert lines[4] == lines[5] == ("cancelled", "cancelled", "job.2")
    assert lines[6] == ("cancelled", "cancelled", "job.4")
    assert world.client.needed(job, 6) == [Needed("job", 4, 6, False, True)]
    assert world.client.find("job").state == "failed"
    # A retry of the parent revives them, and their own dependants.
    assert world.client.retry(job, ranges=[(2, 3)]) == 4
    assert world.counts(job) == {"succeeded": 2, "pending": 1, "waiting": 3}
    world.check()
    assert run_all(world, run) == [[2], [4, 5], [6]]
    assert world.counts(job) == {"succeeded": 6}


def test_retry_of_a_child_alone_leaves_it_cancelled_while_its_parent_has_failed(world: PostgresWorld) -> None:
    job = world.submit_on(Terms(), part(1), part(2, Parent(1, 2)))
    run_all(world, world.queue.open_run(HERE), bad=frozenset({1}))
    assert world.client.retry(job, ranges=[(2, 4)]) == 0
    assert world.counts(job) == {"failed": 1, "cancelled": 2}
    world.check()
    assert world.client.retry(job) == 3
    assert world.counts(job) == {"pending": 1, "waiting": 2}
    world.check()


def test_retry_of_a_failed_child_whose_parent_is_well(world: PostgresWorld) -> None:
    job = world.submit_on(Terms(), part(1), part(3, Parent(1, 2)))
    run = world.queue.open_run(HERE)
    run_all(world, run, bad=frozenset({3}))
    assert world.client.retry(job) == 1
    assert world.counts(job) == {"succeeded": 3, "pending": 1}
    assert run_all(world, run) == [[3]]


def test_rerun_of_a_family_waits_again(world: PostgresWorld) -> None:
    job = world.submit_on(Terms(), part(2), part(2, Parent(1, 3)))
    run = world.queue.open_run(HERE)
    run_all(world, run)
    assert world.client.rerun(job) == 4
    assert world.counts(job) == {"pending": 2, "waiting": 2}
    assert run_all(world, run) == [[1, 2], [3, 4]]


def test_returned_parents_keep_their_children_waiting(world: PostgresWorld) -> None:
    job = world.submit_on(Terms(), part(2), part(1, Parent(1, 3)))
    run = world.queue.open_run(HERE)
    block = one(world.queue, run)
    batch = Batch([ended(block, 1)], [Return(span(block, 2, 3), FailureClass.LOST)], [block.lease])
    world.queue.record(run, batch)
    assert world.counts(job) == {"succeeded": 1, "pending": 1, "waiting": 1}
    assert run_all(world, run) == [[2], [3]]


def test_parents_of_a_dead_run(world: PostgresWorld) -> None:
    job = world.submit_on(Terms(), part(2), part(1, Parent(1, 3)))
    dead, run = world.queue.open_run(HERE), world.queue.open_run(HERE)
    block = one(world.queue, dead)
    world.queue.record(dead, Batch([ended(block, 1)]))
    world.pass_time(LEASE_S + 1)
    assert world.queue.expire(LEASE_S) == 1
    assert run_all(world, run) == [[2], [3]]
    assert world.counts(job) == {"succeeded": 3}


def test_jobs_wait_for_jobs(world: PostgresWorld) -> None:
    first = world.submit_on(Terms("first"), part(3))
    second = world.submit_on(Terms("second", after=(Parent(1, 4, job=first),)), part(2), part(1, Parent(1, 3)))
    third = world.submit_on(Terms("third", after=(Parent(1, 4, True, first), Parent(3, 4, True, second))), part(1))
    assert world.counts(second) == {"waiting": 3}
    run = world.queue.open_run(HERE)
    assert run_all(world, run) == [[1, 2, 3], [1, 2], [3], [1]]
    # What has ended needs no waiting for.
    late = world.submit_on(Terms("late", after=(Parent(1, 2, job=third),)), part(5))
    assert world.counts(late) == {"pending": 5}
    assert run_all(world, run) == [[1, 2, 3, 4, 5]]


def test_a_parent_that_has_failed_before(world: PostgresWorld) -> None:
    first = world.submit_on(Terms("first"), part(3))
    run_all(world, world.queue.open_run(HERE), bad=frozenset({3}))
    second = world.submit_on(Terms("second", after=(Parent(1, 4, job=first),)), part(4))
    other = world.submit_on(Terms("other", after=(Parent(1, 4, True, first),)), part(4))
    assert world.counts(second) == {"cancelled": 4}
    assert world.counts(other) == {"pending": 4}
    world.check()
    with pytest.raises(UsageError, match="gone"):
        world.submit_on(Terms("orphan", after=(Parent(1, 2, job=JobId(99)),)), part(1))
    with pytest.raises(UsageError, match="gone"):
        world.submit_on(Terms("orphan", after=(Parent(3, 5, job=first),)), part(1))


def test_added_tasks_have_numbers_of_their_own(world: PostgresWorld) -> None:
    """`requires` counts within what is submitted."""
    job = world.submit_on(Terms("job"), part(3))
    world.client.submit_on(Terms(job=job), "more", b"/tmp", [part(2), part(1, Parent(1, 3))])
    assert [(need.lo, need.hi) for need in world.client.needed(job, 6)] == [(4, 6)]
    assert run_all(world, world.queue.open_run(HERE)) == [[1, 2, 3, 4, 5], [6]]


def test_cancel_of_what_waits_and_of_what_others_wait_for(world: PostgresWorld) -> None:
    job = world.submit_on(Terms(), part(4), part(4, Parent(1, 5)), part(1, Parent(5, 9)), part(1, Parent(5, 9, True)))
    assert world.client.cancel(job, ranges=[(6, 8)]).tasks == 2
    world.check()
    assert world.counts(job) == {"pending": 4, "waiting": 3, "cancelled": 3}
    assert run_all(world, world.queue.open_run(HERE)) == [[1, 2, 3, 4], [5, 8], [10]]
    assert world.counts(job) == {"succeeded": 7, "cancelled": 3}
    assert world.client.retry(job) == 3
    assert run_all(world, world.queue.open_run(HERE)) == [[6, 7], [9]]


def test_dedupe_counts_skipped_parents_as_met(world: PostgresWorld) -> None:
    texts = [TaskText(b"task %d" % number) for number in range(1, 7)]
    job = world.submit_on(Terms("before"), Part(Needs(), texts[:3]))
    run = world.queue.open_run(HERE)
    run_all(world, run, bad=frozenset({3}))
    parts = [
        Part(Needs(), texts[:4]),
        Part(Needs(), texts[4:5], (Parent(1, 3),)),
        Part(Needs(), texts[5:6], (Parent(3, 6),)),
    ]
    done = world.client.submit_on(Terms("again", dedupe=True), "f", b"/tmp", parts)
    assert done.job is not None and (done.tasks, done.skipped) == (4, 2)
    world.check()
    assert world.client.needed(done.job.id, 4) == [Needed("again", 1, 4, False, False)]
    assert world.counts(done.job.id) == {"pending": 3, "waiting": 1}
    assert run_all(world, run) == [[1, 2, 3], [4]]
    assert world.counts(job) == {"succeeded": 2, "failed": 1}


def test_a_job_that_others_wait_for_is_not_dropped(world: PostgresWorld) -> None:
    first = world.submit_on(Terms("first"), part(2))
    second = world.submit_on(Terms("second", after=(Parent(1, 3, job=first),)), part(1))
    with pytest.raises(UsageError, match="second"):
        world.client.drop(first)
    world.client.drop(second)
    world.client.drop(first)
    for table in ("need", "waiting", "task", "job"):
        assert world.plain.execute(f"SELECT count(*) FROM mpifarm.{table}").fetchone() == (0,)


def test_too_many_failures_stop_the_job(world: PostgresWorld) -> None:
    job = world.submit_on(Terms(max_fails=2), part(10), part(5, Parent(1, 2)))
    run = world.queue.open_run(HERE)
    blocks = [one(world.queue, run, 2) for _ in range(4)]
    bad = [ended(block, block.lo, State.FAILED) for block in blocks[:2]]
    world.queue.record(run, Batch(bad))
    assert world.counts(job) == {"failed": 2, "running": 6, "pending": 2, "cancelled": 5}
    world.queue.record(run, Batch([ended(blocks[2], blocks[2].lo, State.FAILED)]))
    assert world.counts(job) == {"failed": 3, "running": 5, "cancelled": 7}
    assert [(order.lo, order.hi) for order in world.queue.renew(run)] == [(1, 2**31 - 1)]  # type: ignore[union-attr]
    assert not lease(world.queue, run).blocks
    world.check()


def test_two_records_that_end_the_last_parents_at_once(world: PostgresWorld, pg_dsn: Dsn) -> None:
    """Neither sees the other's outcome when it begins; the later one must release the child."""
    job = world.submit_on(Terms(), part(2), part(1, Parent(1, 3)))
    run = world.queue.open_run(HERE)
    left, right = one(world.queue, run, 1), one(world.queue, run, 1)
    other = PostgresQueue.connect(pg_dsn)
    with world.plain.transaction():
        # Both have written their outcomes and want the child: hold it until both wait for it.
        world.plain.execute("SELECT FROM mpifarm.waiting FOR UPDATE")
        threads = [
            threading.Thread(target=queue.record, args=(run, Batch(all_ended(block), done=[block.lease])))
            for queue, block in ((world.queue, left), (other, right))
        ]
        for thread in threads:
            thread.start()
        wait_for(lambda: _waiting(world) == 2, "both records to wait for the child")
    for thread in threads:
        thread.join(30)
    other.close()
    assert world.counts(job) == {"succeeded": 2, "pending": 1}
    world.check()


def test_a_submit_and_the_end_of_its_parent_at_once(world: PostgresWorld, pg_dsn: Dsn) -> None:
    """Whoever is second must see the other."""
    first = world.submit_on(Terms("first"), part(1))
    run = world.queue.open_run(HERE)
    block = one(world.queue, run)
    recording = PostgresQueue.connect(pg_dsn)
    thread = threading.Thread(target=recording.record, args=(run, Batch(all_ended(block), done=[block.lease])))
    with world.plain.transaction():
        world.plain.execute("SELECT FROM mpifarm.job FOR UPDATE")  # as the submit does last
        thread.start()
        wait_for(lambda: _waiting(world) == 1, "the record to wait")
        job = JobId(world.plain.execute("SELECT nextval(pg_get_serial_sequence('mpifarm.job', 'id'))").fetchone()[0])  # type: ignore[index]
        world.plain.execute(
            "INSERT INTO mpifarm.job (id, name, source, cwd, total, mean_bytes) VALUES (%s, 'second', '', '/', 1, 1)",
            [job],
        )
        world.plain.execute("INSERT INTO mpifarm.task VALUES (%s, 1, 'true')", [job])
        world.plain.execute("INSERT INTO mpifarm.waiting (job, attempt, lo, hi, shape) VALUES (%s, 1, 1, 2, 1)", [job])
        world.plain.execute("INSERT INTO mpifarm.need VALUES (%s, 1, 2, %s, 1, 2, false)", [job, first])
    thread.join(30)
    recording.close()
    assert world.counts(job) == {"pending": 1}


def _waiting(world: PostgresWorld) -> int:
    query = """SELECT count(*) FROM pg_stat_activity
        WHERE wait_event_type = 'Lock' AND datname = current_database()"""
    row = world.plain.execute(query).fetchone()
    assert row is not None
    return int(row[0])


def test_a_long_chain_is_cancelled_and_revived_as_a_whole(world: PostgresWorld) -> None:
    count = 3000
    chain = [part(1, *([Parent(number - 1, number)] if number > 1 else [])) for number in range(1, count + 1)]
    job = world.submit_on(Terms(), *chain)
    run = world.queue.open_run(HERE)
    run_all(world, run, bad=frozenset({1}))
    assert world.counts(job) == {"failed": 1, "cancelled": count - 1}
    assert world.client.retry(job, ranges=[(1, 2)]) == count
    assert world.counts(job) == {"pending": 1, "waiting": count - 1}
    world.check()
