"""What people do to jobs in the queue, alone and while runs are at work: set, add, retry, cancel, drop, recover."""

from __future__ import annotations

import random
import threading
from collections.abc import Callable, Iterator
from itertools import product
from typing import Any

import pytest

from mpifarm.core.model import Block, FailureClass, JobId, LeaseId, Parent, Part, RunId, State, TaskText
from mpifarm.core.needs import Needs
from mpifarm.core.protocol.facts import Terms
from mpifarm.errors import UsageError
from mpifarm.queue import Batch, Return
from mpifarm.queue.client import Client
from mpifarm.server.dsn import Dsn
from tests.fix_farm import wait_for
from tests.queue.worlds import HERE, LEASE_S, PostgresWorld, all_ended, ended, lease, like_tasks, lower, one, span

pytestmark = pytest.mark.postgres

BAD = (State.FAILED, State.CANCELLED)


@pytest.fixture
def world(pg_dsn: Dsn) -> Iterator[PostgresWorld]:
    world = PostgresWorld(pg_dsn)
    yield world
    world.close()


def finished(world: PostgresWorld, job: JobId, states: str) -> RunId:
    """A run that ended the tasks of a job so: s, f or c for each; it is still live, its lease is done."""
    run = world.queue.open_run(HERE)
    block = one(world.queue, run)
    assert block.job == job
    kinds = {"s": State.SUCCEEDED, "f": State.FAILED, "c": State.CANCELLED}
    outcomes = [ended(block, task, kinds[letter]) for task, letter in enumerate(states, block.lo)]
    world.queue.record(run, Batch(outcomes, done=[block.lease]))
    return run


# --- set ---------------------------------------------------------------------------------------------------------


def test_set_changes_only_what_it_is_told(world: PostgresWorld) -> None:
    job = world.submit(like_tasks(3))
    world.client.set_job(job, priority=5)
    world.client.set_job(job, held=True, tags={"owner": "ann", "kind": "scan"})
    world.client.set_job(job, tags={"kind": "grid"})
    found = world.client.find("last")
    assert (found.priority, found.held, found.tags) == (5, True, (("kind", "grid"), ("owner", "ann")))


def test_a_more_urgent_job_overtakes(world: PostgresWorld) -> None:
    first, second = world.submit(like_tasks(10), "first"), world.submit(like_tasks(10), "second")
    run = world.queue.open_run(HERE)
    assert one(world.queue, run, 5).job == first
    world.client.set_job(second, priority=1)
    assert one(world.queue, run, 5).job == second


# --- add ---------------------------------------------------------------------------------------------------------


def test_added_tasks_go_on_in_number(world: PostgresWorld) -> None:
    job = world.submit(like_tasks(10))
    run = finished(world, job, "s" * 10)
    added = world.client.submit_on(Terms(job=job), "more.txt", b"/tmp", [(Needs(2), [TaskText(b"x"), TaskText(b"y")])])
    assert added.job is not None
    assert (added.tasks, added.job.total, added.job.pending, added.job.state) == (2, 12, 2, "pending")
    block = one(world.queue, run)
    assert (block.lo, block.hi, block.needs.cpus, list(block.tasks)) == (11, 13, 2, [TaskText(b"x"), TaskText(b"y")])
    world.check()


def test_added_from_elsewhere_is_refused(world: PostgresWorld) -> None:
    job = world.submit(like_tasks(1))
    with pytest.raises(UsageError, match="start in /tmp"):
        world.client.submit_on(Terms(job=job), "f", b"/elsewhere", like_tasks(1))
    assert world.client.find("last").total == 1


def test_an_interrupted_addition_leaves_the_job_as_it_was(world: PostgresWorld) -> None:
    job = world.submit(like_tasks(5))

    def parts() -> Iterator[tuple[Needs, list[TaskText]]]:
        yield from like_tasks(20_000)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        world.client.submit_on(Terms(job=job), "f", b"/tmp", parts())
    assert world.counts(job) == {"pending": 5}
    world.check()


