"""No core idles that a narrow task could use while a wide one waits, and the wide one does not wait for ever."""

from __future__ import annotations

import pytest

from mpifarm.core.launcher.launching import PASSES_PER_SLOT, Running
from mpifarm.core.model import Part, State, TaskText
from mpifarm.core.needs import Needs
from tests.sim.world import Run, World


class Mixed(World):
    """One run of one node of eight slots; tasks in this order: (how many, cores, seconds)."""

    def __init__(self, *groups: tuple[int, int, float]) -> None:
        self.groups = groups
        self.lasts = [seconds for count, _, seconds in groups for _ in range(count)]
        self.began: dict[int, float] = {}
        super().__init__(1, faults=False, nodes=[1])
        self.slots = 8

    def _submit(self) -> None:
        if not self._policies:
            self.add([Part(Needs(cpus), [TaskText(b"true")] * count) for count, cpus, _ in self.groups])

    def behaviour(self, attempt: Running) -> tuple[float, int]:
        return self.lasts[attempt.task - 1], 0

    def may_begin(self, run: Run, attempt: Running) -> None:
        super().may_begin(run, attempt)
        self.began[attempt.task] = self.now

    @property
    def lasted(self) -> float:
        """From the first begin to the last end."""
        ends = [self.began[task] + self.lasts[task - 1] for task in self.began]
        return max(ends) - min(self.began.values())


def test_narrow_tasks_run_beside_a_wide_one_that_waits() -> None:
    """Five tasks of 4 s, one of four cores, twelve of 1 s: three cores would idle for 4 s. The best there is: 5 s."""
    world = Mixed((5, 1, 4.0), (1, 4, 1.0), (12, 1, 1.0))
    world.run()
    assert world.lasted < 5.5, world.lasted


@pytest.mark.slow
@pytest.mark.parametrize("wide", [2, 4, 8])
@pytest.mark.parametrize("narrow_s", [0.3, 3.0])
def test_a_wide_task_begins_after_a_bounded_number_of_others(wide: int, narrow_s: float) -> None:
    world = Mixed((8, 1, narrow_s), (1, wide, 1.0), (400, 1, narrow_s))
    world.run()
    assert {row.state for row, *_ in world.queue.outcomes.values()} == {State.SUCCEEDED}
    passed = sum(begin < world.began[9] for task, begin in world.began.items() if task > 9)
    assert passed <= PASSES_PER_SLOT * 8


@pytest.mark.slow
def test_nothing_is_hoarded_where_all_tasks_are_alike() -> None:
    world = Mixed((40, 4, 50.0))
    held: list[int] = []
    lease = world.queue.lease

    def noted(*asked: object) -> object:
        grant = lease(*asked)  # type: ignore[arg-type]
        held.append(sum(world.queue.counts(job)["running"] for job in world._policies))
        return grant

    world.queue.lease = noted  # type: ignore[method-assign,assignment]
    world.run()
    assert max(held[1:]) <= 4, held  # of the first lease nobody knew how wide they are
