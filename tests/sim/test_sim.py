"""Farms under seeds, with crashes: every task ends in exactly one outcome whose bytes are on disk.

A seed that ever failed is kept in seeds.txt and runs for ever.
"""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest

from mpifarm.core.dispatcher.ending import RunTerms
from mpifarm.core.model import LeaseId, RunId
from mpifarm.core.protocol.verbs import Batch, Order
from mpifarm.queue.memory import MemoryQueue
from tests.sim.world import Run, World

KEPT = [
    int(line.split("#")[0])
    for line in (Path(__file__).with_name("seeds.txt")).read_text().splitlines()
    if line.split("#")[0].strip()
]


@pytest.mark.parametrize("seed", [*range(15), *KEPT])
def test_history(seed: int) -> None:
    World(seed).run()


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(15, 200))
def test_more_histories(seed: int) -> None:
    World(seed).run()


@pytest.mark.parametrize("seed", range(5))
def test_peaceful_history_needs_one_run(seed: int) -> None:
    """Without faults the first run drains the queue and every task runs once."""
    world = World(seed, faults=False)
    world.run()
    assert {row.attempt for row, _, _ in world.queue.outcomes.values()} == {1}
    assert len(world.runs) == 1


@pytest.mark.parametrize("seed", range(10))
def test_what_a_lost_node_held_runs_in_the_same_run(seed: int) -> None:
    world = World(seed, faults=False, nodes=[2, 2, 2])
    world.at(world.now + 1.0, lambda: world.runs[0].silent.add(4))  # the last node's leader
    world.run()
    assert len(world.runs) == 1


@pytest.mark.parametrize("again_s", [1.0, 30.0])
def test_what_came_to_a_frozen_run_comes_in_its_order(again_s: float) -> None:
    """However often it is frozen: MPI lets no message overtake another, so neither may this world."""
    world = World(0, faults=False)
    run = Run(world, [1], RunTerms())
    came: list[int] = []
    for number in range(8):
        run.later(0.5 + number, partial(came.append, number))
    world.at(world.now + 0.1, partial(run.freeze, 4.0))
    world.at(world.now + 2.1, partial(run.freeze, again_s))
    while len(came) < 8:
        world.step()
    assert came == list(range(8))


class Unfenced(MemoryQueue):
    """Believes whoever says a task has ended, as many queues do."""

    def record(self, run: RunId, batch: Batch) -> frozenset[LeaseId]:
        for row, file_row, tail in batch.outcomes:
            self.outcomes.setdefault((row.job, row.task), (row, file_row, tail))
        return super().record(run, batch)


class Unheard(MemoryQueue):
    """Tells no run what people want of it."""

    def renew(self, run: RunId) -> tuple[Order, ...]:
        super().renew(run)
        return ()


class Forgetful(MemoryQueue):
    """Charges nine failures for one."""

    def record(self, run: RunId, batch: Batch) -> frozenset[LeaseId]:
        returned = [part._replace(span=part.span._replace(fails=part.span.fails * 9)) for part in batch.returned]
        return super().record(run, replace(batch, returned=returned))


WENT_WRONG = (0, 26, 63, 101, 105)
"""Seeds with which one of these was found out. They may cease to with any change; then the search takes longer."""


@pytest.mark.parametrize("broken", [Unfenced, Unheard, Forgetful])
def test_with_a_broken_queue_histories_go_wrong(broken: type[MemoryQueue]) -> None:
    """The proof that these tests can fail."""

    def fails(seed: int) -> bool:
        try:
            World(seed, queue=broken).run()
        except AssertionError:
            return True
        return False

    assert any(fails(seed) for seed in (*WENT_WRONG, *range(200)))


@pytest.mark.torture
def test_many_histories() -> None:
    for seed in range(10_000, 12_000):
        try:
            World(seed).run()
        except Exception as error:
            raise AssertionError(f"seed {seed}: keep it in seeds.txt") from error