def test_other_verbs_need_not_wait_for_an_addition(world: PostgresWorld, pg_dsn: Dsn) -> None:
    job = world.submit(like_tasks(5))
    run = world.queue.open_run(HERE)

    def parts() -> Iterator[tuple[Needs, list[TaskText]]]:
        yield from like_tasks(10)
        with Client.connect(pg_dsn) as other:
            other.set_job(job, priority=3)
            assert len(one(world.queue, run, 2).tasks) == 2
            assert other.cancel(job, ranges=[(5, 6)]).tasks == 1
            assert other.retry(job) == 1

    world.client.submit_on(Terms(job=job), "f", b"/tmp", parts())
    world.check()
    assert world.counts(job) == {"pending": 13, "running": 2}


def test_dedupe_skips_what_succeeded_here(world: PostgresWorld) -> None:
    job = world.submit([(Needs(), [TaskText(b"a"), TaskText(b"b"), TaskText(b"c")])])
    finished(world, job, "sfs")
    parts = [(Needs(), [TaskText(b"a"), TaskText(b"b")]), (Needs(2), [TaskText(b"c"), TaskText(b"d", b"entry")])]
    done = world.client.submit_on(Terms(dedupe=True), "f", b"/tmp", parts)
    assert done.job is not None
    assert (done.tasks, done.skipped) == (2, 2)
    assert [(line.task, line.command, line.entry) for line in world.client.tasks(done.job.id)] == [
        (1, b"b", None),
        (2, b"d", b"entry"),
    ]
    assert world.client.shapes(done.job.id) == [(1, 2, Needs()), (2, 3, Needs(2))]
    world.check()
    elsewhere = world.client.submit_on(Terms(dedupe=True), "f", b"/elsewhere", parts)
    assert elsewhere.skipped == 0
    nothing = world.client.submit_on(Terms(dedupe=True), "f", b"/tmp", [(Needs(), [TaskText(b"a")])])
    assert nothing[:4] == (None, 0, 1, ())
    assert len(world.client.jobs()) == 3
    row = world.plain.execute("SELECT count(DISTINCT job) FROM mpifarm.shape").fetchone()
    assert row == (3,), "the shapes of a job that was not made are left"


def test_a_job_keeps_each_shape_once(world: PostgresWorld) -> None:
    wide = Needs(4, 1 << 30, 500, (("disk", 2), ("licence", 1000)), nodes=2, ranks=8, time_limit_s=0.1, category="x")
    job = world.submit(like_tasks(1) + like_tasks(1, wide) + like_tasks(1))
    world.client.submit_on(Terms(job=job), "f", b"/tmp", like_tasks(1, wide) + like_tasks(1, Needs(2)) + like_tasks(1))
    new = [(Needs(2), [TaskText(b"new 1"), TaskText(b"new 2")]), (wide, [TaskText(b"new 3")])]
    world.client.submit_on(Terms(job=job, dedupe=True), "f", b"/tmp", new)
    world.submit(like_tasks(1), "another")
    row = world.plain.execute("SELECT count(*) FROM mpifarm.shape WHERE job = %s", [job]).fetchone()
    assert row == (3,)
    needs = [*[Needs(), wide, Needs()], *[wide, Needs(2), Needs()], *[Needs(2), wide]]
    assert [its for _, _, its in world.client.shapes(job)] == needs
    assert world.client.pending(job, 2) == {Needs(): 2, wide: 3, Needs(2): 3}
    world.check()


@pytest.mark.parametrize("once", [False, True])
def test_what_is_known_is_left_out_whatever_its_place(world: PostgresWorld, once: bool) -> None:
    """Identity is command, directory and entry; what waits, is ready or is leased is known; failures only once."""

    def again(*tasks: TaskText, after: tuple[Parent, ...] = ()) -> Any:
        parts = [Part(Needs(), list(tasks), after)]
        return world.client.submit_on(Terms(dedupe=not once, once=once), "f", b"/tmp", parts)

    texts = [TaskText(b"./run.sh", b"%d" % number) for number in range(1, 7)]
    job = world.submit([(Needs(), texts[:3])], "scan")
    finished(world, job, "sf")
    waits = world.submit_on(Terms(), Part(Needs(), texts[3:4]), Part(Needs(), texts[4:5], (Parent(1, 2),)))
    done = again(*texts)
    assert (done.tasks, done.skipped) == (1 if once else 2, 5 if once else 4)
    names = {line.id: line.name for line in world.client.jobs()}
    assert done.queued == ((names[job], 1), (names[waits], 2))
    assert done.ended == (((names[job], 1),) if once else ())
    assert [line.entry for line in world.client.tasks(done.job.id)] == ([b"6"] if once else [b"2", b"6"])
    assert again(*texts)[1:3] == (0, 6)
    assert again(texts[0], TaskText(b"./run.sh"), after=())[1:3] == (1, 1)
    world.check()


