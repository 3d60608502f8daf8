"""How tasks are resolved: outcomes, retries, lost nodes, cancels; each task once, whatever the order of events."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mpifarm.core.dispatcher.ledger import Ledger
from mpifarm.core.dispatcher.suspicion import Suspicion
from mpifarm.core.job.policy import JobText, Policy, RetryRule
from mpifarm.core.job.retries import failed_runs_again, lost_runs_again
from mpifarm.core.model import Block, FailureClass, JobId, LeaseId, Limits, Span, State, TaskText
from mpifarm.core.needs import Needs
from mpifarm.core.protocol.messages import Durable
from mpifarm.core.protocol.verbs import Batch, CancelTasks, Return
from tests.rows import a_row

JOB = JobId(1)
RANK = 4
EXIT, SIGNAL, LOST, WALLTIME = FailureClass.EXIT, FailureClass.SIGNAL, FailureClass.LOST, FailureClass.WALLTIME


def block(lo: int, count: int, lease: int = 1, fails: int = 0, crashes: int = 0) -> Block:
    return Block(LeaseId(lease), JOB, 1, Needs(), lo, [TaskText(b"true")] * count, fails, crashes)


def ledger(policy: Policy | None = None, *blocks: Block) -> Ledger:
    """With these blocks in the hands of a leader."""
    made = Ledger(Suspicion(2, Limits()))
    made.learn([JobText(JOB, "job", b"/", policy or Policy())])
    for part in blocks:
        made.lease(part)
        made.deal(RANK, part)
    return made


def row(of: Block, task: int, state: State, failure: FailureClass = FailureClass.NONE, code: int = 0) -> bytes:
    signal, exit_code = (code, 0) if failure is SIGNAL else (0, code)
    how = {"state": state, "failure": failure, "exit_code": exit_code, "signal": signal, "node": 0, "cpus": 0}
    return a_row(of.lease, task, of.attempt, job=of.job, **how, started=0.0, ended=0.0).packed()


def end(made: Ledger, *rows: bytes) -> None:
    made.end(Durable(RANK, b"".join(rows), 0, {}))


@pytest.mark.parametrize(
    ("policy", "failure", "code", "fails", "again"),
    [
        (Policy(), EXIT, 1, 0, False),
        (Policy(2), EXIT, 1, 1, True),
        (Policy(2), EXIT, 1, 2, False),
        (Policy(9, (RetryRule(EXIT, 137, 1),)), EXIT, 137, 0, True),
        (Policy(9, (RetryRule(EXIT, 137, 1),)), EXIT, 137, 1, False),
        (Policy(9, (RetryRule(EXIT, 137, 1),)), EXIT, 1, 0, False),
        (Policy(0, (RetryRule(SIGNAL, 9, 1),)), SIGNAL, 9, 0, True),
        (Policy(0, (RetryRule(SIGNAL, 9, 1),)), SIGNAL, 11, 0, False),
        (Policy(0, (RetryRule(EXIT, 2, 0), RetryRule(EXIT, None, 5))), EXIT, 2, 0, False),
        (Policy(0, (RetryRule(EXIT, 2, 0), RetryRule(EXIT, None, 5))), EXIT, 3, 4, True),
        (Policy(0, (RetryRule(FailureClass.OOM, None, 1),)), FailureClass.OOM, 0, 0, True),
    ],
)
def test_which_failures_run_again(policy: Policy, failure: FailureClass, code: int, fails: int, again: bool) -> None:
    signal, exit_code = (code, 0) if failure is SIGNAL else (0, code)
    assert failed_runs_again(policy, failure, exit_code, signal, fails) is again
    part = block(1, 1, fails=fails)
    made = ledger(policy, part)
    end(made, row(part, 1, State.FAILED, failure, code))
    batch = made.take()
    if again:
        span = Span(part.lease, JOB, 1, 2, 2, fails + 1)
        assert batch == Batch([], [Return(span, failure, State.FAILED, exit_code, signal)], [part.lease])
    else:
        assert [outcome[0].state for outcome in batch.outcomes] == [State.FAILED] and not batch.returned


def test_which_lost_tasks_run_again() -> None:
    assert lost_runs_again(Policy(crash_limit=0), 99)
    assert [lost_runs_again(Policy(crash_limit=3), crashes) for crashes in (1, 2, 3)] == [True, True, False]
    rule = Policy(rules=(RetryRule(LOST, None, 1),))
    assert [lost_runs_again(rule, crashes) for crashes in (1, 2)] == [True, False]


def test_a_task_that_keeps_taking_its_node_down_has_failed() -> None:
    once, often = block(1, 1, 1, fails=1, crashes=1), block(2, 1, 2, crashes=2)
    made = ledger(Policy(crash_limit=3), once, often)
    assert made.lose(RANK, 7, {(1, 1), (2, 2)}, 1000.0) == 2
    batch = made.take()
    assert batch.returned == [Return(Span(once.lease, JOB, 1, 2, 2, 1, 2), LOST)]
    ((lost, file_row, tail),) = batch.outcomes
    assert (lost.task, lost.state, lost.failure, lost.node) == (2, State.FAILED, LOST, 7)
    assert (file_row, tail) == (None, None)
    assert batch.done == [once.lease, often.lease]


def test_only_what_had_begun_is_charged_with_a_lost_launcher() -> None:
    part = block(1, 20, crashes=4)
    made = ledger(Policy(), part)
    assert made.lose(RANK, 7, {(1, 2)}, 1000.0) == 20
    batch = made.take()
    assert [outcome[0].task for outcome in batch.outcomes] == [2]
    assert {back.span.crashes for back in batch.returned} == {4}
    assert sum(back.span.hi - back.span.lo for back in batch.returned) == 19


def test_where_nobody_can_tell_what_had_begun_it_is_what_was_dealt_first() -> None:
    first, wide, last = block(1, 3), block(10, 1, 2)._replace(needs=Needs(4)), block(20, 3, 3)
    made = ledger(Policy(), first, wide, last)
    assert made.first_dealt(RANK, 4) == {(1, 1), (1, 2), (1, 3), (2, 10)}
    assert made.first_dealt(RANK, 2) == {(1, 1), (1, 2)}
    assert made.first_dealt(RANK + 1, 2) == set()


def test_walltime_charges_nothing() -> None:
    part = block(1, 1, fails=1, crashes=1)
    made = ledger(Policy(), part)
    end(made, row(part, 1, State.RETURNED, WALLTIME))
    assert made.take().returned == [Return(Span(part.lease, JOB, 1, 2, 2, 1, 1), WALLTIME)]


def test_what_goes_back_keeps_its_charges() -> None:
    part = block(1, 3, fails=2, crashes=1)
    made = ledger(Policy(), part)
    span = Span(part.lease, JOB, 1, 4, 1, 2, 1)
    made.unstarted(span)
    assert made.take().returned == [Return(span, FailureClass.NONE)]


def test_cancel_of_what_leaders_hold() -> None:
    part, other = block(1, 10), block(1, 5, 2)
    made = ledger(Policy(retries=9), part)
    made.lease(other)
    end(made, row(part, 5, State.SUCCEEDED))
    assert made.cancel(CancelTasks(JOB, 3, 8)) == {RANK: [(part.lease, 3, 5), (part.lease, 6, 8)]}
    assert made.cancel(CancelTasks(JobId(9), 1, 99)) == {}
    made.put_back(Span(other.lease, JOB, 1, 6, 1))
    made.unstarted(Span(part.lease, JOB, 7, 10, 1))
    end(
        made, row(part, 3, State.FAILED, EXIT, 1), row(part, 4, State.RETURNED, WALLTIME), row(part, 2, State.SUCCEEDED)
    )
    end(made, row(part, 1, State.FAILED, EXIT, 1))
    made.lose(RANK, 0, (), 0.0)
    batch = made.take()
    never = FailureClass.CANCELLED
    spans = [(back.span.lease, back.span.lo, back.span.hi, back.failure) for back in sorted(batch.returned)]
    assert spans == [
        (1, 1, 2, EXIT), (1, 7, 8, never), (1, 8, 10, FailureClass.NONE), (1, 10, 11, LOST),
        (2, 1, 3, FailureClass.NONE), (2, 3, 6, never),
    ]  # fmt: skip
    states = {outcome[0].task: (outcome[0].state, outcome[0].failure) for outcome in batch.outcomes}
    cancelled = (State.CANCELLED, FailureClass.CANCELLED)
    assert states == {
        5: (State.SUCCEEDED, 0), 2: (State.SUCCEEDED, 0), 3: (State.FAILED, EXIT), 4: cancelled, 6: cancelled
    }  # fmt: skip


def test_a_cancel_catches_what_was_to_run_again() -> None:
    """Between its end and its record."""
    failed, cut = block(1, 1, 1), block(2, 1, 2)
    made = ledger(Policy(retries=1), failed, cut)
    end(made, row(failed, 1, State.FAILED, EXIT, 1), row(cut, 2, State.RETURNED, WALLTIME))
    made.cancel(CancelTasks(JOB, 1, 3))
    batch = made.take()
    assert [outcome[0].state for outcome in batch.outcomes] == [State.FAILED, State.CANCELLED]
    assert not batch.returned


STEPS = st.lists(
    st.tuples(
        st.sampled_from(["lease", "deal", "end", "unstarted", "put_back", "lose", "cancel", "take", "again"]),
        st.integers(0, 200),
        st.integers(1, 6),
    ),
    max_size=60,
)


@given(STEPS)
def test_each_task_is_resolved_once_and_what_is_cancelled_never_runs_again(steps: list[tuple[str, int, int]]) -> None:
    made = ledger(Policy(retries=1, crash_limit=2))
    stock: list[Block] = []
    out: list[tuple[Block, int]] = []
    leases: dict[LeaseId, Block] = {}
    resolved: list[tuple[LeaseId, int]] = []
    cancelled: set[tuple[LeaseId, int]] = set()

    def take() -> None:
        batch = made.take()
        for outcome, *_ in batch.outcomes:
            resolved.append((outcome.lease, outcome.task))
        for part in batch.returned:
            keys = [(part.span.lease, task) for task in range(part.span.lo, part.span.hi)]
            resolved.extend(keys)
            if part.failure is not FailureClass.CANCELLED:
                assert not cancelled.intersection(keys)
            if part.failure is FailureClass.NONE:
                assert part.span.lease in batch.done
            assert part.span.fails <= 1 and part.span.crashes <= 1

    for verb, number, count in steps:
        match verb:
            case "lease":
                new = block(1 + number % 9, count, len(leases) + 1, fails=number % 2, crashes=number // 2 % 2)
                leases[new.lease] = new
                made.lease(new)
                stock.append(new)
            case "deal" if stock:
                part = stock.pop(number % len(stock))
                made.deal(number % 2, part)
                out += [(part, task) for task in range(part.lo, part.hi)]
            case "put_back" if stock:
                part = stock.pop(number % len(stock))
                made.put_back(Span(part.lease, JOB, part.lo, part.hi, 1, part.fails, part.crashes))
            case "end" if out:
                part, task = out.pop(number % len(out))
                state = (State.SUCCEEDED, State.FAILED, State.RETURNED)[number % 3]
                failure = (FailureClass.NONE, EXIT, WALLTIME)[number % 3]
                end(made, row(part, task, state, failure, 1))
                end(made, row(part, task, State.SUCCEEDED))  # late, and not believed
            case "unstarted" if out:
                part, task = out.pop(number % len(out))
                made.unstarted(Span(part.lease, JOB, task, task + 1, 1, part.fails, part.crashes))
            case "lose":
                made.lose(number % 2, 0, made.first_dealt(number % 2, number % 5), 0.0)
                out = [(part, task) for part, task in out if made.is_out(part.lease, task)]
            case "cancel" | "again":
                lo, hi = 1 + number % 9, 1 + number % 9 + count
                made.cancel(CancelTasks(JOB, lo, hi))
                open_ = [part for part in leases.values() if part.lease in made._leases]
                cancelled |= {
                    (part.lease, task) for part in open_ for task in range(lo, hi) if part.lo <= task < part.hi
                }
                cancelled -= set(resolved)
            case "take":
                take()
            case _:
                pass  # there is nothing to do that with
    for part in stock:
        made.put_back(Span(part.lease, JOB, part.lo, part.hi, 1, part.fails, part.crashes))
    for rank in (0, 1):
        made.lose(rank, 0, (), 0.0)
    take()
    assert sorted(resolved) == sorted(
        (part.lease, task) for part in leases.values() for task in range(part.lo, part.hi)
    )
    assert not made.leases and not made.tasks_out and not made.unrecorded
