"""The account of a run adds up to all of its time, whatever its attempts looked like."""

from __future__ import annotations

import random
from collections.abc import Sequence
from itertools import pairwise
from typing import NamedTuple

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mpifarm.outputs.accounting import LAUNCH_S_MAX, NAMES, Account, Accounting, Work

RUN_START = 1_800_000_000.0


class Attempt(NamedTuple):
    node: int
    cpus: int
    started: float
    ended: float
    lost: bool = False


def account(
    attempts: Sequence[Attempt], slots: Sequence[int], end: float, *, block: int = 1000, died: bool = False
) -> Account:
    """Times from the start of the run; rows in the order of their ends, as a run file has them."""
    rows = sorted(attempts, key=lambda attempt: attempt.ended)
    accounting = Accounting(slots, RUN_START, RUN_START + end)
    for hi in range(len(rows), 0, -block):
        node, cpus, started, ended, lost = zip(*rows[max(0, hi - block) : hi])
        accounting.add(
            Work(
                np.array(node),
                np.array(cpus),
                np.array(started) + RUN_START,
                np.array(ended) + RUN_START,
                np.array(lost, bool),
            )
        )
    return accounting.account(died=died)


def by_hand(attempts: Sequence[Attempt], slots: Sequence[int], end: float) -> Account:
    """The definitions word by word: the k-th core of a node is busy while at least k of its cores are."""
    first = min(attempt.started for attempt in attempts)
    last = max(attempt.ended for attempt in attempts)
    launch = waiting = tail = 0.0
    for node, count in enumerate(slots):
        mine = [attempt for attempt in attempts if attempt.node == node and attempt.ended > attempt.started]
        moments = sorted({first, last, *(a.started for a in mine), *(a.ended for a in mine)})
        busy = [sum(a.cpus for a in mine if a.started <= lo and a.ended >= hi) for lo, hi in pairwise(moments)]
        for level in range(count):
            idle = 0.0
            for lo, hi, cores in zip(moments, moments[1:], busy):
                if cores <= level:
                    idle += hi - lo
                elif idle:
                    launch, waiting = (launch + idle, waiting) if idle <= LAUNCH_S_MAX else (launch, waiting + idle)
                    idle = 0.0
            tail += idle
    task, lost = (sum(a.cpus * (a.ended - a.started) for a in attempts if a.lost is which) for which in (False, True))
    return Account(sum(slots) * first, waiting, launch, task, lost, tail, sum(slots) * (end - last))


def scheduled(seed: int, slots: Sequence[int], count: int) -> list[Attempt]:
    """As nodes would have run it: each attempt starts as soon as enough cores are free, plus a random delay."""
    choice = random.Random(seed)
    free = {node: [choice.random()] * cores for node, cores in enumerate(slots)}
    attempts = []
    for _ in range(count):
        node = choice.randrange(len(slots))
        cores = sorted(free[node])
        cpus = choice.choice([1, 1, 1, choice.randint(1, slots[node])])
        delay = choice.choice([0.0, 0.001, 0.1, 1.0]) * choice.random()
        started = cores[cpus - 1] + delay
        ended = started + choice.choice([0.0, 0.01, 0.5, 3.0]) * choice.random()
        free[node] = [ended] * cpus + cores[cpus:]
        attempts.append(Attempt(node, cpus, started, ended, choice.random() < 0.1))
    return attempts


def test_one_slot() -> None:
    attempts = [
        Attempt(0, 1, 2.0, 5.0),
        Attempt(0, 1, 5.1, 6.0),
        Attempt(0, 1, 9.0, 10.0, lost=True),
    ]
    seen = account(attempts, [1], 12.0)
    assert seen == pytest.approx(Account(start_up=2, waiting=3, launch=0.1, task=3.9, lost=1, tail=0, drain=2))
    assert seen.percent() == [16.7, 25.0, 0.8, 32.5, 8.3, 0.0, 16.7]