def test_a_child_waits_for_its_parent_where_that_is_queued(world: PostgresWorld) -> None:
    first = world.submit(like_tasks(2), "first")
    parts = [*[Part(*part) for part in like_tasks(2)], Part(Needs(), [TaskText(b"child")], (Parent(1, 3),))]
    done = world.client.submit_on(Terms("again", dedupe=True), "f", b"/tmp", parts)
    assert done.job is not None and (done.tasks, done.skipped, done.job.waiting) == (1, 2, 1)
    assert [need[1:] for need in world.client.needed(done.job.id, 1)] == [(1, 3, False, False)]
    finished(world, first, "sf")
    assert world.counts(done.job.id) == {"cancelled": 1}


def test_dedupe_into_a_job(world: PostgresWorld) -> None:
    job = world.submit(like_tasks(4))
    finished(world, job, "ssss")
    done = world.client.submit_on(Terms(job=job, dedupe=True), "f", b"/tmp", like_tasks(6))
    assert (done.tasks, done.skipped) == (2, 4)
    world.check()
    assert world.counts(job) == {"succeeded": 4, "pending": 2}


def test_the_same_file_again_is_told(world: PostgresWorld) -> None:
    def submit(content: bytes) -> tuple[str, ...]:
        terms = Terms(path=b"/d/t.txt", digest=lambda: content)
        return world.client.submit_on(terms, "t.txt", b"/d", like_tasks(1)).before

    assert submit(b"one") == ()
    assert submit(b"two") == ()
    assert submit(b"one") == ("t",)
    assert submit(b"one") == ("t-3", "t")


# --- retry and rerun ---------------------------------------------------------------------------------------------


def test_retry_makes_the_next_attempt(world: PostgresWorld, monkeypatch: pytest.MonkeyPatch) -> None:
    lower(monkeypatch, retried=2)
    job = world.submit([(Needs(2, time_limit_s=9.0), like_tasks(8)[0][1])])
    run = finished(world, job, "sffsfcsf")
    assert world.client.retry(job) == 5
    assert world.counts(job) == {"pending": 5, "succeeded": 3}
    world.check()
    blocks = lease(world.queue, run).blocks
    assert [(task, block.attempt) for block in blocks for task in range(block.lo, block.hi)] == [
        (task, 2) for task in (2, 3, 5, 6, 8)
    ]
    assert {block.needs for block in blocks} == {Needs(2, time_limit_s=9.0)}
    (line,) = world.client.runs(job)
    assert (line.succeeded, line.failed, line.cancelled, line.returned) == (3, 0, 0, 5)
    (past,) = world.client.attempts(job, 2)
    assert past[:6] == (1, "failed", "exit", 3, None, run)
    world.queue.close_run(run)
    world.check()
    assert world.client.runs(job)[0].failed == 0


def test_retry_of_some(world: PostgresWorld) -> None:
    job = world.submit(like_tasks(8))
    finished(world, job, "ffffcccc")
    assert world.client.retry(job, failures=[FailureClass.OOM]) == 0
    assert world.client.retry(job, states=[State.CANCELLED], ranges=[(4, 6)]) == 1
    assert world.client.retry(job, ranges=[(1, 3), (4, 5)]) == 3
    assert world.counts(job) == {"pending": 4, "failed": 1, "cancelled": 3}
    world.check()


def test_rerun_takes_the_succeeded_too(world: PostgresWorld) -> None:
    job = world.submit(like_tasks(6))
    finished(world, job, "ssfscs")
    assert world.client.rerun(job) == 6
    assert world.counts(job) == {"pending": 6}
    assert world.client.attempts(job, 1)[0].state == "succeeded"
    world.check()


