"""What speaks against a node, and what does not."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from mpifarm.core.dispatcher.suspicion import Suspicion, Trust, Verdict
from mpifarm.core.model import FailureClass, JobId, Limits

JOB, OTHER = JobId(1), JobId(2)
EXIT = int(FailureClass.EXIT)


class Nodes:
    """All there, with four slots; `holding`: what hold tasks."""

    def __init__(self) -> None:
        self.holding: set[int] = set()

    def knows(self, rank: int) -> bool:  # noqa: ARG002
        return True

    def slots_of(self, rank: int) -> int:  # noqa: ARG002
        return 4

    def holds(self, rank: int) -> bool:
        return rank in self.holding


NODES = Nodes()


def look(it: Suspicion, now: float) -> list[tuple[int, Trust, int]]:
    return [(verdict.rank, verdict.trust, verdict.probe) for verdict in it.look(now, NODES, NODES)]


def fail(it: Suspicion, rank: int, times: int, job: JobId = JOB) -> None:
    for _ in range(times):
        it.failed(rank, job, EXIT)


def succeed(it: Suspicion, rank: int, times: int, job: JobId = JOB) -> None:
    for _ in range(times):
        it.succeeded(rank, job)


def test_a_row_of_failures_where_others_succeed() -> None:
    it = Suspicion(4, Limits())
    succeed(it, 0, 40)
    fail(it, 3, 2)
    assert look(it, 0.0) == []
    fail(it, 3, 2)
    (verdict,) = it.look(0.0, NODES, NODES)
    assert verdict == Verdict(
        3, Trust.SUSPECT, 0, "its last 4 tasks failed, while 40 of the same jobs succeeded elsewhere"
    )
    when = [0.5, 1.5, 3.5, 7.5, 15.5]
    for at in when:
        assert look(it, at - 0.01) == []
        assert look(it, at) == [(3, Trust.SUSPECT, 1)]
        fail(it, 3, 1)
    assert look(it, 31.5) == [(3, Trust.NONE, 0)]
    assert look(it, 1e6) == []


def test_a_probe_that_has_not_ended_is_the_only_one() -> None:
    it = Suspicion(2, Limits())
    succeed(it, 0, 40)
    fail(it, 1, 9)
    look(it, 0.0)
    nodes = Nodes()
    nodes.holding.add(1)
    assert it.look(50.0, nodes, nodes) == []
    nodes.holding.clear()
    assert [verdict.probe for verdict in it.look(51.0, nodes, nodes)] == [1]


def test_a_success_clears_it() -> None:
    it = Suspicion(2, Limits())
    succeed(it, 0, 40)
    fail(it, 1, 9)
    assert look(it, 0.0) == [(1, Trust.SUSPECT, 0)]
    succeed(it, 1, 1, OTHER)
    assert look(it, 0.1) == [(1, Trust.FULL, 0)]


def test_a_success_clears_it_whatever_comes_after() -> None:
    """Before anybody looks: else nobody would ever let it go."""
    it = Suspicion(2, Limits())
    succeed(it, 0, 40)
    fail(it, 1, 9)
    assert look(it, 0.0) == [(1, Trust.SUSPECT, 0)]
    succeed(it, 1, 1)
    fail(it, 1, 1)
    assert look(it, 0.1) == [(1, Trust.FULL, 0)]
    succeed(it, 0, 40)
    fail(it, 1, 8)
    assert look(it, 0.2) == [(1, Trust.SUSPECT, 0)]
    assert look(it, 0.6) == []  # the pause began anew
    assert look(it, 0.7) == [(1, Trust.SUSPECT, 1)]


def test_the_first_that_fails_waits_for_the_others() -> None:
    it = Suspicion(2, Limits())
    fail(it, 1, 4)
    assert look(it, 0.0) == [(1, Trust.WAITS, 0)]
    assert look(it, 0.5) == [(1, Trust.WAITS, 4)]
    fail(it, 0, 1)
    assert look(it, 1.5) == [(1, Trust.FULL, 0)]


def test_other_jobs_success_is_no_evidence() -> None:
    it = Suspicion(4, Limits())
    succeed(it, 0, 1000, OTHER)
    succeed(it, 3, 1)
    fail(it, 2, 3)
    fail(it, 3, 50)
    assert look(it, 0.0) == [(3, Trust.WAITS, 0)]
    assert [look(it, 0.5 * number)[0][2] for number in range(1, 5)] == [4, 8, 16, 32]  # should nobody else get any


def test_timeouts_are_a_tasks_own() -> None:
    it = Suspicion(4, Limits())
    succeed(it, 0, 1000)
    for _ in range(50):
        it.failed(3, JOB, int(FailureClass.TIMEOUT))
    assert look(it, 0.0) == []


def test_what_breaks_for_all_at_a_time_marks_no_node() -> None:
    """Successes before the row began are of another time."""
    it = Suspicion(4, Limits())
    for rank in range(4):
        succeed(it, rank, 500)
    for _ in range(100):
        for rank in range(4):
            fail(it, rank, 1)
        assert look(it, 0.0) == []


def test_where_the_last_that_is_trusted_is_gone_a_suspect_is_better_than_none() -> None:
    it = Suspicion(2, Limits())
    succeed(it, 0, 40)
    fail(it, 1, 9)
    assert look(it, 0.0) == [(1, Trust.SUSPECT, 0)]
    it.gone(0)
    assert look(it, 0.1) == [(1, Trust.FULL, 0)]
    fail(it, 1, 99)
    assert look(it, 99.0) == []


@given(st.integers(1, 7), st.lists(st.tuples(st.integers(0, 6), st.sampled_from("sfFlg"), st.integers(1, 9))))
def test_never_more_than_half_are_held(nodes: int, steps: list[tuple[int, str, int]]) -> None:
    it, alive, held, now = Suspicion(nodes, Limits()), set(range(nodes)), set[int](), 0.0
    for number, step, count in steps:
        rank = number % nodes
        if rank not in alive:
            continue
        match step:
            case "s":
                succeed(it, rank, count)
            case "f":
                fail(it, rank, count)
            case "F":
                fail(it, rank, count, OTHER)
            case "g" if len(alive) > 1:
                alive.discard(rank)
                held.discard(rank)
                it.gone(rank)
        now += count if step == "l" else 0.0
        for told, trust, probe in look(it, now):
            if trust is Trust.FULL:
                held.discard(told)
            elif told in alive and not probe:
                held.add(told)
        assert 2 * len(held) <= len(alive)
