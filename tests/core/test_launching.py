"""The launcher's decisions, with a clock made of numbers."""

from __future__ import annotations

from math import inf

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mpifarm.core.launcher.launching import LOOK_AHEAD, PASSES_PER_SLOT, SUSPECT_CRASHES, Launching
from mpifarm.core.launcher.verdict import may_be_memory, verdict
from mpifarm.core.model import Block, FailureClass, JobId, LeaseId, Span, State, TaskText
from mpifarm.core.needs import Needs


def block(lo: int, count: int, cpus: int = 1, limit_s: float = 0.0) -> Block:
    return Block(LeaseId(lo), JobId(1), 1, Needs(cpus, time_limit_s=limit_s), lo, [TaskText(b"true")] * count)


def suspects(lo: int, count: int) -> Block:
    return block(lo, count)._replace(crashes=SUSPECT_CRASHES)


def take_all(launching: Launching, now: float = 0.0) -> list[int]:
    taken = []
    while (attempt := launching.take(now)) is not None:
        taken.append(attempt.task)
    return taken


def slot_of(launching: Launching, task: int) -> int:
    return next(slot for slot, attempt in launching.running.items() if attempt.task == task)


def test_blocks_run_in_order() -> None:
    launching = Launching(3, 2.0)
    launching.add([block(1, 2), block(10, 5)])
    assert take_all(launching) == [1, 2, 10]
    launching.free(slot_of(launching, 2))
    assert take_all(launching) == [11]
    assert not launching.idle


def test_too_wide_is_refused_at_once() -> None:
    launching = Launching(2, 2.0)
    refused = launching.add([block(1, 2, cpus=3), block(5, 1)])
    assert [(attempt.task, attempt.refusal) for attempt in refused] == [
        (1, "the task needs more than this node has: 3 cores of 2 cores"),
        (2, "the task needs more than this node has: 3 cores of 2 cores"),
    ]
    assert take_all(launching) == [5]


def test_a_narrow_task_passes_a_wide_one() -> None:
    launching = Launching(4, 2.0)
    launching.add([block(1, 2), block(10, 1, cpus=3), block(20, 2)])
    assert take_all(launching) == [1, 2, 20, 21]


def test_a_wide_task_does_not_starve() -> None:
    """An endless stream of narrow tasks, one ending at a time: the wide one starts all the same."""
    launching = Launching(4, 2.0)
    launching.add([block(1, 4), block(10, 1, cpus=4), block(100, 1000)])
    take_all(launching)
    passes = 0
    while 10 not in (started := [attempt.task for attempt in launching.running.values()]):
        launching.free(slot_of(launching, min(started)))
        passes += len(take_all(launching))
    assert passes == PASSES_PER_SLOT * 4 + 1  # the last is the wide one itself
    launching.free(0)
    assert len(take_all(launching)) == 4


def test_suspects_run_with_nothing_beside_them() -> None:
    """What was lost with two nodes already is not given company, however narrow it is, nor becomes anybody's."""
    launching = Launching(4, 2.0)
    launching.add([block(1, 1), suspects(10, 3), block(20, 1)])
    assert take_all(launching) == [1, 20]
    launching.free(slot_of(launching, 1))
    assert take_all(launching) == []
    launching.free(slot_of(launching, 20))
    for suspect in (10, 11, 12):
        assert take_all(launching) == [suspect]
        launching.free(slot_of(launching, suspect))
    launching.add([block(30, 9)])
    assert take_all(launching) == [30, 31, 32, 33]
    assert launching.running[0].block.needs.cpus == 1


def test_looking_ahead_is_bounded() -> None:
    launching = Launching(2, 2.0)
    launching.add([block(1, 1), *(block(10 * n, 1, cpus=2) for n in range(1, LOOK_AHEAD + 1)), block(9000, 1)])
    assert take_all(launching) == [1]


def test_time_limit_then_kill() -> None:
    launching = Launching(2, term_to_kill_s=2.0)
    launching.add([block(1, 2, limit_s=10.0)])
    first = launching.take(100.0)
    launching.take(101.0)
    assert launching.next_due == 110.0
    assert launching.due(109.9) == []
    assert launching.due(110.0) == [(first, False)]
    assert launching.next_due == 111.0
    launching.free(slot_of(launching, 2))
    assert launching.due(111.0) == [] and launching.next_due == 112.0
    assert launching.due(112.0) == [(first, True)]
    assert launching.next_due == inf
    assert first is not None and first.killed_for is FailureClass.TIMEOUT


