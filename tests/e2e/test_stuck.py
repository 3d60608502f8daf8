"""Whole runs in which a call of HDF5 never comes back and lets no other thread of its process run."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
from pathlib import Path

import pytest

from tests.fix_farm import Farm, task_processes, wait_for

pytestmark = [pytest.mark.postgres, pytest.mark.mpi_outside]


@pytest.fixture(scope="module")
def stuck(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("stuck") / "stuck.so"
    compiler = shutil.which("gcc") or shutil.which("cc")
    assert compiler, "this needs a C compiler"
    source = Path(__file__).with_name("stuck.c")
    subprocess.run([compiler, "-shared", "-fPIC", "-O1", "-o", made, source, "-ldl"], check=True)
    return made


@pytest.mark.parametrize("heard", [0, 1], ids=["neither was heard", "the first was heard"])
def test_a_second_stop_ends_a_run_that_is_stuck(farm: Farm, stuck: Path, heard: int) -> None:
    """Alone, so that nobody else can end it. What it held is run by the next."""
    mark = f"98{os.getpid()}.5"
    farm.submit(["echo first", "while [ ! -e now ]; do sleep 0.1; done; echo second", f"sleep {mark}"])
    during = farm.cwd / "during"
    shim = {"LD_PRELOAD": str(stuck), "STUCK_WHILE": str(during)}
    run = farm.start("run", "--quiet", "--cpus", "3", "--grace", "1s", environ=shim)
    wait_for(lambda: farm.report()["tasks"]["succeeded"] == 1, "the first is recorded")
    wait_for(lambda: task_processes(mark), "the last is running")
    during.touch()
    if heard:
        run.send_signal(signal.SIGTERM)  # what it leads to is written
    else:
        (farm.cwd / "now").touch()
    wait_for(lambda: waits_in_vain(run.pid), "it is stuck")
    for _ in range(2 - heard):
        run.send_signal(signal.SIGTERM)
        signal.sigtimedwait([], 0.5)
    _, said = farm.finish(run, -signal.SIGKILL, 60.0)
    assert "second stop signal" in said and "goes back to the queue" in said
    wait_for(lambda: not task_processes(mark), "its tasks have gone", 10.0)
    assert farm.output("1") == b"first\n"


def waits_in_vain(pid: int) -> bool:
    """One of its threads is in pause(2)."""
    calls = [path.read_text().split() for path in Path(f"/proc/{pid}/task").glob("*/syscall")]
    return any(call[:1] == ["34"] for call in calls)