def test_retry_while_the_lease_lives(world: PostgresWorld) -> None:
    """The lease owns less than before, and ends when the rest is recorded."""
    job = world.submit(like_tasks(4))
    run = world.queue.open_run(HERE)
    block = one(world.queue, run)
    failed = Batch([ended(block, 1, State.FAILED), ended(block, 2)])
    world.queue.record(run, failed)
    assert world.client.retry(job) == 1
    assert world.counts(job) == {"pending": 1, "succeeded": 1, "running": 2}
    # The same batch again, as after a lost answer: not late, and nothing of it is written.
    assert world.queue.record(run, failed) == frozenset()
    world.check()
    assert world.counts(job) == {"pending": 1, "succeeded": 1, "running": 2}
    world.queue.record(run, Batch([ended(block, 3), ended(block, 4)], done=[block.lease]))
    assert world.plain.execute("SELECT count(*) FROM mpifarm.lease").fetchone() == (0,)
    assert world.queue.record(run, failed) == frozenset()
    world.check()
    again = one(world.queue, run)
    world.queue.record(run, Batch(all_ended(again), done=[again.lease]))
    assert world.counts(job) == {"succeeded": 4}


# --- cancel ------------------------------------------------------------------------------------------------------


def test_cancel_leaves_what_runs(world: PostgresWorld) -> None:
    job = world.submit(like_tasks(10))
    run = world.queue.open_run(HERE)
    block = one(world.queue, run, 4)
    assert world.client.cancel(job).tasks == 6
    assert world.client.cancel(job).tasks == 0
    assert world.counts(job) == {"running": 4, "cancelled": 6}
    assert not lease(world.queue, run).blocks
    world.queue.record(run, Batch(all_ended(block), done=[block.lease]))
    assert world.client.find("last").state == "cancelled"
    lines = list(world.client.tasks(job, states=["cancelled"], ranges=[(5, 8)]))
    assert [(line.task, line.state, line.failure, line.attempts, line.file) for line in lines] == [
        (task, "cancelled", "cancelled", 0, None) for task in (5, 6, 7)
    ]
    assert [line.state for line in world.client.tasks(job)] == ["succeeded"] * 4 + ["cancelled"] * 6
    assert world.client.failures(job) == [("cancelled", 6, 5, None, None, None, None)]
    world.check()


def test_cancel_and_revive_in_parts(world: PostgresWorld) -> None:
    job = world.submit(like_tasks(20))
    assert world.client.cancel(job, ranges=[(3, 8), (15, 16)]).tasks == 6
    assert world.counts(job) == {"pending": 14, "cancelled": 6}
    world.check()
    assert world.client.retry(job, ranges=[(5, 7)], states=[State.FAILED]) == 0
    assert world.client.retry(job, ranges=[(5, 7)]) == 2
    world.check()
    assert world.client.cancel(job).tasks == 16
    assert world.client.retry(job) == 20
    assert world.counts(job) == {"pending": 20}
    world.check()
    assert world.client.counts(job, [(1, 5)])["pending"] == 4


def test_cancel_of_many_touches_few(world: PostgresWorld) -> None:
    job = world.submit(like_tasks(100_000))
    assert world.client.cancel(job).tasks == 100_000
    assert world.plain.execute("SELECT count(*) FROM mpifarm.cancelled").fetchone() == (1,)
    assert next(world.client.tasks(job, states=["cancelled"], ranges=[(70_000, 70_001)])).task == 70_000


# --- recover and drop --------------------------------------------------------------------------------------------


def test_recover_says_what_it_takes(world: PostgresWorld) -> None:
    job = world.submit(like_tasks(10))
    run = world.queue.open_run(HERE)
    block = one(world.queue, run, 6)
    world.queue.record(run, Batch([ended(block, 1)], [Return(span(block, 2, 4), FailureClass.LOST)]))
    assert world.client.recover() == []
    world.pass_time(2 * LEASE_S)
    for dry_run in (True, False):
        (found,) = world.client.recover(dry_run=dry_run)
        assert (found.run, found.host, found.dead, found.tasks) == (run, "a-host", True, 3)
        assert found.beat_age_s > LEASE_S
    assert world.client.recover() == []
    assert world.counts(job) == {"succeeded": 1, "pending": 9}
    world.check()


