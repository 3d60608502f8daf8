"""The in-memory twin keeps the contract, and its algebra of ranges holds for any sequence of verbs."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mpifarm.core.model import Block, FailureClass, RunId, TaskText
from mpifarm.core.needs import Needs
from mpifarm.core.ranges import runs_of
from mpifarm.queue import Batch, Return
from mpifarm.queue.lease_limits import merged
from tests.queue.contract import QueueContract
from tests.queue.worlds import HERE, LEASE_S, MANY, MemoryWorld, ended, span


class TestMemoryQueue(QueueContract):
    @pytest.fixture
    def world(self) -> MemoryWorld:
        return MemoryWorld()


@settings(deadline=None)
@given(st.sets(st.integers(1, 60)))
def test_ranges_of_numbers_are_the_numbers(numbers: set[int]) -> None:
    ranges = runs_of(sorted(numbers))
    assert {number for lo, hi in ranges for number in range(lo, hi)} == numbers
    assert all(hi < next_lo for (_, hi), (next_lo, _) in pairwise(ranges))


@settings(deadline=None)
@given(st.lists(st.tuples(st.integers(1, 3), st.integers(1, 30), st.sampled_from(FailureClass)), unique=True))
def test_merged_spans_hold_the_same_tasks(singles: list[tuple[int, int, FailureClass]]) -> None:
    blocks = {number: Block(number, 1, 1, Needs(), 1, [TaskText(b"")] * 30) for number in (1, 2, 3)}  # type: ignore[arg-type]
    returned = [Return(span(blocks[number], task, task + 1), failure) for number, task, failure in singles]
    flat = [
        (part.span.lease, task, part.failure) for part in merged(returned) for task in range(part.span.lo, part.span.hi)
    ]
    assert sorted(flat) == sorted(singles)


_VERBS = st.one_of(
    st.tuples(st.just("lease"), st.integers(0, 2), st.integers(1, 9), st.integers(1, 4)),
    st.tuples(st.just("end"), st.integers(0, 40), st.integers(1, 6), st.booleans()),
    st.tuples(st.just("return"), st.integers(0, 40), st.integers(1, 6), st.booleans()),
    st.tuples(st.just("late"), st.integers(0, 40), st.integers(1, 6), st.booleans()),
    st.tuples(st.just("expire"), st.integers(0, 2), st.just(0), st.just(0)),
    st.tuples(st.just("close"), st.integers(0, 2), st.just(0), st.just(0)),
)


class Play:
    """Three runs over one queue, doing whatever hypothesis says, and a proof after every step."""

    def __init__(self) -> None:
        self.world = MemoryWorld()
        shapes = [Needs(1), Needs(2), Needs(1), Needs(4), Needs(1)]
        for name in ("first", "second"):
            self.world.submit([(needs, [TaskText(b"x")] * 6) for needs in shapes], name)
        self.runs: list[RunId] = [self.world.queue.open_run(HERE) for _ in range(3)]
        self.blocks: list[tuple[RunId, Block]] = []

    def step(self, verb: str, which: int, count: int, extra: int) -> None:
        queue = self.world.queue
        if verb == "lease":
            run = self.runs[which]
            self.blocks += [(run, block) for block in queue.lease(run, count, MANY, Needs(extra)).blocks]
        elif verb == "expire":
            self.world.pass_time(LEASE_S + 1)
            for run in self.runs[:which]:
                queue.renew(run)
            queue.expire(LEASE_S)
        elif verb == "close":
            queue.close_run(self.runs[which])
            self.runs[which] = queue.open_run(HERE)
        elif self.blocks:
            run, block = self.blocks[which % len(self.blocks)]
            lo = block.lo + which % len(block.tasks)
            hi = min(lo + count, block.hi)
            if verb == "return":
                batch = Batch(returned=[Return(span(block, lo, hi), FailureClass.LOST)])
            else:
                batch = Batch([ended(block, task) for task in range(lo, hi)], done=[block.lease] if extra else [])
            queue.record(run, batch)
            if verb == "late":
                queue.record(run, batch)


@settings(deadline=None)
@given(st.lists(_VERBS, max_size=40))
def test_every_task_stays_in_exactly_one_place(steps: list[tuple[str, int, int, int]]) -> None:
    play = Play()
    for step in steps:
        play.step(*step)
        play.world.check()
