"""A stop from outside that reaches every process of the node, as where Slurm tracks processes by their parents.

Whatever the tasks make of it, and whether they or the launcher hear of it first, it is no end of their own.
"""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable, Iterable
from pathlib import Path

import pytest

from mpifarm.core.job.policy import Policy
from mpifarm.core.model import FailureClass, Limits, State
from tests.launch.node import OneNode, lives, tree, until

pytestmark = pytest.mark.slow

Make = Callable[..., OneNode]

HABITS = {
    "dies": "echo begun; exec sleep 1000",
    "a shell whose program dies": "echo begun; sleep 1000; exit $?",
    "ends well": "trap 'exit 0' TERM INT USR1 USR2; echo begun; while :; do sleep 0.02; done",
    "takes its time": "trap 'echo bye; sleep 0.4; exit 0' TERM INT USR1 USR2; echo begun; while :; do sleep 0.02; done",
    "fails": "trap 'exit 3' TERM INT USR1 USR2; echo begun; while :; do sleep 0.02; done",
    "goes on": "echo begun; sleep 1000; echo the rest",
    "does not care": "trap '' TERM INT USR1 USR2; echo begun; until test -e go; do sleep 0.02; done",
}
STOPS = [signal.SIGTERM, signal.SIGINT, signal.SIGUSR1, signal.SIGUSR2]


def begin(node: OneNode, commands: Iterable[str], policy: Policy | None = None) -> range:
    commands = list(commands)
    first = node.start(*commands, policy=policy)
    tasks = range(first, first + len(commands))
    cwd = Path(os.fsdecode(node.cwd))
    node.until(lambda: all((cwd / f"begun-{task}").exists() or b"begun" in node.output(task) for task in tasks))
    return tasks


def signal_all(pids: list[int], number: int) -> None:
    for pid in pids:
        try:
            os.kill(pid, number)
        except ProcessLookupError:
            pass


@pytest.mark.parametrize("number", STOPS)
@pytest.mark.parametrize("last", ["launcher", "tasks"])
def test_of_n_running_n_are_returned(make_node: Make, tmp_path: Path, number: signal.Signals, last: str) -> None:
    node = make_node(2 * len(HABITS) + 1)
    tasks = begin(node, [*HABITS.values()] * 2)
    node.start(*["echo never"] * 40, cpus=2)
    pids = tree(node.launcher.pid)
    signal_all(pids if last == "tasks" else pids[::-1], number)
    node.until(lambda: node.stopped == [number])
    (tmp_path / "go").touch()
    node.drain(1.0)
    node.wait(tasks)
    node.until(lambda: node.returned)
    not_begun = sum(span.hi - span.lo for span in node.returned[0])
    node.until(lambda: len(node.ended) + not_begun == len(tasks) + 40)
    verdicts = {(State(end.state), FailureClass(end.failure)) for end in node.ended.values()}
    assert verdicts == {(State.RETURNED, FailureClass.WALLTIME)}
    assert [node.ended[task].stdout[:6] for task in tasks] == [b"begun\n"] * len(tasks)  # their output is kept
    assert not any(node.ended[task].stderr_tail for task in tasks)


@pytest.mark.parametrize("policy", [Policy(keep="failed"), Policy(keep="tail:100"), Policy(capture=("out-{task}",))])
def test_jobs_that_keep_less_or_capture(make_node: Make, policy: Policy) -> None:
    node = make_node(4)
    make_file = "touch out-$MPIFARM_TASK begun-$MPIFARM_TASK; "
    habits = "dies", "ends well", "takes its time", "fails"
    tasks = begin(node, [make_file + HABITS[habit] for habit in habits], policy)
    signal_all(tree(node.launcher.pid)[::-1], signal.SIGUSR1)
    node.until(lambda: node.stopped)
    node.drain(5.0)
    node.wait(tasks)
    assert {State(end.state) for end in node.ended.values()} == {State.RETURNED}


def test_the_tasks_hear_of_it_long_before_the_rank(make_node: Make) -> None:
    """The launcher does not; a drain comes within the time for which such ends are held back."""
    node = make_node(2)
    tasks = begin(node, [HABITS["dies"], HABITS["a shell whose program dies"]])
    pids = tree(node.launcher.pid)[1:]
    signal_all(pids, signal.SIGTERM)
    until(lambda: not any(map(lives, pids)))
    node.listen(4 * Limits().settle_s)
    assert not node.ended
    node.drain(5.0)
    node.wait(tasks)
    assert {State(end.state) for end in node.ended.values()} == {State.RETURNED}


def test_a_signal_meant_for_one_task_is_its_end(node: OneNode) -> None:
    tasks = [node.start("echo $PPID; kill -TERM $$"), node.start("sleep 1000 & kill -USR1 $!; wait $!")]
    began = time.monotonic()
    node.wait(tasks)
    assert time.monotonic() - began > Limits().stop_wait_s / 2
    ends = [(end.state, end.failure) for _, end in sorted(node.ended.items())]
    assert ends == [(State.FAILED, FailureClass.SIGNAL), (State.FAILED, FailureClass.EXIT)]
    assert not node.stopped


def test_what_ended_before_the_stop_stays_as_it_was(node: OneNode) -> None:
    task = node.start("echo done", "false")
    node.wait([task, task + 1])
    signal_all(tree(node.launcher.pid), signal.SIGTERM)
    node.until(lambda: node.stopped)
    assert [node.ended[task].state, node.ended[task + 1].state] == [State.SUCCEEDED, State.FAILED]


def test_a_stop_without_a_drain_begins_nothing(node: OneNode) -> None:
    node.run("true")
    os.kill(node.launcher.pid, signal.SIGUSR2)
    node.until(lambda: node.stopped)
    task = node.start("echo begun")
    node.drain(1.0)
    node.until(lambda: node.returned)
    assert task not in node.ended and len(node.returned[0]) == 1
