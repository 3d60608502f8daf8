"""kill -9 of everything at random moments: nothing recorded is missing or altered, nothing is recorded twice."""

from __future__ import annotations

import os
import random
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.fix_farm import Farm, task_processes, wait_for

pytestmark = [pytest.mark.postgres, pytest.mark.mpi_outside]

TASKS = 2000


def _ranks(process: subprocess.Popen[bytes]) -> list[int]:
    """The ranks of a running mpiexec: processes that say `mpifarm run` and descend from it."""
    return [pid for pid in task_processes("mpifarm\0run") if process.pid in _ancestors(pid)]


def _ancestors(pid: int) -> Iterator[int]:
    while pid > 1:
        try:
            pid = int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])
        except (FileNotFoundError, ProcessLookupError):
            return
        yield pid


def _kill_all(process: subprocess.Popen[bytes]) -> int:
    """SIGKILL to mpiexec and all ranks at once. Returns the number of ranks."""
    ranks = _ranks(process)
    for pid in [process.pid, *ranks]:
        try:
            os.kill(pid, signal.SIGKILL)
        except ProcessLookupError:
            continue
    process.communicate()
    return len(ranks)


def _check_recorded(farm: Farm) -> None:
    """Every task that is recorded is there with exactly its bytes."""
    done = [task["task"] for task in farm.tasks("job", "--state", "succeeded")]
    if done:
        ranges = ",".join(str(number) for number in done)
        assert farm.output(ranges) == b"".join(b"output of %d\n" % number for number in done)


def _campaign(farm: Farm, moments: int, seed: int) -> None:
    mark = f"0.05{os.getpid():07}"
    farm.submit([f"echo output of {number}; sleep {mark}" for number in range(1, TASKS + 1)])
    chance = random.Random(seed)
    killed = []
    for _ in range(moments):
        process = farm.start("run", "--cpus", "8", ranks=3)
        try:
            process.wait(timeout=chance.uniform(0.1, 2.5))
            break
        except subprocess.TimeoutExpired:
            killed.append(_kill_all(process))
        wait_for(lambda: not task_processes(f"sleep\0{mark}"), "no task process survives", deadline_s=5.0)
    assert sum(ranks >= 3 for ranks in killed) > moments // 2, f"hardly any run was killed in the middle: {killed}"
    _check_recorded(farm)
    farm.run("run", "--cpus", "8", ranks=3)
    assert farm.report()["tasks"]["succeeded"] == TASKS
    assert [task["task"] for task in farm.tasks()] == list(range(1, TASKS + 1))
    _check_recorded(farm)


def test_kill_minus_9_at_20_moments(farm: Farm) -> None:
    _campaign(farm, 20, seed=2)


@pytest.mark.torture
@pytest.mark.parametrize("seed", range(100, 110))
def test_kill_minus_9_for_long(farm: Farm, seed: int) -> None:
    _campaign(farm, 60, seed)
