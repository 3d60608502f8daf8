"""Submit and look: what people do with the queue."""

from __future__ import annotations

import tracemalloc
from collections.abc import Iterator

import pytest

from mpifarm.core.model import FailureClass, JobId, State, TaskText
from mpifarm.core.needs import Needs
from mpifarm.errors import QueueUnreachable, UsageError
from mpifarm.queue import Batch, Return
from mpifarm.queue.client import Client
from mpifarm.server.dsn import Dsn
from tests.queue.worlds import HERE, Parts, PostgresWorld, all_ended, ended, lease, like_tasks, lower, one, span

pytestmark = pytest.mark.postgres


@pytest.fixture
def world(pg_dsn: Dsn) -> Iterator[PostgresWorld]:
    world = PostgresWorld(pg_dsn)
    yield world
    world.close()


def empty(world: PostgresWorld) -> bool:
    counts = world.plain.execute(
        "SELECT (SELECT count(*) FROM mpifarm.job), (SELECT count(*) FROM mpifarm.task),"
        " (SELECT count(*) FROM mpifarm.ready)"
    ).fetchone()
    return counts == (0, 0, 0)


# --- submit ------------------------------------------------------------------------------------------------------


def test_a_new_job_is_pending(world: PostgresWorld) -> None:
    told: list[int] = []
    job = world.client.submit("spectra", "tasks.txt", b"/data\xff", like_tasks(50_000), told.append)
    assert (job.name, job.state, job.total, job.pending, job.running) == ("spectra", "pending", 50_000, 50_000, 0)
    assert (job.source, job.cwd, job.priority, job.held) == ("tasks.txt", b"/data\xff", 0, False)
    assert told == sorted(told) and told[-1] == 50_000
    assert world.client.jobs() == [job]


def test_any_bytes_come_back(world: PostgresWorld) -> None:
    texts = [
        TaskText(bytes(range(256)), b""),
        TaskText(b""),
        TaskText("Grüße 'quoted' \\ \n".encode(), b'{"a": 1}\0'),
        TaskText(b"x" * 3_000_000),
    ]
    job = world.submit([(Needs(), texts)])
    assert [TaskText(line.command, line.entry) for line in world.client.tasks(job)] == texts
    assert list(one(world.queue, world.queue.open_run(HERE)).tasks) == texts


@pytest.mark.parametrize("parts", [[], [(Needs(), [])]])
def test_no_tasks_are_refused(world: PostgresWorld, parts: Parts) -> None:
    with pytest.raises(UsageError, match=r"tasks\.txt: no tasks"):
        world.client.submit(None, "tasks.txt", b"/", parts)
    assert empty(world)


def test_an_interrupted_submit_leaves_nothing(world: PostgresWorld) -> None:
    def parts() -> Iterator[tuple[Needs, list[TaskText]]]:
        for _ in range(10):
            yield from like_tasks(20_000)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        world.client.submit("half", "f", b"/", parts())
    assert empty(world)
    assert world.client.submit("half", "f", b"/", like_tasks(3)).total == 3


def test_a_submit_that_loses_its_server_leaves_nothing(world: PostgresWorld) -> None:
    def parts() -> Iterator[tuple[Needs, list[TaskText]]]:
        yield from like_tasks(100_000)
        world.plain.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
            " WHERE datname = current_database() AND pid <> pg_backend_pid()"
        )
        yield from like_tasks(500_000)

    with pytest.raises(QueueUnreachable):
        world.client.submit(None, "f", b"/", parts())
    assert empty(world)


def test_nothing_of_a_submit_is_seen_before_its_end(world: PostgresWorld) -> None:
    run = world.queue.open_run(HERE)

    def parts() -> Iterator[tuple[Needs, list[TaskText]]]:
        yield from like_tasks(100_000)
        assert not lease(world.queue, run).blocks
        yield from like_tasks(1, Needs(2))

    world.client.submit(None, "f", b"/", parts())
    assert len(lease(world.queue, run).blocks) == 2


