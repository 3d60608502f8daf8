"""Reading while a real run writes: following tasks from before the run starts, leaving with Ctrl-C, the Python API."""

from __future__ import annotations

import json
import os
import select
import signal
import subprocess
import time

import pytest

import mpifarm
from mpifarm.server.dsn import Dsn
from tests.fix_farm import DEADLINE_S, Farm

pytestmark = [pytest.mark.postgres, pytest.mark.mpi_outside]


def read_until(process: subprocess.Popen[bytes], wanted: bytes) -> None:
    """The process gives exactly this next, in time."""
    assert process.stdout is not None
    given = b""
    deadline = time.monotonic() + DEADLINE_S
    while len(given) < len(wanted):
        ready, _, _ = select.select([process.stdout], [], [], max(0.0, deadline - time.monotonic()))
        assert ready, f"{given!r} and no more"
        given += os.read(process.stdout.fileno(), len(wanted) - len(given))
    assert given == wanted


def test_following_two_tasks_from_before_the_run_starts(farm: Farm) -> None:
    gate = farm.cwd / "gate"
    os.mkfifo(gate)
    farm.submit([f"echo begun; read line < {gate}; echo $line; echo last words >&2", "echo second"])
    follower = farm.start("report", "job", "--tasks", "1-2", "--follow", "--both")
    run = farm.start("run", "--cpus", "2", ranks=2)
    read_until(follower, b"begun\n")
    assert follower.poll() is None
    assert farm.tasks()[0]["state"] == "running", "it was given before the task had an outcome"
    gate.write_bytes(b"through the gate\n")
    out, err = farm.finish(follower)
    assert out == b"through the gate\nlast words\nsecond\n"
    assert "Traceback" not in err
    farm.finish(run)
    assert farm.run("report", "job", "--tasks", "1-2", "--follow")[0] == b"begun\nthrough the gate\nsecond\n"


def test_a_follower_that_is_not_read_and_then_left_stops_nobody(farm: Farm) -> None:
    """Its pipe is full within the first 64 KiB of 20 MB, and nobody reads it: the run ends all the same."""
    farm.submit(["head -c 20000000 /dev/zero", "echo other"])
    follower = farm.start("report", "job.1", "--follow")
    farm.run("run", ranks=2)
    assert farm.report()["tasks"]["succeeded"] == 2
    assert follower.poll() is None
    follower.send_signal(signal.SIGINT)
    _, err = farm.finish(follower, code=130)
    assert "Traceback" not in err
    assert farm.output("1") == bytes(20_000_000)


def test_ctrl_c_is_quiet(farm: Farm) -> None:
    farm.submit(["true"])
    follower = farm.start("report", "job", "--tasks", "1", "-f")
    assert follower.stderr is not None
    told = follower.stderr.readline()
    assert told == b"mpifarm: task 1 of job is pending: waiting for its output\n"
    follower.send_signal(signal.SIGINT)
    assert farm.finish(follower, code=130) == (b"", "")


def test_attempts_that_were_given_back(farm: Farm) -> None:
    """The first run is told to stop while the task runs; the second finishes it."""
    gate = farm.cwd / "gate"
    os.mkfifo(gate)
    farm.submit([f"echo attempt $MPIFARM_ATTEMPT; read line < {gate}; echo $line"])
    run = farm.start("run", "--grace", "0s", ranks=1)
    follower = farm.start("report", "job", "--tasks", "1", "--follow")
    read_until(follower, b"attempt 1\n")
    follower.send_signal(signal.SIGINT)
    farm.finish(follower, code=130)
    run.send_signal(signal.SIGTERM)
    farm.finish(run, code=None)
    run = farm.start("run", ranks=1)
    gate.write_bytes(b"done\n")
    farm.finish(run)
    assert farm.output("1") == b"attempt 2\ndone\n"
    out, err = farm.run("report", "job.1", "--attempt", "all")
    assert out == b"attempt 1\nattempt 2\ndone\n"
    first, second = err.splitlines()
    assert "attempt 1: returned (walltime)" in first
    assert first.endswith("superseded <==")
    assert second.endswith("the one that counts <==")
    assert farm.run("report", "job.1", "--attempt", "1")[0] == b"attempt 1\n"


def test_grep_where_formats_and_names(farm: Farm) -> None:
    farm.submit(["echo energy 1", "echo energy 2; exit 3", "echo nothing", "kill -9 $$"])
    farm.run("run", ranks=2)
    assert farm.run("report", "job", "--grep", "^energy")[0] == b"1: energy 1\n2: energy 2\n"
    assert farm.run("report", "job", "--grep", "energy", "--where", "exit_code = 3")[0] == b"2: energy 2\n"
    farm.run("report", "job", "--grep", "absent", code=1)
    chosen = farm.run("tasks", "job", "--where", "not class = none and node != ''", "--format", "jsonl")[0]
    assert [(task["task"], task["class"]) for task in map(json.loads, chosen.splitlines())] == [
        (2, "exit"),
        (4, "signal"),
    ]
    log = [line.split(b"\t") for line in farm.run("tasks", "job", "--format", "joblog")[0].splitlines()]
    assert [(line[0], line[6], line[7]) for line in log[1:]] == [
        (b"1", b"0", b"0"), (b"2", b"3", b"0"), (b"3", b"0", b"0"), (b"4", b"0", b"9")
    ]  # fmt: skip
    farm.run("report", "job", "--extract", "o", "--template", "{job}/{task:06}.{stream}", "--where", "state = done")
    assert sorted(path.name for path in (farm.cwd / "o" / "job").iterdir()) == ["000001.out", "000003.out"]
    _, err = farm.run("tasks", "job", "--where", "tsak = 3", code=2)
    assert "did you mean task" in err
    assert "^" in err


def test_the_python_api(farm: Farm, pg_dsn: Dsn) -> None:
    farm.submit(["echo one", "echo two >&2; exit 3", "echo three"])
    farm.run("run", ranks=2)
    with mpifarm.open_job("job", pg_dsn.text) as job:
        assert [(task.task, task.state, job.stdout(task)) for task in job] == [
            (1, "succeeded", b"one\n"), (2, "failed", b""), (3, "succeeded", b"three\n")
        ]  # fmt: skip
        assert job.stderr(2) == b"two\n"
        assert [(task.exit_code, task.command) for task in job.tasks("state = failed")] == [
            (3, b"echo two >&2; exit 3")
        ]
    with mpifarm.open_run(farm.cwd / "mpifarm-run-1.h5") as run:
        assert [run.stdout(task) for task in run] == [b"one\n", b"", b"three\n"]
        assert run.stderr(2) == b"two\n"