def test_drain_returns_what_waits_and_ends_what_runs() -> None:
    launching = Launching(2, term_to_kill_s=2.0)
    launching.add([block(1, 3), block(10, 2, limit_s=1.0)])
    attempts = [launching.take(0.0), launching.take(0.0)]
    spans = Span(LeaseId(1), JobId(1), 3, 4, 1), Span(LeaseId(10), JobId(1), 10, 12, 1)
    assert launching.drain(5.0, now=1.0) == (spans, 3)
    assert launching.take(1.0) is None and launching.draining
    assert launching.next_due == 6.0
    assert launching.drain(60.0, now=2.0) == ((), 0) and launching.next_due == 6.0
    assert launching.drain(1.0, now=2.0) == ((), 0) and launching.next_due == 3.0
    assert launching.due(3.0) == [(attempt, False) for attempt in attempts]
    assert {a.killed_for for a in attempts if a} == {FailureClass.WALLTIME}
    launching.free(0)
    launching.free(1)
    assert launching.idle


def test_a_limit_that_ends_before_the_drain_is_a_timeout() -> None:
    launching = Launching(1, 2.0)
    launching.add([block(1, 1, limit_s=3.0)])
    attempt = launching.take(0.0)
    launching.drain(5.0, now=0.0)
    launching.due(3.5)
    assert attempt is not None and attempt.killed_for is FailureClass.TIMEOUT


def test_a_patient_drain_ends_nothing() -> None:
    launching = Launching(2, 2.0)
    launching.add([block(1, 3)])
    attempts = [launching.take(0.0), launching.take(0.0)]
    assert launching.drain(inf, now=1.0).spans == (Span(LeaseId(1), JobId(1), 3, 4, 1),)
    assert launching.draining and launching.take(5.0) is None and launching.next_due == inf
    assert launching.drain(3.0, now=10.0) == ((), 0) and launching.next_due == 13.0
    assert launching.due(13.0) == [(attempt, False) for attempt in attempts]


def test_cancel() -> None:
    launching = Launching(3, 2.0)
    launching.add([block(1, 10), block(20, 5, cpus=2), block(30, 2)])
    one, _, three = (launching.take(0.0) for _ in range(3))
    assert one is not None and three is not None
    ranges = [(LeaseId(1), 1, 2), (LeaseId(1), 3, 6), (LeaseId(1), 9, 10), (LeaseId(20), 20, 25), (LeaseId(99), 1, 5)]
    spans = [Span(LeaseId(1), JobId(1), lo, hi, 1) for lo, hi in ((4, 6), (9, 10))]
    assert launching.cancel(ranges, 5.0) == ((*spans, Span(LeaseId(20), JobId(1), 20, 25, 1)), 13)
    assert launching.cancel(ranges, 5.5) == ((), 0)
    assert launching.next_due == 5.0 and launching.due(6.0) == [(one, False), (three, False)]
    assert launching.due(8.0) == [(one, True), (three, True)]
    assert one.killed_for is FailureClass.CANCELLED
    for slot in list(launching.running):
        launching.free(slot)
    started = []
    while (attempt := launching.take(9.0)) is not None:
        started.append(attempt.task)
        launching.free(attempt.slot)
    assert started == [6, 7, 8, 10, 30, 31]


def test_cancel_of_what_walltime_ends_wins() -> None:
    launching = Launching(1, 2.0)
    launching.add([block(1, 1)])
    attempt = launching.take(0.0)
    launching.drain(0.0, now=0.0)
    launching.due(0.0)
    launching.cancel([(LeaseId(1), 1, 2)], 1.0)
    assert attempt is not None and attempt.killed_for is FailureClass.CANCELLED
    assert launching.due(2.0) == [(attempt, True)]


def test_what_cannot_end_in_time_is_not_started() -> None:
    launching = Launching(2, 2.0, must_end_by=100.0)
    launching.add([block(1, 3, limit_s=30.0), block(10, 2, cpus=2, limit_s=10.0), block(20, 1)])
    assert launching.take(69.0) is not None
    second = launching.take(71.0)
    assert second is not None and second.task == 20
    assert launching.late() == ((Span(LeaseId(1), JobId(1), 2, 4, 1),), 2) and launching.late() == ((), 0)
    launching.free(0)
    launching.free(1)
    assert launching.take(95.0) is None
    assert launching.late() == ((Span(LeaseId(10), JobId(1), 10, 12, 1),), 4)
    assert launching.idle


