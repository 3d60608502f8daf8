"""A cap is never taken for the whole: every place where the queue stops before the end has a name, and who goes on from
there does, on both queues."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from mpifarm.core.dispatcher.ending import left_behind
from mpifarm.core.model import Parent, Part, RunId, State, TaskText
from mpifarm.core.needs import Needs
from mpifarm.core.protocol.facts import Terms
from mpifarm.queue import Batch
from mpifarm.queue.caps import CAPS
from mpifarm.server.dsn import Dsn
from tests.queue.worlds import HERE, MemoryWorld, PostgresWorld, World, all_ended, ended, lease, like_tasks, lower, one

PACKAGE = Path(__file__).parents[2] / "mpifarm"


def part(count: int, *parents: Parent, cpus: int = 1, limit_s: float = 0.0) -> Part:
    return Part(Needs(cpus, time_limit_s=limit_s), [TaskText(b"true")] * count, parents)


def apart(count: int, **shape: float) -> list[Part]:
    """As many ranges as tasks: neighbours differ in their time limits."""
    return [part(1, cpus=int(shape.get("cpus", 1)), limit_s=shape.get("limit_s", 0.0) + n % 2) for n in range(count)]


@pytest.fixture(params=["memory", pytest.param("postgres", marks=pytest.mark.postgres)])
def world(request: pytest.FixtureRequest) -> Iterator[World]:
    if request.param == "memory":
        yield MemoryWorld()
        return
    made = PostgresWorld(request.getfixturevalue("pg_dsn"))
    yield made
    made.close()


def test_every_limit_has_a_name_and_somebody_who_goes_on() -> None:
    texts = [re.sub("--.*", "", path.read_text()) for path in (PACKAGE / "queue/sql").rglob("*.sql")]
    said = {found for text in texts for found in re.findall(r"\b(?:LIMIT|FETCH FIRST) (%\(\w+\)s|[^\s),;]+)", text)}
    assert {name.lstrip(":%(").removesuffix(")s") if name.startswith(("%", ":")) else name for name in said} <= {
        "1",
        *CAPS,
    }
    python = "".join(path.read_text() for path in (PACKAGE / "queue").glob("*.py"))
    for name, (most, then) in CAPS.items():
        assert most > 0 and then
        assert f'"{name}")' in python.replace(f'    "{name}": Cap', "") or any(f":{name}" in text for text in texts), (
            name
        )


def record_first(world: World, run: RunId, states: dict[int, State]) -> None:
    """The first task of the queue ends so, whichever that is."""
    block = one(world.queue, run, len(states))
    outcomes = [ended(block, task, states[task]) for task in range(block.lo, block.hi)]
    world.queue.record(run, Batch(outcomes, done=[block.lease]))


@pytest.mark.parametrize("caps", [{"doomed": 3}, {"judged": 3}, {"doomed": 1, "judged": 2}, {}])
def test_more_are_cancelled_than_a_statement_cancels(
    world: World, monkeypatch: pytest.MonkeyPatch, caps: dict[str, int]
) -> None:
    """And those of their neighbours that wait for what ended well run, whatever the order."""
    lower(monkeypatch, **caps)
    three = part(1, Parent(1, 2)), part(1, Parent(2, 3)), part(1, Parent(1, 3))
    job = world.submit_on(Terms(), part(2), *three * 7)
    run = world.queue.open_run(HERE)
    record_first(world, run, {1: State.FAILED, 2: State.SUCCEEDED})
    assert world.counts(job) == {"failed": 1, "succeeded": 1, "pending": 7, "cancelled": 14}
    world.check()


@pytest.mark.parametrize("verb", ["cancel", "retry"])
def test_verbs_of_people_go_past_it_too(world: World, monkeypatch: pytest.MonkeyPatch, verb: str) -> None:
    lower(monkeypatch, doomed=2, judged=2, retried=2)
    chain_of = [part(1, Parent(n, n + 1)) for n in range(1, 5)]
    job = world.submit_on(Terms(), part(1), *chain_of, *(part(1, Parent(1, 2), limit_s=n % 2) for n in range(7)))
    world.cancel(job, 1, 2)
    assert world.counts(job) == {"cancelled": 12}
    if verb == "retry":
        assert world.retry(job, 1, 2) == 12
        assert world.counts(job) == {"pending": 1, "waiting": 11}
    world.check()


def test_more_fail_than_one_retry_takes_back(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    lower(monkeypatch, retried=3)
    job = world.submit(like_tasks(10))
    run = world.queue.open_run(HERE)
    block = one(world.queue, run)
    world.queue.record(run, Batch(all_ended(block, State.FAILED), done=[block.lease]))
    assert world.retry(job, 1, 1 << 31 - 1) == 10
    assert world.counts(job) == {"pending": 10}


@pytest.mark.parametrize(
    "caps", [{"leased": 3}, {"leased": 3, "counted_ready": 4}, {"hopped": 2, "leased": 2, "listed": 1}]
)
def test_more_ranges_are_ready_than_one_lease_takes(
    world: World, monkeypatch: pytest.MonkeyPatch, caps: dict[str, int]
) -> None:
    """Of several jobs: nothing is left behind, and what was not counted to the end is not said to be all."""
    lower(monkeypatch, **caps)
    for _ in range(3):
        world.submit_on(Terms(), *apart(5))
    run = world.queue.open_run(HERE)
    left, taken = 15, set()
    while blocks := (grant := lease(world.queue, run)).blocks:
        taken |= {(block.job, task) for block in blocks for task in range(block.lo, block.hi)}
        left -= sum(len(block.tasks) for block in blocks)
        assert grant.ready_left == left or ("ready_left" in grant.at_least and 0 <= grant.ready_left <= left)
    assert len(taken) == 15 and left == 0 and not grant.at_least


def test_large_ranges_before_small_ones_leave_no_negative_rest(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    lower(monkeypatch, leased=2, counted_ready=3)
    world.submit_on(Terms(), part(1000), *apart(9, limit_s=1.0))
    grant = lease(world.queue, world.queue.open_run(HERE))
    assert grant.ready_left >= 0 and "ready_left" in grant.at_least


@pytest.mark.parametrize(("count", "stopped"), [(2, False), (3, True), (8, True)])
def test_what_stays_in_the_queue_is_told_as_at_least_so_many(
    world: World, monkeypatch: pytest.MonkeyPatch, count: int, stopped: bool
) -> None:
    lower(monkeypatch, counted=3)
    wide = apart(count, cpus=99)
    world.submit_on(Terms(), *wide, *(part(1, Parent(1, 2), limit_s=n % 2) for n in range(count)))
    grant = lease(world.queue, world.queue.open_run(HERE))
    counted = min(count, 3)
    assert (grant.ready_left, grant.too_wide, grant.waiting) == (0, counted, counted)
    assert grant.at_least == ({"too_wide", "waiting"} if stopped else set())
    least = "at least " if stopped else ""
    assert [line.split(" tasks")[0] for line in left_behind(grant, Needs(64))] == [f"{least}{counted}"] * 2


@pytest.mark.postgres
def test_pages_of_people(pg_dsn: Dsn, monkeypatch: pytest.MonkeyPatch) -> None:
    """Tasks, outputs, needs; and a submit in pieces."""
    lower(monkeypatch, lines=3, places=3, needs=3, piece=3, ranges=2)
    world = PostgresWorld(pg_dsn)
    job = world.submit_on(Terms(), part(10), *(part(1, Parent(n, n + 1)) for n in range(1, 8)))
    run = world.queue.open_run(HERE)
    block = one(world.queue, run)
    world.queue.record(run, Batch(all_ended(block), done=[block.lease]))
    assert [line.task for line in world.client.tasks(job)] == list(range(1, 18))
    assert [task for page in world.client.places(job) for task in page["task"]] == list(range(1, 11))
    assert len(list(world.client.needs(job))) == 7
    world.check()
    world.close()


@pytest.mark.postgres
def test_ten_thousand_and_more_that_wait_for_a_failure(pg_dsn: Dsn) -> None:
    """`false`, `true`, and 24,000 lines that wait for the first, or for both: with the caps as they are."""
    world = PostgresWorld(pg_dsn)
    children = (part(1, Parent(1, 2 + n % 2)) for n in range(24_000))
    job = world.submit_on(Terms(), part(2), *children)
    record_first(world, world.queue.open_run(HERE), {1: State.FAILED, 2: State.SUCCEEDED})
    assert world.counts(job) == {"failed": 1, "succeeded": 1, "cancelled": 24_000}
    world.check()
    world.close()
