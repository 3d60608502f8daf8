"""How well runs are fed: a slow link costs nothing visible, the tail is shared, long tasks are not hoarded."""

from __future__ import annotations

import random
from dataclasses import replace
from typing import Any

import pytest

from mpifarm.core.dispatcher.ending import RunTerms
from mpifarm.core.launcher.launching import Running
from mpifarm.core.model import JobId, Part, RunId, TaskText
from mpifarm.core.needs import Needs
from mpifarm.core.protocol.verbs import Grant
from mpifarm.queue.memory import MemoryQueue
from tests.sim.world import Run, World

pytestmark = pytest.mark.slow


class Steady(World):
    """One job of so many tasks that take so long; runs of so many nodes each, all at once."""

    def __init__(
        self, tasks: int, seconds: float, runs: list[int], link_s: float, queue: type[MemoryQueue] = MemoryQueue
    ) -> None:
        self.tasks, self.seconds = tasks, seconds
        super().__init__(1, faults=False, link_s=link_s, queue=queue)
        self.ends: dict[int, float] = {}
        for number, nodes in enumerate(runs):
            run = Run.__new__(Run)
            self.runs.append(run)
            run.__init__(self, [2] * nodes, RunTerms(), ())  # type: ignore[misc]
            self.ends[number] = self.now

    def _submit(self) -> None:
        if not self._policies:
            self.add([Part(Needs(), [TaskText(b"true")] * self.tasks)])

    def _start_run(self) -> None:
        pass

    def behaviour(self, attempt: Running) -> tuple[float, int]:
        chance = random.Random(attempt.task)
        return chance.uniform(0.5, 1.5) * self.seconds, 0

    def may_begin(self, run: Run, attempt: Running) -> None:
        number = self.runs.index(run)
        self.ends[number] = max(self.ends[number], self.now + self.behaviour(attempt)[0])

    def utilisation(self) -> float:
        began = self.now
        self.run()
        busy_s = sum(run.dispatcher.ledger.busy_s for run in self.runs)
        slots = sum(len(run.launchers) * self.slots for run in self.runs)
        return busy_s / (slots * (max(self.ends.values()) - began))

    @property
    def spread(self) -> float:
        """Between the end of the first run and of the last, in tasks."""
        return (max(self.ends.values()) - min(self.ends.values())) / self.seconds


@pytest.mark.parametrize(("tasks", "seconds"), [(4000, 0.02), (2000, 0.1), (500, 1.0)])
def test_a_slow_link_costs_nothing_visible(tasks: int, seconds: float) -> None:
    near, far = (Steady(tasks, seconds, [2], link_s).utilisation() for link_s in (0.0, 0.02))
    assert far > 0.95 and far > near - 0.02, (near, far)


@pytest.mark.parametrize(("tasks", "seconds"), [(1500, 0.2), (600, 1.0), (200, 10.0)])
def test_the_tail_is_shared(tasks: int, seconds: float) -> None:
    """Three runs of 4, 8 and 16 slots: the last is done within about a task of the first. For one number of tasks luck
    decides (0.2 to 2.7 tasks), so this is the mean over several."""
    worlds = [Steady(count, seconds, [1, 2, 4], 0.02) for count in range(tasks - tasks // 5, tasks, tasks // 30)]
    assert min(world.utilisation() for world in worlds) > 0.85
    spreads = [world.spread for world in worlds]
    assert sum(spreads) / len(spreads) < 1.5, spreads


class Alone(MemoryQueue):
    """Lets every run think that it is alone."""

    def lease(self, run: RunId, tasks_max: int, bytes_max: int, room: Needs) -> Grant:
        return replace(super().lease(run, tasks_max, bytes_max, room), others_slots=0)


def test_a_run_that_knows_of_no_others_takes_too_much() -> None:
    """The proof that the test above can fail."""
    worlds = [Steady(1500, 0.2, [1, 2, 4], 0.02, queue) for queue in (MemoryQueue, Alone)]
    for world in worlds:
        world.run()
    assert worlds[1].spread > 2 * worlds[0].spread


def test_long_tasks_are_leased_about_slots_at_a_time() -> None:
    world = Steady(100, 300.0, [2], 0.02)
    held: list[int] = []
    lease = world.queue.lease

    def noted(*asked: Any) -> Grant:
        grant = lease(*asked)
        held.append(world.queue.counts(JobId(1))["running"])
        return grant

    world.queue.lease = noted  # type: ignore[method-assign]
    world.run()
    assert max(held) <= 8 + 2
