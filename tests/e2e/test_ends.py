"""Ending well: signals, exit codes, what is handed back."""

from __future__ import annotations

import os
import signal

import pytest

from tests.fix_farm import Farm, task_processes, wait_for

pytestmark = [pytest.mark.postgres, pytest.mark.mpi_outside]


def _started(farm: Farm, *options: str, ranks: int = 3) -> object:
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


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGUSR1])
def test_a_signal_ends_the_run_with_grace(farm: Farm, number: signal.Signals) -> None:
    """What runs may finish, what waits goes back; nobody is charged."""
    farm.submit(["touch started; sleep 1; echo finished"] + ["sleep 1000"] * 50)
    farm.submit(["echo other"] * 500, "other")
    process = _started(farm, "--grace", "3s")
    process.send_signal(number)
    out, err = farm.finish(process)
    assert "stopping" in err
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
    farm.finish(process, deadline_s=20)
    assert farm.report()["tasks"]["pending"] == 2
    wait_for(lambda: not task_processes(f"sleep\0{mark}"), "its processes are gone", deadline_s=5)


def test_what_was_handed_back_runs_in_the_next_run(farm: Farm) -> None:
    farm.submit(["touch started; sleep 2; echo $MPIFARM_ATTEMPT"] * 4)
    process = _started(farm, "--grace", "0s")
    process.send_signal(signal.SIGTERM)
    farm.finish(process)
    farm.run("run", "--cpus", "4", ranks=1)
    attempts = farm.output("1-4").split()
    assert len(attempts) == 4
    assert set(attempts) <= {b"1", b"2"}
    assert b"2" in attempts
