"""Processes that tasks leave behind: they end with their task, and their bytes reach no other task's output."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.launch.node import OneNode, lives, until

pytestmark = pytest.mark.slow

Make = Callable[..., OneNode]

DAEMON = """
import os, sys, time
if os.fork(): os._exit(0)
os.setsid()
if os.fork(): os._exit(0)
if {clear}:
    os.execve("/bin/sh", ["sh", "-c", "echo $$ > {pid}; while :; do echo late; done"], {{}})
os.execvp("sh", ["sh", "-c", "echo $$ > {pid}; while :; do echo late; done"])
"""


def written(path: Path) -> int:
    """The pid in a file, once it is there."""
    until(lambda: path.exists() and path.read_text().endswith("\n"))
    return int(path.read_text())


def daemon(tmp_path: Path, clear: bool = False) -> tuple[str, Path]:
    """A command that leaves a detached process behind, and the file that will hold its pid."""
    script, pid = tmp_path / "daemon.py", tmp_path / "daemon.pid"
    script.write_text(DAEMON.format(clear=clear, pid=pid))
    wait = f"while ! test -s {pid}; do :; done"
    return f"{sys.executable} {script}; {wait}; echo main", pid


def test_background_children_end_with_the_task(node: OneNode, tmp_path: Path) -> None:
    attempt = node.run("sleep 1000 & echo $! > pid; echo done")
    assert attempt.exit_code == 0
    assert attempt.stdout == b"done\n"
    left = written(tmp_path / "pid")
    until(lambda: not lives(left), 5)
    node.until(lambda: node.log, 5)
    assert node.log[0].startswith(f"killed process {left} (")


def test_how_many_were_left_stands_in_the_row(node: OneNode) -> None:
    """Whether they stayed with their task's group or left it; and those of one task are not another's."""
    first = node.start("sleep 1000 & sleep 1000 & setsid sleep 1000 & echo done", "echo clean", "sleep 1000 & exit 3")
    node.wait(range(first, first + 3))
    assert [node.ended[first + n].left for n in range(3)] == [3, 0, 1]


@pytest.mark.parametrize("clear", [False, True])
def test_daemons_end_with_the_task(node: OneNode, tmp_path: Path, clear: bool) -> None:
    line, pid = daemon(tmp_path, clear)
    attempt = node.run(line)
    assert attempt.exit_code == 0
    assert b"main\n" in attempt.stdout
    until(lambda: not lives(written(pid)), 5)


def test_late_bytes_reach_no_other_task(make_node: Make, tmp_path: Path) -> None:
    node = make_node(slots=1)
    line, pid = daemon(tmp_path)
    first = node.start("sh -c 'while :; do echo late; done' & echo mine", line, *["echo clean"] * 20)
    node.wait(range(first, first + 22))
    assert b"mine\n" in node.ended[first].stdout
    assert [node.ended[n].stdout for n in range(first + 2, first + 22)] == [b"clean\n"] * 20
    until(lambda: not lives(written(pid)), 5)


def test_a_daemon_of_a_running_task_is_left_alone(node: OneNode, tmp_path: Path) -> None:
    line, pid = daemon(tmp_path)
    task = node.start(f"{line}; sleep 1000")
    other = node.start(*["true"] * 50)
    node.until(lambda: b"main" in node.output(task))
    node.wait(range(other, other + 50))
    assert lives(written(pid))
    assert task not in node.ended
    node.drain(0.0)
    node.wait([task])
    until(lambda: not lives(written(pid)), 5)


def test_a_daemon_without_marks_ends_with_all_that_may_have_made_it(node: OneNode, tmp_path: Path) -> None:
    line, pid = daemon(tmp_path, clear=True)
    long = node.start("until test -s stop; do :; done")
    short = node.start(line)
    node.wait([short])
    after = node.start(*["echo clean"] * 20)
    node.wait(range(after, after + 20))
    assert all(node.ended[n].stdout == b"clean\n" for n in range(after, after + 20))
    (tmp_path / "stop").write_text("now")
    node.wait([long])
    until(lambda: not lives(written(pid)), 5)


def test_a_tree_of_leftovers(node: OneNode, tmp_path: Path) -> None:
    """Each in a session of its own, each hidden behind its parent."""
    line = "setsid sh -c 'setsid sleep 1001 & echo $! > pid; sleep 1002' & while ! test -s pid; do :; done"
    assert node.run(line).exit_code == 0
    until(lambda: not lives(written(tmp_path / "pid")), 5)


def test_few_words_about_many_leftovers(node: OneNode) -> None:
    first = node.start(*["sleep 1000 & true"] * 30)
    node.wait(range(first, first + 30))
    node.listen(0.2)
    assert 5 < len(node.log) <= 10