def test_drop_deletes_all_of_a_job(world: PostgresWorld) -> None:
    kept, job = world.submit(like_tasks(3), "kept"), world.submit(like_tasks(10), "gone")
    world.client.set_held(kept, True)
    run = world.queue.open_run(HERE)
    block = one(world.queue, run, 4)
    world.client.cancel(job, ranges=[(9, 11)])
    with pytest.raises(UsageError, match=f"run {run} holds 4"):
        world.client.drop(job)
    assert world.counts(job) == {"running": 4, "pending": 4, "cancelled": 2}
    world.queue.record(run, Batch(all_ended(block, State.FAILED), done=[block.lease]))
    world.client.retry(job)
    lease(world.queue, run, 2)
    world.pass_time(2 * LEASE_S)
    world.client.drop(job)
    assert [found.name for found in world.client.jobs()] == ["kept"]
    tables = ("task", "shape", "task_shape", "ready", "waiting", "need", "request", "lease", "outcome", "past")
    for table in (*tables, "cancelled", "tally", "submission"):
        column = "id" if table == "job" else "job"
        row = world.plain.execute(f"SELECT count(*) FROM mpifarm.{table} WHERE {column} = {job}".encode()).fetchone()
        assert row == (0,), table
    world.check()
    world.queue.close_run(run)


# --- races -------------------------------------------------------------------------------------------------------


class Race:
    """A job of 20: a run has leased 1 to 10 and recorded 1 to 4, of which 3 and 4 failed; 19 and 20 are cancelled."""

    def __init__(self, dsn: Dsn) -> None:
        self.world = PostgresWorld(dsn)
        self.other = PostgresWorld(dsn)
        self.job = self.world.submit(like_tasks(20))
        self.run = self.world.queue.open_run(HERE)
        self.block: Block = one(self.world.queue, self.run, 10)
        self.first = Batch(
            [ended(self.block, task, State.FAILED if task > 2 else State.SUCCEEDED) for task in range(1, 5)]
        )
        self.world.queue.record(self.run, self.first)
        self.world.client.cancel(self.job, ranges=[(19, 21)])
        self.answer: Any = None

    def close(self) -> None:
        self.world.close()
        self.other.close()

    def verbs(self, world: PostgresWorld) -> dict[str, tuple[Any, Callable[[], Any]]]:
        """By name: the connection's owner and the call."""
        queue, client, run, block = world.queue, world.client, self.run, self.block
        some = Batch([ended(block, task, State.FAILED) for task in range(5, 8)])
        rest = Batch([ended(block, task) for task in range(5, 11)], done=[block.lease])
        again = Batch(self.first.outcomes[2:])
        back = Batch(returned=[Return(span(block, 8, 11), FailureClass.LOST)])

        def record_again() -> frozenset[LeaseId]:
            queue._record_lost = True  # type: ignore[attr-defined]  # as a broken connection leaves it
            return queue.record(run, again)

        return {
            "lease": (queue, lambda: lease(queue, run, 3)),
            "record": (queue, lambda: queue.record(run, some)),
            "record-again": (queue, record_again),
            "finish": (queue, lambda: queue.record(run, rest)),
            "expire": (queue, lambda: queue.expire(LEASE_S)),
            "renew": (queue, lambda: queue.renew(run)),
            "release": (queue, lambda: queue.record(run, back)),
            "retry": (client, lambda: client.retry(self.job)),
            "cancel": (client, lambda: client.cancel(self.job, ranges=[(1, 17)])),
            "add": (client, lambda: client.submit_on(Terms(job=self.job), "f", b"/tmp", like_tasks(5))),
            "hold": (client, lambda: client.set_held(self.job, True)),
        }

    def run_both(self, first: str, second: str) -> Any:
        """The first is left uncommitted while the second is started. Returns what the second was answered."""
        owner, call = self.verbs(self.world)[first]
        waiter, waiting_call = self.verbs(self.other)[second]
        with owner._database.using() as held, waiter._database.using() as waits:
            pid = waits.info.backend_pid
            held.execute("BEGIN")
            call()
            thread = threading.Thread(target=lambda: setattr(self, "answer", waiting_call()))
            thread.start()
            wait_for(lambda: not thread.is_alive() or self._waits(pid), "the second verb to end or wait")
            held.execute("COMMIT")
            thread.join(30)
            assert not thread.is_alive()
        return self.answer

    def _waits(self, pid: int) -> bool:
        row = self.world.plain.execute(
            "SELECT wait_event_type = 'Lock' FROM pg_stat_activity WHERE pid = %s", [pid]
        ).fetchone()
        return bool(row and row[0])

    def finish(self) -> None:
        """All is revived and run to the end by another run."""
        queue, client = self.world.queue, self.world.client
        client.set_held(self.job, False)
        queue.close_run(self.run)
        client.retry(self.job)
        self.world.check()
        run = queue.open_run(HERE)
        while blocks := lease(queue, run).blocks:
            outcomes = [outcome for block in blocks for outcome in all_ended(block)]
            assert not queue.record(run, Batch(outcomes, done=[block.lease for block in blocks]))
        self.world.check()
        total = client.find(str(self.job)).total
        assert self.world.counts(self.job) == {"succeeded": total}


