"""A node that fails everything, and fast: it is told apart from a job that does, and dealt little."""

from __future__ import annotations

import random
from collections import Counter

import pytest

from mpifarm.core.dispatcher.suspicion import Suspicion, Verdict
from mpifarm.core.job.policy import Policy
from mpifarm.core.launcher.launching import Running
from mpifarm.core.model import Part, State, TaskText
from mpifarm.core.needs import Needs
from tests.sim.world import World

pytestmark = pytest.mark.slow

FAILS_S = 0.02


class Broken(World):
    """One run of so many nodes of four slots; on the last of them everything fails after so many seconds."""

    def __init__(
        self, nodes: int, tasks: int, seconds: float, retries: int, *, from_s: float = 0.0, bad_job: bool = False
    ) -> None:
        """bad_job: everything fails everywhere."""
        self.tasks, self.seconds, self.retries = tasks, seconds, retries
        self.broken, self.from_s, self.bad_job = nodes - 1, from_s, bad_job
        super().__init__(nodes * tasks, faults=False, nodes=[1] * nodes)
        self.began = self.now
        self.failed: Counter[int] = Counter()
        """Attempts that failed, by rank."""

    def _submit(self) -> None:
        if not self._policies:
            self.add([Part(Needs(), [TaskText(b"true")] * self.tasks)], Policy(self.retries))

    def behaviour_on(self, rank: int, attempt: Running) -> tuple[float, int]:
        if self.bad_job or (rank == self.broken and self.now >= self.began + self.from_s):
            self.failed[rank] += 1
            return FAILS_S, 256
        return random.Random(attempt.task).uniform(0.5, 1.5) * self.seconds, 0

    @property
    def ended(self) -> Counter[int]:
        return Counter(row.state for row, *_ in self.queue.outcomes.values())

    @property
    def said(self) -> list[str]:
        return [text for run in self.runs for text in run.said]


BURST = 4 * round(0.6 / FAILS_S)
"""What four slots fail before anybody else can know of it: until the rows of their first tasks are on disk."""
PROBES = 20


@pytest.mark.parametrize("seconds", [0.2, 2.0])
@pytest.mark.parametrize("nodes", [2, 3, 8])
def test_a_broken_node_gets_little_and_no_task_exhausts_its_retries_there(nodes: int, seconds: float) -> None:
    world = Broken(nodes, 150 * nodes, seconds, retries=1)
    world.run()
    assert world.ended == {State.SUCCEEDED: 150 * nodes}
    assert 0 < world.failed[world.broken] <= BURST + PROBES, world.failed
    whole_s = 150 * nodes * seconds / (4 * (nodes - 1))
    assert world.now - world.began < 1.2 * whole_s + 10.0
    assert sum("suspected" in line for line in world.said) == 1, world.said
    assert len(world.runs) == 1


def test_a_node_that_breaks_in_the_middle_is_left_out() -> None:
    world = Broken(3, 1000, 1.0, retries=1, from_s=20.0)
    world.run()
    assert world.ended == {State.SUCCEEDED: 1000}
    # What began before still succeeds, and clears it for a moment.
    assert world.failed[world.broken] <= 2 * BURST + PROBES
    assert sum("is left out of this run" in line for line in world.said) == 1, world.said


def test_without_retries_it_fails_no_more_than_that() -> None:
    world = Broken(4, 1200, 0.5, retries=0)
    world.run()
    assert world.ended[State.FAILED] == world.failed[world.broken] <= BURST + PROBES


@pytest.mark.parametrize("retries", [0, 1])
@pytest.mark.parametrize("nodes", [2, 5])
def test_a_job_that_fails_everywhere_marks_no_node(nodes: int, retries: int) -> None:
    world = Broken(nodes, 300 * nodes, 1.0, retries, bad_job=True)
    world.run()
    assert world.ended == {State.FAILED: 300 * nodes}
    assert not [line for line in world.said if "suspected" in line or "left out" in line]
    fewest, most = min(world.failed.values()), max(world.failed.values())
    assert most < 2 * fewest, world.failed


def test_where_nobody_judges_nodes_the_broken_one_gets_most(monkeypatch: pytest.MonkeyPatch) -> None:
    """The proof that the tests above can fail."""

    def blind(*_: object) -> list[Verdict]:
        return []

    monkeypatch.setattr(Suspicion, "look", blind)
    monkeypatch.setattr(Suspicion, "look_at", float("inf"))
    world = Broken(3, 900, 2.0, retries=0)
    world.run()
    assert world.failed[world.broken] > 2 * (BURST + PROBES)


def test_a_mended_node_is_trusted_again() -> None:
    world = Broken(2, 600, 0.5, retries=3)
    world.at(world.began + 3.0, lambda: setattr(world, "broken", -1))
    world.run()
    assert world.ended == {State.SUCCEEDED: 600}
    assert any("is trusted again" in line for line in world.said), world.said
