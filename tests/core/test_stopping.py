"""How a run is told to stop, and what it is given then."""

from __future__ import annotations

from math import inf

import pytest

from mpifarm.core.dispatcher.ending import RunTerms
from mpifarm.core.dispatcher.ledger import Ledger
from mpifarm.core.dispatcher.stopping import Stopping
from mpifarm.core.dispatcher.suspicion import Suspicion
from mpifarm.core.model import Block, JobId, LeaseId, Limits, Span, TaskText
from mpifarm.core.needs import Needs
from mpifarm.core.protocol.messages import StopAsked

INT, USR1, USR2, TERM = 2, 10, 12, 15


def stopping(grace_s: float) -> Stopping:
    return Stopping(RunTerms(grace_s=grace_s), Limits(), 0.0)


@pytest.mark.parametrize(("number", "grace_s"), [(USR1, 600.0), (USR2, 600.0), (INT, 600.0), (TERM, 20.0)])
def test_the_grace_after_a_sigterm_ends_before_the_batch_system_kills(number: int, grace_s: float) -> None:
    told = stopping(600.0).signalled(StopAsked(number, 3), 10.0)
    assert told is not None and told[0] == grace_s
    assert ("SIGKILL" in told[1]) is (number == TERM)
    told = stopping(5.0).signalled(StopAsked(number, 3), 10.0)
    assert told == (5.0, "stopping")


def test_only_a_later_signal_at_the_first_rank_goes_faster() -> None:
    it = stopping(600.0)
    it.signalled(StopAsked(USR1, 0), 10.0)
    it.begin(600.0, 10.0, Ledger(Suspicion(1, Limits())))
    assert it.until < inf
    assert it.signalled(StopAsked(USR1, 0), 10.9) is None
    assert it.signalled(StopAsked(USR1, 2), 20.0) is None
    assert it.signalled(StopAsked(USR1, 0, launcher=True), 20.0) is None
    assert it.signalled(StopAsked(TERM, 0), 20.0) == (0.0, "stopping")


def test_a_sigusr1_of_hydra_is_a_stop_only_when_every_rank_has_it() -> None:
    """Kind: a launcher's word on something else that looks like a stop. A rank that is silent has died."""
    it = Stopping(RunTerms(grace_s=60.0, usr1_ranks=3), Limits(), 0.0)
    assert [it.signalled(StopAsked(USR1, rank), 10.0) for rank in (0, 0, 2)] == [None] * 3
    assert not it.overheard(11.0)
    assert "2 of 3 ranks" in it.overheard(13.5)[0]
    assert not it.overheard(13.6)
    assert it.signalled(StopAsked(USR1, 1), 20.0) is None
    assert it.signalled(StopAsked(USR1, 0), 20.1) is None
    assert it.signalled(StopAsked(USR1, 2), 20.1) == (60.0, "stopping")
    it.begin(60.0, 20.1, Ledger(Suspicion(1, Limits())))
    assert it.signalled(StopAsked(USR1, 0), 25.0) is None  # one dies while the run stops: no reason to hurry
    assert it.overheard(28.5)
    assert [it.signalled(StopAsked(USR1, rank), 30.0) for rank in (0, 1, 2)] == [None, None, (0.0, "stopping")]
    assert it.signalled(StopAsked(TERM, 0), 40.0) == (0.0, "stopping")


def test_a_sigusr1_that_reaches_launchers_is_no_word_of_hydra() -> None:
    it = Stopping(RunTerms(grace_s=60.0, usr1_ranks=3), Limits(), 0.0)
    assert it.signalled(StopAsked(USR1, 1, launcher=True), 10.0) == (60.0, "stopping")


def test_work_is_left_only_by_a_run_that_was_told_to_stop() -> None:
    it, ledger = stopping(1.0), Ledger(Suspicion(1, Limits()))
    for task in (1, 2):
        ledger.lease(Block(LeaseId(task), JobId(1), 1, Needs(), task, [TaskText(b"true")]))
    ledger.put_back(Span(LeaseId(1), JobId(1), 1, 2, 1))
    assert not it.leaves_work(ledger, 5)
    it.begin(1.0, 10.0, ledger)
    assert it.leaves_work(ledger, 1)
    assert not it.leaves_work(ledger, 0)  # what went back before has been leased since
    ledger.put_back(Span(LeaseId(2), JobId(1), 2, 3, 1))
    assert it.leaves_work(ledger, 0)