@pytest.fixture
def race(pg_dsn: Dsn) -> Iterator[Race]:
    race = Race(pg_dsn)
    yield race
    race.close()


PEOPLE = ("retry", "cancel", "add", "hold")
RUNS = ("lease", "record", "record-again", "finish", "expire", "renew", "release")
PAIRS = [*product(PEOPLE, RUNS), *product(RUNS, PEOPLE), *product(PEOPLE, PEOPLE)]


@pytest.mark.parametrize(("first", "second"), PAIRS)
def test_pair(race: Race, first: str, second: str) -> None:
    if "expire" in (first, second):
        race.world.pass_time(2 * LEASE_S)
    answer = race.run_both(first, second)
    race.world.check()
    if second in ("record", "record-again", "finish", "release") and first != "expire":
        assert answer == frozenset()
    if (first, second) == ("lease", "cancel"):
        assert answer.tasks == 16 - 13  # 11 to 13 were leased before, 1 to 10 long ago
    if (first, second) == ("cancel", "lease"):
        assert not answer.blocks or answer.blocks[0].lo == 17
    if (first, second) == ("retry", "retry"):
        assert answer == 0
    race.finish()


# --- any sequence ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", [1, 2])
def test_any_sequence_of_verbs_keeps_every_task_in_one_place(world: PostgresWorld, seed: int) -> None:
    choose = random.Random(seed)
    queue, client = world.queue, world.client
    job = world.submit(like_tasks(30) + like_tasks(10, Needs(2)))
    runs = [queue.open_run(HERE), queue.open_run(HERE)]
    held: list[tuple[RunId, Block, list[int]]] = []
    sent: list[tuple[RunId, Batch]] = []

    def some_range() -> list[tuple[int, int]]:
        lo = choose.randint(1, 60)
        return [(lo, lo + choose.randint(1, 30))]

    def do_lease() -> None:
        run = choose.choice(runs)
        held.extend((run, block, list(range(block.lo, block.hi))) for block in lease(queue, run, 8).blocks)

    def do_record() -> None:
        if not held:
            return
        run, block, left = held.pop(choose.randrange(len(held)))
        ends = [left.pop(0) for _ in range(choose.randint(1, len(left)))]
        outcomes = [ended(block, task, choose.choice((State.SUCCEEDED, *BAD))) for task in ends]
        back = (
            [Return(span(block, left[0], left[-1] + 1), FailureClass.WALLTIME)]
            if left and choose.random() < 0.5
            else []
        )
        done = not left or bool(back)
        batch = Batch(outcomes, back, [block.lease] if done else [])
        queue.record(run, batch)
        sent.append((run, batch))
        if not done:
            held.append((run, block, left))

    def do_expire() -> None:
        world.pass_time(2 * LEASE_S)
        client.recover() if choose.random() < 0.5 else queue.expire(LEASE_S)
        for run in runs:
            queue.renew(run)

    verbs: list[Callable[[], object]] = [
        *[do_lease] * 3,
        *[do_record] * 3,
        do_expire,
        lambda: queue.record(*choose.choice(sent)) if sent else None,
        lambda: client.retry(job, ranges=some_range()),
        lambda: client.retry(job, states=[choose.choice(BAD)]),
        lambda: client.rerun(job, ranges=some_range()),
        lambda: client.cancel(job, ranges=some_range()),
        lambda: client.submit_on(Terms(job=job), "f", b"/tmp", like_tasks(choose.randint(1, 3), Needs(1))),
    ]
    for _ in range(300):
        choose.choice(verbs)()
        assert client.misplaced(job) == []
        summary = client.find("last")
        states = client.counts(job, [(1, summary.total + 1)])
        assert states == {name: getattr(summary, name) for name in states}
