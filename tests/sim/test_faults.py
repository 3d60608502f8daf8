"""One fault at a time, in histories without others: what it costs is known, and every task still has its outcome."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from tests.sim.world import LIMITS, Run, World

SEEDS = pytest.mark.parametrize("seed", range(5))


def history(seed: int, fault: Callable[[Run], None]) -> World:
    """Three nodes, tasks of about a second; the fault comes to the first run when it has worked for a while."""
    world = World(seed, faults=False, nodes=[2, 2, 2])
    world._scale_s = 1.0
    world.at(world.now + 2.0, lambda: fault(world.runs[0]))
    world.run()
    return world


@SEEDS
def test_a_launcher_dies(seed: int) -> None:
    """Its node is lost, and the others do its work."""
    world = history(seed, lambda run: run.launchers[run.roles.leaders[-1]].die())
    assert len(world.runs) == 1 and world.runs[0].dispatcher.nodes_lost == 1


@SEEDS
def test_a_disk_stands_still(seed: int) -> None:
    """Nothing new starts until it answers again; no node is lost for it, and no task."""
    begun: list[int] = []

    def count(run: Run) -> None:
        begun.append(sum(len(launcher.begun) for launcher in run.launchers.values()))

    def stand_still(run: Run) -> None:
        run.stop_writing(20 * LIMITS.file_silent_s)
        run.later(10 * LIMITS.file_silent_s, lambda: count(run))
        run.later(19 * LIMITS.file_silent_s, lambda: count(run))

    world = history(seed, stand_still)
    assert len(world.runs) == 1 and world.runs[0].dispatcher.nodes_lost == 0
    assert begun[0] == begun[1]


@SEEDS
def test_a_file_breaks(seed: int) -> None:
    """The run says so and ends; the next one does what was not recorded."""
    world = history(seed, Run.break_file)
    finished = world.runs[0].finished
    assert len(world.runs) == 2 and finished and finished.code == 5


@SEEDS
def test_the_recorder_falls_silent(seed: int) -> None:
    """Without a file nothing can be recorded: as when it breaks."""
    world = history(seed, lambda run: run.silent.add(run.roles.recorder))
    finished = world.runs[0].finished
    assert len(world.runs) == 2 and finished and finished.code == 3
