"""Ending well: signals, exit codes, what is handed back."""

from __future__ import annotations

import os
import signal
import subprocess
from pathlib import Path

import pytest

from tests.fix_farm import Farm, task_processes, wait_for
from tests.launch.node import tree

pytestmark = [pytest.mark.postgres, pytest.mark.mpi_outside]


def _started(farm: Farm, *options: str, ranks: int = 3) -> subprocess.Popen[bytes]:
    process = farm.start("run", "--cpus", "2", *options, ranks=ranks)
    wait_for(lambda: (farm.cwd / "started").exists(), "a task has started")
    return process


def test_exit_codes(farm: Farm) -> None:
    farm.submit(["true", "false"])
    out, _ = farm.run("run", ranks=2)
    assert b"1 succeeded, 1 failed" in out
    assert b"mpifarm-run-1.h5" in out
    farm.submit(["false"], "again")
    farm.run("run", "--exit-code", ranks=2, code=1)
    farm.run("run", ranks=2)


WORK_LEFT = 7


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGUSR1])
def test_a_signal_ends_the_run_with_grace(farm: Farm, number: signal.Signals) -> None:
    """What runs may finish, what waits goes back; nobody is charged."""
    farm.submit(["touch started; sleep 1; echo finished"] + ["sleep 1000"] * 50)
    farm.submit(["echo other"] * 500, "other")
    process = _started(farm, "--grace", "3s")
    process.send_signal(number)
    out, err = farm.finish(process, WORK_LEFT)
    assert "stopping" in err
    assert "work is left in the queue" in err
    assert farm.output("1") == b"finished\n"
    counts = farm.report()["tasks"]
    assert (counts["succeeded"], counts["pending"], counts["running"]) == (1, 50, 0)
    assert farm.report()["runs"][0]["file"]
    assert b"returned to the queue" in out


def test_a_second_signal_goes_faster(farm: Farm) -> None:
    mark = f"10{os.getpid()}"
    farm.submit([f"trap '' TERM; touch started; sleep {mark} & sleep {mark}; sleep {mark}"] * 2)
    process = _started(farm, "--grace", "600s")
    process.send_signal(signal.SIGTERM)
    wait_for(lambda: os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is None, "still there")
    signal.sigtimedwait([], 1.3)  # signals within a second are one
    process.send_signal(signal.SIGTERM)
    farm.finish(process, WORK_LEFT, deadline_s=20)
    assert farm.report()["tasks"]["pending"] == 2
    wait_for(lambda: not task_processes(f"sleep\0{mark}"), "its processes are gone", deadline_s=5)


def test_what_was_handed_back_runs_in_the_next_run(farm: Farm) -> None:
    farm.submit(["touch started; sleep 2; echo $MPIFARM_ATTEMPT"] * 4)
    process = _started(farm, "--grace", "0s")
    process.send_signal(signal.SIGTERM)
    farm.finish(process, WORK_LEFT)
    farm.run("run", "--cpus", "4", ranks=1)
    attempts = farm.output("1-4").split()
    assert len(attempts) == 4
    assert set(attempts) <= {b"1", b"2"}
    assert b"2" in attempts


STEP_ENDS = [
    (signal.SIGUSR1, "tasks"), (signal.SIGUSR2, "launchers"), (signal.SIGTERM, "launchers"), (signal.SIGTERM, "tasks"),
]  # fmt: skip


@pytest.mark.parametrize(("number", "first"), STEP_ENDS)
def test_every_process_of_the_step_is_signalled(farm: Farm, number: signal.Signals, first: str) -> None:
    """As where Slurm tracks the processes of a step by their parents: nobody's end is his own."""
    begin = "touch begun-$MPIFARM_TASK; "
    trap = "trap 'exit 0' TERM USR1 USR2; "
    farm.submit([begin + "sleep 1000", trap + begin + "while :; do sleep 0.05; done", begin + "exec sleep 1000"] * 4)
    run = farm.start("run", "--cpus", "6", "--exit-code", environ={"MPIR_CVAR_NUM_CLIQUES": "2"}, ranks=2)
    wait_for(lambda: len(list(farm.cwd.glob("begun-*"))) == 12, "all to run")
    step = [pid for pid in tree(run.pid) if b"hydra" not in _words(pid) and pid != run.pid]
    for pid in step if first == "launchers" else step[::-1]:
        try:
            os.kill(pid, number)
        except ProcessLookupError:
            pass
    out, said = farm.finish(run, WORK_LEFT, deadline_s=30)
    assert b"0 succeeded, 0 failed, 12 cut short and returned" in out, said
    report = farm.report()
    assert report["tasks"] == report["tasks"] | {"pending": 12, "running": 0, "failed": 0, "succeeded": 0}
    farm.run("verify")
    assert "live" not in farm.run("runs", "--all")[0].decode()


def _words(pid: int) -> bytes:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return b""


def test_a_drain_when_nothing_is_left_is_a_success(farm: Farm) -> None:
    farm.submit(["touch started; sleep 1; echo finished"])
    process = _started(farm, "--grace", "10s")
    process.send_signal(signal.SIGUSR1)
    assert "exit code 7" not in farm.finish(process)[1]
