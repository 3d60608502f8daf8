"""When an idle run leaves, and what it says of what it leaves behind."""

from __future__ import annotations

from math import inf

from mpifarm.core.dispatcher.ending import Idleness, RunTerms, left_behind
from mpifarm.core.needs import Needs
from mpifarm.core.pacing import lease_tasks, share_of
from mpifarm.core.protocol.verbs import Grant
from mpifarm.rank.options import RunOptions


def test_without_patience_at_once() -> None:
    idleness = Idleness(RunTerms())
    assert not idleness.over(0.0)
    assert idleness.begin(1.0) == "" and idleness.over(1.0)


def test_first_work_may_be_waited_for_longer_than_more() -> None:
    idleness = Idleness(RunTerms(first_idle_s=100.0, idle_s=10.0))
    assert idleness.begin(0.0) == "nothing to do; waiting for work for 100 s"
    assert idleness.begin(1.0) == ""
    assert not idleness.over(99.0) and idleness.over(100.0)
    idleness.work()
    assert not idleness.over(1000.0)
    assert "10 s" in idleness.begin(1000.0) and not idleness.over(1009.0) and idleness.over(1010.0)


def test_options_become_terms() -> None:
    assert RunOptions().terms(inf) == RunTerms()
    assert RunOptions(idle_exit_s=5.0).terms(inf) == RunTerms(first_idle_s=5.0, idle_s=5.0)
    assert RunOptions(wait_for_work_s=inf).terms(inf) == RunTerms(first_idle_s=inf, idle_s=inf)
    both = RunOptions(idle_exit_s=5.0, wait_for_work_s=60.0, tasks_max=3, grace_s=1.0).terms(9.0)
    assert both == RunTerms(1.0, 3, 60.0, 5.0, 9.0)


def test_what_stays_is_told() -> None:
    assert left_behind(Grant(), Needs(8)) == []
    wide, long, waiting = left_behind(Grant(too_wide=1000, too_long=2, waiting=3), Needs(8))
    assert "1,000" in wide and "8 cores" in wide and "time limit" in long and "wait for tasks" in waiting


def test_how_much_is_leased() -> None:
    assert share_of(100, 8, 24) == 25 and share_of(1, 1, 99) == 1
    many = {"backlog": 0, "share": None}
    assert lease_tasks(ahead=100, asked=10, stock=0, **many) == 110
    assert lease_tasks(ahead=100, asked=0, stock=51, **many) == 0
    assert lease_tasks(ahead=100, asked=0, stock=50, **many) == 50
    assert lease_tasks(ahead=100, asked=10, stock=0, backlog=20, share=30) == 10
    assert lease_tasks(ahead=100, asked=10, stock=0, backlog=20, share=20) == 5
    assert lease_tasks(ahead=100, asked=10, stock=0, backlog=90, share=1) == 1
