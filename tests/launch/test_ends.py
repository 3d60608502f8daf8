"""Attempts that are ended: by their time limit, by a drain."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

import pytest

from mpifarm.core.model import FailureClass, JobId, LeaseId, Limits, Span, State
from tests.launch.node import OneNode, until

pytestmark = pytest.mark.slow

Make = Callable[..., OneNode]

STUBBORN = "trap '' TERM; echo begun; while :; do read -t 100 < <(tail -f /dev/null); done"
FOREVER = "echo begun; exec sleep 1000"


def test_a_time_limit(node: OneNode) -> None:
    task = node.start("sleep 1000", "trap 'echo bye; exit 0' TERM; while :; do :; done", limit_s=0.3)
    node.wait([task, task + 1])
    killed, polite = node.ended[task], node.ended[task + 1]
    for attempt in (killed, polite):
        assert (attempt.state, attempt.failure) == (State.FAILED, FailureClass.TIMEOUT)
        assert 0.25 < attempt.ended - attempt.started < 1.9
    assert (killed.exit_code, killed.signal) == (0, 15)
    assert (polite.exit_code, polite.signal, polite.stdout) == (0, 0, b"bye\n")


def test_a_time_limit_against_a_task_that_ignores_it(node: OneNode) -> None:
    task = node.start(STUBBORN, limit_s=0.3)
    node.wait([task])
    attempt = node.ended[task]
    assert (attempt.state, attempt.failure, attempt.signal) == (State.FAILED, FailureClass.TIMEOUT, 9)
    assert 0.25 + Limits().term_to_kill_s < attempt.ended - attempt.started < 6
    assert attempt.stdout == b"begun\n"


def test_the_limit_does_not_touch_faster_tasks(node: OneNode) -> None:
    task = node.start("true", "echo $MPIFARM_TASK", limit_s=30)
    node.wait([task, task + 1])
    assert {attempt.state for attempt in node.ended.values()} == {State.SUCCEEDED}


def test_drain(node: OneNode, tmp_path: Path) -> None:
    """What waits goes back at once, what runs has the grace, and after it goes back too."""
    first = node.start("until test -e go; do :; done; echo ready", FOREVER, *["true"] * 5, attempt=2)
    more = node.start("true")
    node.until(lambda: node.output(first + 1))
    began = time.time()
    node.drain(1.0)
    node.until(lambda: node.returned, 0.5)
    (tmp_path / "go").touch()
    node.wait([first, first + 1])
    assert node.ended[first].state == State.SUCCEEDED
    killed = node.ended[first + 1]
    assert (killed.state, killed.failure, killed.signal) == (State.RETURNED, FailureClass.WALLTIME, 15)
    assert 0.9 < killed.ended - began < 2.5
    spans = (
        Span(LeaseId(first), JobId(first), first + 2, first + 7, 2),
        Span(LeaseId(more), JobId(more), more, more + 1, 1),
    )
    assert node.returned == [spans]
    late = node.start("true")  # what comes too late goes back as well
    node.until(lambda: len(node.returned) == 2)
    assert node.returned[1] == (Span(LeaseId(late), JobId(late), late, late + 1, 1),)


def test_a_second_drain_can_only_shorten_the_grace(node: OneNode) -> None:
    task = node.start(FOREVER, FOREVER)
    node.until(lambda: node.output(task) and node.output(task + 1))
    node.drain(60.0)
    node.drain(0.2)
    node.drain(60.0)
    node.wait([task, task + 1], 5)
    assert {attempt.failure for attempt in node.ended.values()} == {FailureClass.WALLTIME}
    assert node.returned == [()]


def test_drain_against_a_task_that_ignores_it(node: OneNode) -> None:
    task = node.start(STUBBORN)
    node.until(lambda: node.output(task))
    node.drain(0.0)
    node.wait([task], 6)
    assert (node.ended[task].state, node.ended[task].signal) == (State.RETURNED, 9)


def test_drain_of_an_idle_node(node: OneNode) -> None:
    node.drain(1.0)
    node.until(lambda: node.returned == [()], 2)


def test_results_come_at_once_when_nothing_else_runs(node: OneNode) -> None:
    node.run("true")
    took_s = []
    for _ in range(20):
        began = time.monotonic()
        node.run("/bin/true")
        took_s.append(time.monotonic() - began)
    assert min(took_s) < 0.1  # the best of them: the machine may be busy


def test_a_stopped_task_is_ended_too(node: OneNode) -> None:
    task = node.start("kill -STOP $$", limit_s=0.2)
    node.wait([task], 8)
    assert node.ended[task].failure == FailureClass.TIMEOUT


def test_close_ends_everything(make_node: Make, tmp_path: Path) -> None:
    node = make_node()
    node.start("echo $$ > one; exec sleep 1000", "trap '' TERM; echo $$ > two; while :; do :; done")
    until(lambda: all((tmp_path / name).exists() and (tmp_path / name).read_text() for name in ("one", "two")))
    pids = [int((tmp_path / name).read_text()) for name in ("one", "two")]
    node.close()
    assert not node.launcher.alive
    assert not any(Path(f"/proc/{pid}").exists() for pid in pids)
