"""Whoever is killed, nothing of a run is left."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from mpifarm.launch.strays import end_strays, mark_of
from tests.launch.node import OneNode, lives, until

pytestmark = pytest.mark.slow

ROOT = Path(__file__).resolve().parents[2]


class Run:
    """A lone rank with its launcher, its guardian and three processes of tasks."""

    def __init__(self, cwd: Path) -> None:
        self.cwd = cwd
        command = [sys.executable, "-m", "tests.launch.lone_rank", str(cwd)]
        self.process = subprocess.Popen(command, cwd=ROOT, start_new_session=True)
        until(lambda: all(self._text(name).endswith("\n") for name in ("pids", "one", "two", "three")))
        self.rank, self.guardian, self.launcher = map(int, self._text("pids").split())
        self.tasks = [int(self._text(name)) for name in ("one", "two", "three")]
        assert all(lives(pid) for pid in self.everybody)

    @property
    def everybody(self) -> list[int]:
        return [self.rank, self.guardian, self.launcher, *self.tasks]

    def _text(self, name: str) -> str:
        path = self.cwd / name
        return path.read_text() if path.exists() else ""


@pytest.fixture
def run(tmp_path: Path) -> Iterator[Run]:
    run = Run(tmp_path)
    yield run
    run.process.kill()
    run.process.wait(10)
    until(lambda: not any(map(lives, run.everybody)), 5)


def test_the_rank_is_killed(run: Run) -> None:
    os.kill(run.rank, signal.SIGKILL)
    run.process.wait(5)
    until(lambda: not any(map(lives, run.everybody)), 5)


def test_the_session_of_the_rank_is_killed(run: Run) -> None:
    os.killpg(run.rank, signal.SIGKILL)
    run.process.wait(5)
    until(lambda: not any(map(lives, run.everybody)), 5)


@pytest.mark.parametrize("victim", ["launcher", "guardian"])
def test_launcher_or_guardian_is_killed(run: Run, victim: str) -> None:
    os.kill(getattr(run, victim), signal.SIGKILL)
    until(lambda: not any(map(lives, run.tasks)), 5)
    until(lambda: not lives(run.guardian) and not lives(run.launcher), 5)
    until(lambda: (run.cwd / "saw-the-end").exists(), 5)
    assert lives(run.rank)


def test_launcher_and_guardian_are_killed_together(run: Run) -> None:
    """The rank, who is left, ends the tasks before it says that the node is lost."""
    for pid in (run.guardian, run.launcher):
        os.kill(pid, signal.SIGKILL)
    until(lambda: (run.cwd / "saw-the-end").exists(), 5)
    assert not any(map(lives, run.tasks))
    assert lives(run.rank)


def test_all_three_are_killed_together(run: Run, tmp_path: Path) -> None:
    """The next launcher on this host ends the tasks before any runs again."""
    for pid in (run.guardian, run.launcher, run.rank):
        os.kill(pid, signal.SIGKILL)
    run.process.wait(5)
    node = OneNode(tmp_path)
    stats = " ".join(f"/proc/{pid}/stat" for pid in run.tasks)
    task = node.start(f"! cat {stats} 2>&- | grep -v ' [ZX] '", attempt=2)
    node.wait([task])
    assert node.ended[task].state == 0, node.ended[task].stdout
    assert not any(map(lives, run.tasks))
    # Which launcher of this user and host saw it first, and told it, is open: other tests run beside this one.
    node.close()


def test_a_launcher_looks_for_what_others_leave_while_it_works(run: Run, tmp_path: Path) -> None:
    node = OneNode(tmp_path)
    node.run("true")
    for pid in (run.guardian, run.launcher, run.rank):
        os.kill(pid, signal.SIGKILL)
    until(lambda: not any(map(lives, run.tasks)), 10)
    assert node.run("echo works").stdout == b"works\n"
    node.close()


def test_a_task_of_a_live_launcher_is_left_alone(run: Run) -> None:
    end_strays()
    assert all(map(lives, run.everybody))
    assert end_strays(mark_of(run.rank)) == []


def test_a_stopped_launcher_is_killed(run: Run) -> None:
    os.kill(run.launcher, signal.SIGSTOP)
    os.kill(run.launcher, signal.SIGKILL)
    until(lambda: not any(map(lives, run.tasks)), 5)


def test_signals_of_a_batch_system_mean_the_rank_only(run: Run) -> None:
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2):
        for pid in (run.guardian, run.launcher):
            os.kill(pid, number)
    node_alive = [lives(pid) for pid in run.everybody]
    assert all(node_alive)
    os.kill(run.rank, signal.SIGKILL)


def test_titles(run: Run) -> None:
    def title(pid: int) -> bytes:
        return Path(f"/proc/{pid}/cmdline").read_bytes().rstrip(b"\0")

    assert title(run.guardian) == b"mpifarm-guardian"
    assert title(run.launcher) == b"mpifarm-launcher"
    assert not re.search(rb"mpifarm run|lone_rank", title(run.guardian) + title(run.launcher))
    assert os.getsid(run.guardian) == run.guardian != os.getsid(run.launcher) == run.launcher


def test_what_the_forked_processes_keep_open(run: Run) -> None:
    def targets(pid: int) -> list[str]:
        folder = Path(f"/proc/{pid}/fd")
        return sorted(os.readlink(path).split(":")[0] for path in folder.iterdir())

    stderr = os.readlink(f"/proc/{run.rank}/fd/2").split(":")[0]  # for a word when it ends a rank that does not hear
    assert targets(run.guardian) == sorted(["/dev/null"] * 3 + ["pipe"] * 2 + [stderr])
    kinds = targets(run.launcher)
    assert kinds.count("socket") == 2
    assert os.readlink(f"/proc/{run.launcher}/fd/0") == "/dev/null"


def test_they_stay_small(run: Run) -> None:
    for pid in (run.guardian, run.launcher):
        maps = Path(f"/proc/{pid}/maps").read_text()
        assert not re.search(r"numpy|psycopg|h5py|mpi4py|libmpi", maps)


def test_the_launcher_says_it_may_not_use_a_cpu(tmp_path: Path) -> None:
    node = OneNode(tmp_path, cpus=(4000,))
    node.until(lambda: node.log, 5)
    assert "4000" in node.log[0]
    assert node.run("echo works").stdout == b"works\n"
    node.close()