def test_a_wide_task_among_narrow_ones() -> None:
    """Four cores: three narrow tasks, then a wide one for which one core had to wait, then nothing more for three."""
    attempts = [Attempt(0, 1, 1.0, 2.0)] * 3 + [Attempt(0, 4, 3.0, 5.0), Attempt(0, 1, 5.0, 7.0)]
    seen = account(attempts, [4], 8.0)
    assert seen == pytest.approx(Account(start_up=4, waiting=3 + 2, launch=0, task=13, lost=0, tail=6, drain=4))


def test_slots_nobody_needed_are_tail() -> None:
    seen = account([Attempt(0, 1, 1.0, 3.0)], [2, 1], 4.0)
    assert seen == pytest.approx(Account(start_up=3, task=2, tail=4, drain=3))


def test_a_run_without_attempts_waited() -> None:
    assert account([], [4, 4], 10.0) == Account(waiting=80.0)
    assert account([], [4], 0.0).percent() == [0.0] * len(NAMES)


def test_after_a_death_the_end_is_lost() -> None:
    attempts = [Attempt(0, 1, 0.0, 4.0), Attempt(0, 1, 0.0, 2.0, lost=True)]
    seen = account(attempts, [2], 10.0, died=True)
    assert seen == pytest.approx(Account(task=4, lost=2 + 2 + 12))
    assert account([], [2], 10.0, died=True) == Account(lost=20)


def test_clocks_that_disagree_cost_no_second() -> None:
    """The run's start and end are the database's, those of attempts their node's."""
    seen = account([Attempt(0, 1, -3.0, 14.0)], [2], 10.0)
    assert seen == pytest.approx(Account(task=17, tail=17))


def test_a_row_out_of_order_is_taken_to_end_with_the_row_after_it() -> None:
    accounting = Accounting([1], RUN_START, RUN_START + 10)
    for started, ended in ((5.0, 6.0), (3.0, 7.0)):  # last row first
        times = np.array([[started], [ended]]) + RUN_START
        accounting.add(Work(np.array([0]), np.array([1]), times[0], times[1], np.array([False])))
    assert accounting.account().total == pytest.approx(20)  # two at once: the node had two slots


@pytest.mark.parametrize("seed", range(60))
def test_as_the_definitions_say(seed: int) -> None:
    slots = random.Random(seed).choice([[1], [3], [4, 4], [8, 2, 5]])
    attempts = scheduled(seed, slots, 80)
    end = max(attempt.ended for attempt in attempts) + 0.7
    expected = by_hand(attempts, slots, end)
    for block in (1, 7, 1000):
        seen = account(attempts, slots, end, block=block)
        assert seen == pytest.approx(expected, abs=1e-4)
        assert seen.total == pytest.approx(sum(slots) * end)


_MOMENTS = st.floats(-5, 100, allow_nan=False)
_ATTEMPTS = st.builds(Attempt, st.integers(0, 2), st.integers(1, 6), _MOMENTS, _MOMENTS, st.booleans())


@settings(max_examples=150, deadline=None)
@given(st.lists(_ATTEMPTS, max_size=30), st.lists(st.integers(1, 4), min_size=3, max_size=3), st.integers(1, 9))
def test_any_rows_add_up(attempts: list[Attempt], slots: list[int], block: int) -> None:
    """Overlaps beyond the slots, ends before starts, times outside the run: all of it is shared out, nothing twice."""
    seen = account(attempts, slots, 50.0, block=block)
    assert min(seen) >= 0
    wall = max([50.0, *(a.ended for a in attempts)]) - min([0.0, *(min(a.started, a.ended) for a in attempts)])
    assert seen.total >= sum(slots) * wall * (1 - 1e-9) - 1e-3
    tenths = [round(10 * share) for share in seen.percent()]
    assert sum(tenths) == 1000
    assert min(tenths) >= 0
