"""A rank before and while MPI starts: it dies with what started it, and with nothing else."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.launch.node import lives, until

pytestmark = pytest.mark.slow

ROOT = Path(__file__).resolve().parents[2]
# As in MPI_Init with a peer that is gone: no signal is handled, the interpreter is never left.
RANK = """
import ctypes, os, sys
from mpifarm.launch.launcher import fork_launcher
from mpifarm.startup.own_process import live_with
parent = os.getppid() if {with_parent} else None
launcher = fork_launcher(parent=parent)
live_with(parent, proxy=True)
print(os.getppid(), os.getpid(), launcher.guardian, launcher.pid, flush=True)
ctypes.PyDLL(None).sleep(60)
"""


class Started:
    """A process that started a rank, the rank, and what belongs to the rank."""

    def __init__(self, with_parent: bool) -> None:
        code = RANK.format(with_parent=with_parent)
        parent = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {code!r}])"
        self.process = subprocess.Popen(
            [sys.executable, "-c", parent], cwd=ROOT, stdout=subprocess.PIPE, text=True, start_new_session=True
        )
        assert self.process.stdout is not None
        self.parent, self.rank, *self.others = map(int, self.process.stdout.readline().split())

    def close(self) -> None:
        self.process.kill()
        if lives(self.rank):
            os.kill(self.rank, signal.SIGKILL)
        self.process.wait(10)
        until(lambda: not any(map(lives, [self.rank, *self.others])), 10)
        assert self.process.stdout is not None
        self.process.stdout.close()


@pytest.fixture
def started(request: pytest.FixtureRequest) -> Iterator[Started]:
    made = Started(request.param)
    yield made
    made.close()


@pytest.mark.parametrize("started", [True], indirect=True)
def test_it_dies_with_its_parent(started: Started) -> None:
    assert lives(started.rank)
    os.kill(started.parent, signal.SIGKILL)
    until(lambda: not any(map(lives, [started.rank, *started.others])), 10)


@pytest.mark.parametrize("started", [True], indirect=True)
def test_it_dies_with_its_parent_and_whoever_else_could_have_looked(started: Started) -> None:
    """Kind: whatever set of processes is killed, the rest ends. Here all but the rank, while MPI starts."""
    for pid in [*started.others, started.parent]:
        os.kill(pid, signal.SIGKILL)
    until(lambda: not lives(started.rank), 10)


@pytest.mark.parametrize("started", [False], indirect=True)
def test_one_that_is_alone_in_the_world_does_not(started: Started) -> None:
    """`ssh host 'nohup mpifarm run &'`: the shell goes at once."""
    os.kill(started.parent, signal.SIGKILL)
    started.process.wait(10)
    assert started.process.stdout is not None
    with pytest.raises(AssertionError):
        until(lambda: not lives(started.rank), 2)
    assert all(map(lives, started.others))