@pytest.mark.parametrize(
    ("status", "killed_for", "expected"),
    [
        (0, FailureClass.NONE, (State.SUCCEEDED, FailureClass.NONE, 0, 0)),
        (3 << 8, FailureClass.NONE, (State.FAILED, FailureClass.EXIT, 3, 0)),
        (255 << 8, FailureClass.NONE, (State.FAILED, FailureClass.EXIT, 255, 0)),
        (11, FailureClass.NONE, (State.FAILED, FailureClass.SIGNAL, 0, 11)),
        (11 | 0x80, FailureClass.NONE, (State.FAILED, FailureClass.SIGNAL, 0, 11)),  # with a core dump
        (15, FailureClass.TIMEOUT, (State.FAILED, FailureClass.TIMEOUT, 0, 15)),
        (0, FailureClass.TIMEOUT, (State.FAILED, FailureClass.TIMEOUT, 0, 0)),
        (9, FailureClass.WALLTIME, (State.RETURNED, FailureClass.WALLTIME, 0, 9)),
        (0, FailureClass.CANCELLED, (State.CANCELLED, FailureClass.CANCELLED, 0, 0)),
        (9, FailureClass.CANCELLED, (State.CANCELLED, FailureClass.CANCELLED, 0, 9)),
        (0, FailureClass.WALLTIME, (State.RETURNED, FailureClass.WALLTIME, 0, 0)),
    ],
)
def test_verdict(status: int, killed_for: FailureClass, expected: tuple[int, int, int, int]) -> None:
    assert verdict(status, killed_for) == expected


def test_what_may_be_the_memory_killers_work() -> None:
    assert may_be_memory(verdict(9, FailureClass.NONE))
    assert may_be_memory(verdict(137 << 8, FailureClass.NONE))  # bash, whose child it was
    assert not may_be_memory(verdict(15, FailureClass.NONE))
    assert not may_be_memory(verdict(9, FailureClass.TIMEOUT))
    assert not may_be_memory(verdict(0, FailureClass.NONE))


STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("add"), st.integers(1, 6), st.integers(1, 9)),  # tasks, cpus
        st.tuples(st.just("end"), st.integers(0, 1 << 20), st.just(0)),
        st.tuples(st.just("tick"), st.integers(1, 30), st.just(0)),
        st.tuples(st.just("drain"), st.integers(0, 20), st.just(0)),
        st.tuples(st.just("cancel"), st.integers(1, 60), st.integers(1, 9)),
    ),
    max_size=60,
)


@given(st.integers(1, 6), STEPS)
def test_every_task_ends_exactly_once(slots: int, steps: list[tuple[str, int, int]]) -> None:
    """Any order of events: never over-committed, and each task is refused, returned or started, once."""
    launching, now, lo = Launching(slots, 2.0, must_end_by=100.0), 0.0, 1
    added, gone = set[int](), list[int]()

    def start() -> None:
        while (attempt := launching.take(now)) is not None:
            assert not launching.draining and now + 7.0 <= 100.0
            gone.append(attempt.task)
            assert sum(its.block.needs.cpus for its in launching.running.values()) <= slots
        for span in launching.late().spans:
            gone.extend(range(span.lo, span.hi))

    for verb, number, cpus in steps:
        match verb:
            case "add" if not launching.draining:
                added |= set(range(lo, lo + number))
                gone += [attempt.task for attempt in launching.add([block(lo, number, cpus, limit_s=7.0)])]
                lo += number
            case "end" if launching.running:
                launching.free(sorted(launching.running)[number % len(launching.running)])
            case "tick":
                now += number
                for attempt, _ in launching.due(now):
                    assert attempt.slot in launching.running
                assert launching.next_due > now
            case "drain":
                for span in launching.drain(number, now).spans:
                    gone += range(span.lo, span.hi)
            case "cancel":
                leases = [(LeaseId(lease), number, number + cpus) for lease in range(1, lo)]
                for span in launching.cancel(leases, now).spans:
                    gone += range(span.lo, span.hi)
                launching.due(now)
            case _:
                pass  # nothing runs, or too late to add
        start()
    while launching.running:
        launching.free(min(launching.running))
        start()
    assert launching.idle
    assert sorted(gone) == sorted(added)
