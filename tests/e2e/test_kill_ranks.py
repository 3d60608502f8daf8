"""kill -9 of the recorder's process, of another rank, or of everything, at random moments under load: every run file
opens, every recorded byte is there and right, and the next run carries on."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import time
from collections import Counter
from functools import partial
from pathlib import Path

import pytest

from mpifarm.runfile.reader import open_run
from tests.e2e.test_kill import _ranks
from tests.e2e.test_several_runs import descendants
from tests.fix_farm import Farm, task_processes, wait_for
from tests.torture import keep

pytestmark = [pytest.mark.postgres, pytest.mark.mpi_outside]

END_S = 60.0
LAST_RUN_S = 1800.0


def line(task: int) -> str:
    """Mostly short outputs on both streams; now and then one of several chunks, while it is being written."""
    if task % 50 == 0:
        return f"seq {task} {task + 40_000}; sleep 0.1; seq 3"
    return f"seq {task} {task + task % 300}; echo err {task} >&2"


def output(task: int) -> bytes:
    if task % 50 == 0:
        return b"".join(b"%d\n" % number for number in (*range(task, task + 40_001), 1, 2, 3))
    return b"".join(b"%d\n" % number for number in range(task, task + task % 300 + 1))


def writes(pid: int) -> bool:
    """Whether this process has a run file open: it carries the recorder."""
    try:
        names = [os.readlink(entry) for entry in Path(f"/proc/{pid}/fd").iterdir()]
    except OSError:
        return False
    return any(name.endswith(".h5") for name in names)


def strike(process: subprocess.Popen[bytes], victim: str, chance: random.Random, pause_s: float) -> bool:
    """Wait until the run writes, and a little; kill. False: the run was over before."""
    end = time.monotonic() + END_S
    while not any(map(writes, _ranks(process))):
        if process.poll() is not None:
            return False
        assert time.monotonic() < end, "the run does not begin to write"
        signal.sigtimedwait([], 0.01)
    try:
        process.wait(timeout=pause_s)
        return False
    except subprocess.TimeoutExpired:
        pass
    ranks = _ranks(process)
    recorders = [pid for pid in ranks if writes(pid)]
    others = [pid for pid in ranks if pid not in recorders]
    doomed = {"recorder": recorders, "other": [chance.choice(others)] if others else [], "all": [process.pid, *ranks]}
    for pid in doomed[victim] or [process.pid, *ranks]:
        try:
            os.kill(pid, signal.SIGKILL)
        except ProcessLookupError:
            continue
    try:
        process.communicate(timeout=END_S)  # the world ends with any of its ranks
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        process.communicate()
        raise AssertionError(f"the run goes on without its {victim}") from None
    return True


def _all_gone(process: subprocess.Popen[bytes]) -> bool:
    return not _ranks(process)


def campaign(farm: Farm, ranks: int, victims: list[str], tasks: int, seed: int) -> Counter[str]:
    chance, seen = random.Random(seed), Counter[str]()
    farm.submit([line(task) for task in range(1, tasks + 1)])
    for victim in victims:
        process = farm.start("run", "--quiet", ranks=ranks)
        if not seen:  # the first kill is one that could lose something; the others come at any moment
            wait_for(lambda: farm.report()["tasks"]["succeeded"], "the first record", deadline_s=END_S)
        if not strike(process, victim, chance, chance.uniform(0.0, 1.5)):
            break
        seen[victim] += 1
        wait_for(partial(_all_gone, process), "no rank survives", deadline_s=END_S)
        for file in farm.cwd.glob("mpifarm-run-*.h5"):
            with open_run(file) as run:
                seen["rows"] += run.rows
        out, _ = farm.run("verify", "job")
        seen["recorded"] = int(out.split(b"; ")[1].split()[0].replace(b",", b""))
    assert sum(seen[victim] for victim in ("recorder", "other", "all")) > len(victims) // 2, f"few kills: {seen}"
    farm.finish(farm.start("run", "--quiet", ranks=ranks), deadline_s=LAST_RUN_S)
    assert farm.report()["tasks"]["succeeded"] == tasks
    farm.run("verify")
    assert farm.output(f"1-{tasks}") == b"".join(map(output, range(1, tasks + 1)))
    return seen


@pytest.mark.parametrize(
    ("ranks", "victims"), [(1, ["all"]), (2, ["recorder", "other"]), (5, ["recorder", "other", "all"])]
)
def test_kill_minus_9_under_load(farm: Farm, ranks: int, victims: list[str]) -> None:
    seen = campaign(farm, ranks, victims, 3000, seed=ranks)
    assert seen["recorded"]


@pytest.mark.parametrize("ranks", [1, 3])
def test_no_rank_outlives_mpiexec(farm: Farm, ranks: int) -> None:
    """Kind: whatever set of processes is killed, the rest ends. Here all of MPI's own, and none of mpifarm's."""
    mark = f"100.{os.getpid():07}{ranks}"
    farm.submit([f"sleep {mark}"] * 3)
    run = farm.start("run", "--quiet", "--cpus", "3", ranks=ranks)
    wait_for(lambda: len(task_processes(f"sleep\0{mark}")) == 3, "the tasks run")
    left = [pid for pid in descendants(run.pid) if Path(f"/proc/{pid}/comm").read_text().startswith("hydra")]
    assert left
    for pid in [run.pid, *left]:
        os.kill(pid, signal.SIGKILL)
    wait_for(lambda: not task_processes(f"sleep\0{mark}"), "no task is left", deadline_s=10.0)
    farm.finish(run, None, 10.0)  # nobody has its end of the pipes
    assert farm.report()["tasks"]["succeeded"] == 0


@pytest.mark.torture
@pytest.mark.parametrize("ranks", [1, 2, 5])
def test_kill_minus_9_under_load_for_long(farm: Farm, ranks: int) -> None:
    start = time.monotonic()
    chance = random.Random(ranks)
    victims = [chance.choice(["recorder", "other", "all"]) for _ in range(80)]
    seen = campaign(farm, ranks, victims, 40_000, seed=100 + ranks)
    keep("kill -9 under load", {"ranks": ranks, **seen, "seconds": round(time.monotonic() - start)})