def test_many_shapes_take_no_memory(world: PostgresWorld, monkeypatch: pytest.MonkeyPatch) -> None:
    """The COPY is ended now and then to write the ranges; none may be lost or split at the seams."""
    lower(monkeypatch, ranges=100, piece=50)
    one_task = [TaskText(b"true")]
    parts = [(Needs(1 + number // 2 % 2), one_task) for number in range(2001)]
    job = world.submit(parts)
    ranges = world.plain.execute(
        "SELECT cpus, lo, hi FROM mpifarm.ready JOIN mpifarm.shape ON shape.id = shape ORDER BY lo"
    ).fetchall()
    assert ranges == [(1 + n % 2, 1 + 2 * n, min(3 + 2 * n, 2002)) for n in range(1001)]
    world.check()
    assert world.counts(job) == {"pending": 2001}


def test_memory_of_submit_is_flat(world: PostgresWorld) -> None:
    texts = [TaskText(b"command %d" % number) for number in range(1000)]
    tracemalloc.start()
    try:
        world.client.submit(None, "f", b"/", ((Needs(), texts) for _ in range(300)))
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 16 << 20


# --- names -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("source", "names"),
    [
        ("/data/tasks.txt", ["tasks", "tasks-2", "tasks-3"]),
        ("", ["job", "job-2"]),
        ("last.txt", ["job-last"]),
        ("2026.txt", ["job-2026"]),
        ("my run (3).txt", ["my-run-3"]),
        ("-", ["job"]),
    ],
)
def test_names_are_made_from_the_source(world: PostgresWorld, source: str, names: list[str]) -> None:
    assert [world.client.submit(None, source, b"/", like_tasks(1)).name for _ in names] == names


def test_a_taken_name_is_refused(world: PostgresWorld) -> None:
    world.client.submit("scan", "f", b"/", like_tasks(1))
    with pytest.raises(UsageError, match="called 'scan' already"):
        world.client.submit("scan", "f", b"/", like_tasks(1))


def test_a_name_taken_while_loading_is_refused(world: PostgresWorld, pg_dsn: Dsn) -> None:
    def parts() -> Iterator[tuple[Needs, list[TaskText]]]:
        yield from like_tasks(5)
        with Client.connect(pg_dsn) as other:
            other.submit("scan", "f", b"/", like_tasks(1))

    with pytest.raises(UsageError, match="called 'scan' already"):
        world.client.submit("scan", "f", b"/", parts())
    assert [job.total for job in world.client.jobs()] == [1]


@pytest.mark.parametrize("name", ["last", "17", "", "a b", "-x", "a/b", "é", "x" * 101])
def test_bad_names_are_refused(world: PostgresWorld, name: str) -> None:
    with pytest.raises(UsageError, match="cannot be the name"):
        world.client.submit(name, "f", b"/", like_tasks(1))


def test_find(world: PostgresWorld) -> None:
    with pytest.raises(UsageError, match="no jobs yet"):
        world.client.find("last")
    first = world.client.submit("molecules", "f", b"/", like_tasks(1))
    second = world.client.submit("spectra", "f", b"/", like_tasks(2))
    assert world.client.find("molecules") == first
    assert world.client.find(str(first.id)) == first
    assert world.client.find("last") == second
    with pytest.raises(UsageError, match="'molecule'; there is molecules"):
        world.client.find("molecule")


# --- looking -----------------------------------------------------------------------------------------------------


def played(world: PostgresWorld) -> JobId:
    """Ten tasks: 1 succeeded, 2 failed, 3 cancelled, 4 returned and waiting, 5 to 6 running, 7 to 10 pending."""
    job = world.submit([(Needs(2), [TaskText(b"%d" % number) for number in range(1, 11)])])
    run = world.queue.open_run(HERE)
    world.queue.name_file(run, "/data/run-1.h5")
    block = one(world.queue, run, 6)
    states = [State.SUCCEEDED, State.FAILED, State.CANCELLED]
    outcomes = [ended(block, task, state) for task, state in enumerate(states, 1)]
    world.queue.record(run, Batch(outcomes, [Return(span(block, 4, 5), FailureClass.WALLTIME)]))
    return job


def test_summary(world: PostgresWorld) -> None:
    job = world.client.find(str(played(world)))
    assert job.state == "running"
    counts = (job.waiting, job.pending, job.running, job.succeeded, job.failed, job.cancelled)
    assert counts == (0, 5, 2, 1, 1, 1)


def test_states_of_a_job(world: PostgresWorld) -> None:
    run = world.queue.open_run(HERE)
    for worst, state in [(State.SUCCEEDED, "succeeded"), (State.CANCELLED, "cancelled"), (State.FAILED, "failed")]:
        job = world.submit(like_tasks(2), state)
        block = one(world.queue, run)
        world.queue.record(run, Batch([ended(block, 1), ended(block, 2, worst)], done=[block.lease]))
        assert world.client.find(str(job)).state == state


def test_task_lines(world: PostgresWorld) -> None:
    job = played(world)
    lines = list(world.client.tasks(job))
    assert [line.task for line in lines] == list(range(1, 11))
    states = ["succeeded", "failed", "cancelled", "pending", "running", "running"] + ["pending"] * 4
    assert [line.state for line in lines] == states
    assert [line.attempts for line in lines] == [1, 1, 1, 1, 1, 1, 0, 0, 0, 0]
    failed = lines[1]
    assert failed[2:10] == ("exit", 3, None, 2.5, 1_700_000_000.0, "n1", 1, b"2")
    assert (failed.file, failed.file_row, failed.attempt, failed.stderr_tail) == ("/data/run-1.h5", 1, 1, b"oh no\n")
    assert lines[0].failure == "none" and lines[0].exit_code == 0
    assert lines[4].run == failed.run and lines[4].lease == failed.lease and lines[4].file_row is None
    assert lines[6].run is None and lines[6].failure == "" and lines[6].seconds is None


def test_task_lines_chosen(world: PostgresWorld) -> None:
    job = played(world)

    def numbers(**choice: object) -> list[int]:
        return [line.task for line in world.client.tasks(job, **choice)]  # type: ignore[arg-type]

    assert numbers(ranges=[(9, 11), (1, 3), (2, 4)]) == [1, 2, 3, 9, 10]
    assert numbers(states=["failed"]) == [2]
    assert numbers(states=["failed", "cancelled"], ranges=[(3, 8)]) == [3]
    assert numbers(states={"running", "succeeded"}) == [1, 5, 6]
    assert numbers(states=["pending"], ranges=[(1, 8)]) == [4, 7]
    assert numbers(states=[]) == []


def test_tasks_need_not_be_read_to_the_end(world: PostgresWorld) -> None:
    job = world.submit(like_tasks(10_000))
    lines = world.client.tasks(job)
    assert next(lines).task == 1
    lines.close()  # type: ignore[attr-defined]
    assert world.client.find("last").total == 10_000


def test_a_signal_hides_the_exit_code(world: PostgresWorld) -> None:
    job = world.submit(like_tasks(1))
    run = world.queue.open_run(HERE)
    block = one(world.queue, run)
    row, file_row, _ = ended(block, 1, State.FAILED)
    killed = row._replace(exit_code=-1, signal=11, failure=FailureClass.SIGNAL)
    world.queue.record(run, Batch([(killed, file_row, None)], done=[block.lease]))
    (line,) = world.client.tasks(job)
    assert (line.failure, line.exit_code, line.signal) == ("signal", None, 11)
    (failure,) = world.client.failures(job)
    assert failure == ("signal", 1, 1, None, 11, None, None)


def test_a_clock_set_back_costs_nobody_a_result(world: PostgresWorld) -> None:
    job = world.submit(like_tasks(1))
    run = world.queue.open_run(HERE)
    block = one(world.queue, run)
    row, file_row, _ = ended(block, 1)
    world.queue.record(run, Batch([(row._replace(ended=row.started - 5), file_row, None)], done=[block.lease]))
    assert world.client.durations(job) == (0.0, 0.0, 0.0)


def test_failures(world: PostgresWorld) -> None:
    assert world.client.failures(played(world)) == [
        ("exit", 1, 2, 3, None, b"oh no\n", None),
        ("cancelled", 1, 3, 0, None, None, None),
    ]


def test_durations(world: PostgresWorld) -> None:
    job = world.submit(like_tasks(100))
    assert world.client.durations(job) is None
    run = world.queue.open_run(HERE)
    block = one(world.queue, run)
    rows = [(row._replace(ended=row.started + row.task), at, tail) for row, at, tail in all_ended(block)]
    world.queue.record(run, Batch(rows, done=[block.lease]))
    assert world.client.durations(job) == (50.0, 95.0, 100.0)


def test_runs(world: PostgresWorld) -> None:
    job = played(world)
    other = world.submit(like_tasks(1), "other")
    (line,) = world.client.runs(job)
    assert (line.host, line.nodes, line.ranks, line.slots, line.file) == ("a-host", 2, 8, 8, "/data/run-1.h5")
    assert (line.succeeded, line.failed, line.cancelled, line.returned, line.busy_s) == (1, 1, 1, 1, 15.0)
    assert line.live and line.ended is None and line.started <= line.beat
    assert world.client.runs(other) == []
    world.queue.close_run(line.id)
    (line,) = world.client.runs()
    assert not line.live and line.ended is not None
    assert (line.succeeded, line.returned, line.busy_s) == (1, 3, 15.0)
    assert world.plain.execute("SELECT count(*) FROM mpifarm.tally").fetchone() == (1,)


def test_priority_and_hold_touch_one_row(world: PostgresWorld) -> None:
    job = world.submit(like_tasks(10))
    world.client.set_priority(job, 7)
    world.client.set_held(job, True)
    summary = world.client.find("last")
    assert (summary.priority, summary.held, summary.state) == (7, True, "pending")


def test_misplaced_tells_what_is_wrong(world: PostgresWorld) -> None:
    """The proof must be able to fail."""
    job = played(world)
    assert world.client.misplaced(job) == []
    world.plain.execute("UPDATE mpifarm.ready SET lo = 8 WHERE lo = 7")
    assert world.client.misplaced(job) == [(7, 8)]
    world.plain.execute("UPDATE mpifarm.ready SET lo = 6 WHERE lo = 8")
    assert world.client.misplaced(job) == [(7, 6)]
    world.plain.execute("DELETE FROM mpifarm.lease")
    assert world.client.misplaced(job)[0] == (5, 6)
