"""Python functions as tasks, from submit to their values, with real ranks and interpreters."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

import mpifarm
from tests.fix_farm import Farm, wait_for

pytestmark = [pytest.mark.postgres, pytest.mark.mpi_outside]

USERS = '''
"""A user's module, in the directory of the job."""
import os, signal, subprocess, sys, time
import numpy as np

def square(x): return x * x
def say(x): print("out", x); print("err", x, file=sys.stderr); return str(x)
def fail(x): raise ValueError(f"not {x}")
def quit(x): os._exit(x)
def crash(x): os.kill(os.getpid(), signal.SIGSEGV)
def sleep(seconds): time.sleep(seconds); return seconds
def array(n): return {"grid": np.arange(n, dtype="f4").reshape(-1, 2), "n": n}
def pid(_): return os.getpid()
def leave(_): return subprocess.Popen(["sleep", "1000"]).pid
def kept(x): return {x}
def cpus(_): return os.environ["MPIFARM_CPUS"], os.environ["OMP_NUM_THREADS"]
'''


@pytest.fixture
def users(farm: Farm, monkeypatch: pytest.MonkeyPatch) -> Iterator[Farm]:
    """The user's directory is where this process is, too."""
    (farm.cwd / "users.py").write_text(USERS)
    monkeypatch.chdir(farm.cwd)
    monkeypatch.syspath_prepend(str(farm.cwd))
    monkeypatch.setenv("MPIFARM_DSN", farm.environ["MPIFARM_DSN"])
    yield farm
    import sys

    sys.modules.pop("users", None)


@pytest.mark.parametrize("ranks", [1, 2, 5])
def test_values_come_back_as_they_were(users: Farm, ranks: int) -> None:
    import users as theirs  # type: ignore[import-not-found]

    mpifarm.map(theirs.square, range(300), name="squares")
    mpifarm.submit([mpifarm.Call(theirs.array, 10), mpifarm.Call(theirs.kept, "x"), "echo plain"], name="mixed")
    users.run("run", "--cpus", "2", ranks=ranks)
    with mpifarm.open_job("squares") as job:
        assert [value for _, value in job.values()] == [x * x for x in range(300)]
    with mpifarm.open_job("mixed") as job:
        value = job.value(1)
        assert value["n"] == 10 and value["grid"].dtype == np.float32 and value["grid"].shape == (5, 2)
        assert job.arrays(1)["grid"].tolist() == value["grid"].tolist()
        assert job.value(2).load() == {"x"} == job.value(2, unpickle=True)
        assert job.stdout(3) == b"plain\n"
        assert job.usage(1)["max_rss_kib"] >= 0
        with pytest.raises(mpifarm.FarmError, match="no value"):
            job.value(3)
    told = users.run("report", "mixed.1-2", "--values")[0].decode().splitlines()
    assert json.loads(told[0].split("\t")[1])["n"] == 10
    users.run("verify", "squares")


def test_what_a_call_says_is_its_own_and_its_interpreter_stays(users: Farm) -> None:
    import users as theirs

    mpifarm.map(theirs.say, range(50), name="said")
    mpifarm.map(theirs.pid, range(50), name="pids")
    users.run("run", "--cpus", "1", ranks=2)
    with mpifarm.open_job("said") as job:
        assert [job.stdout(n) for n in range(1, 51)] == [b"out %d\n" % n for n in range(50)]
        assert [job.stderr(n) for n in range(1, 51)] == [b"err %d\n" % n for n in range(50)]
    with mpifarm.open_job("pids") as job:
        assert len({value for _, value in job.values()}) == 1


def test_what_goes_wrong_in_a_call_is_told_and_touches_no_other(users: Farm) -> None:
    import users as theirs

    calls = [(theirs.fail, 1), (theirs.quit, 3), (theirs.crash, 0), (theirs.quit, 0), (theirs.sleep, 1000)]
    alone = [mpifarm.Call(function, x) for function, x in calls]
    mpifarm.submit([each for call in alone for each in (call, mpifarm.Call(theirs.square, 3))], time_limit=3)
    users.run("run", "--cpus", "1", "--idle-exit", "1s", ranks=2)
    tasks = users.tasks("last")
    assert [task["state"] for task in tasks[1::2]] == ["succeeded"] * 5
    found = [(task["state"], task["class"], task["exit_code"], task["signal"]) for task in tasks[::2]]
    assert found == [
        ("failed", "exception", 1, None), ("failed", "exit", 3, None), ("failed", "signal", None, signal.SIGSEGV),
        ("failed", "exit", 0, None), ("failed", "timeout", None, signal.SIGTERM),
    ]  # fmt: skip
    with mpifarm.open_job("last") as job:
        with pytest.raises(mpifarm.RaisedError, match="ValueError: not 1"):
            job.value(1)
        assert b"ValueError: not 1" in job.stderr(1)


def test_a_call_that_leaves_processes_gets_the_next_a_new_interpreter(users: Farm) -> None:
    import users as theirs

    mpifarm.submit([mpifarm.Call(f, 0) for f in (theirs.pid, theirs.leave, theirs.pid)], name="left")
    users.run("run", "--cpus", "1", ranks=1)
    with mpifarm.open_job("left") as job:
        first, left, second = (value for _, value in job.values())
    assert first != second
    assert not Path(f"/proc/{left}").exists()


def test_from_the_command_line(users: Farm) -> None:
    (users.cwd / "params.json").write_text('[{"x": 3}, [4], 5]')
    users.run("submit", "--function", "users:square", "--from-json", "params.json", "--name", "squares")
    users.run("submit", "--function", "users:say", "--name", "said", ":::", "a b", "c")
    assert "--capture" in users.run("submit", "--function", "users:say", "--capture", "x", code=2)[1]
    users.run("run", ranks=2)
    assert users.run("report", "squares", "--values")[0] == b"1\t9\n2\t16\n3\t25\n"
    told = json.loads(users.run("report", "said.2", "--values", "--json")[0])
    assert told[0]["value"] == "c" and told[0]["task"] == 2 and told[0]["seconds"] >= 0
    assert users.tasks("said")[0]["command"] == 'users:say ["a b"]'


@pytest.mark.usefixtures("users")
def test_an_executor_with_a_run_of_its_own() -> None:
    import users as theirs

    with mpifarm.Executor(local=2) as farm:
        assert farm.submit(theirs.square, 12).result(60) == 144
        assert list(farm.map(theirs.square, range(200))) == [x * x for x in range(200)]
        assert farm.submit(theirs.kept, 1).result(60) == {1}
        with pytest.raises(ValueError, match="not 3"):
            farm.submit(theirs.fail, 3).result(60)
        with pytest.raises(mpifarm.FarmError, match="signal"):
            farm.submit(theirs.crash, 3).result(60)
        late = farm.submit(theirs.sleep, 1000)
        farm.shutdown(wait=False, cancel_futures=True)
        with pytest.raises(RuntimeError, match="after shutdown"):
            farm.submit(theirs.square, 1)
    assert late.cancelled()


def test_large_values_and_a_call_that_is_asked_much(users: Farm) -> None:
    import users as theirs

    mpifarm.map(theirs.array, [4_000_000, 2], name="large")
    mpifarm.map(len, [b"x" * 3_000_000, "y" * 2_000_000], name="asked")
    users.run("run", "--cpus", "2", ranks=2)
    with mpifarm.open_job("large") as job:
        assert np.array_equal(job.value(1)["grid"].ravel(), np.arange(4_000_000, dtype="f4"))
    with mpifarm.open_job("asked") as job:
        assert [value for _, value in job.values()] == [3_000_000, 2_000_000]


def test_values_larger_than_all_room_for_output_wait_for_it(users: Farm) -> None:
    """Kind: who waits for room is woken when there is some, whether or not others have something to say."""
    import users as theirs

    mpifarm.map(theirs.array, [24_000_000] * 2, name="huge")
    users.run("run", "--cpus", "2", ranks=2)
    with mpifarm.open_job("huge") as job:
        assert [value["grid"].size for _, value in job.values()] == [24_000_000] * 2


def test_a_run_that_is_killed_leaves_no_interpreter(users: Farm) -> None:
    import users as theirs

    mpifarm.map(theirs.sleep, [1000] * 2, name="long")
    run = users.start("run", "--cpus", "2", ranks=1)
    wait_for(lambda: len(users.tasks("long", "--state", "running")) == 2, "both calls")
    marks = [
        p for p in Path("/proc").glob("[0-9]*/cmdline") if b"calls/interpreter.py" in _read(p) and _of(p, users.cwd)
    ]
    assert len(marks) == 2
    os.killpg(run.pid, signal.SIGKILL)
    run.wait()
    wait_for(lambda: not any(b"calls/interpreter.py" in _read(path) for path in marks), "no interpreter")


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError:
        return b""


def _of(path: Path, cwd: Path) -> bool:
    try:
        return path.with_name("cwd").resolve() == cwd.resolve()
    except OSError:
        return False
