"""The main promise: every output is what the command prints when run by hand, and it lies in one file."""

from __future__ import annotations

import os
import random
import subprocess
from pathlib import Path

import pytest

from tests.fix_farm import Farm

pytestmark = [pytest.mark.postgres, pytest.mark.mpi_outside]


def _by_hand(command: str, cwd: Path) -> tuple[bytes, bytes, int]:
    done = subprocess.run(["bash", "-c", command], cwd=cwd, capture_output=True, timeout=30, check=False)
    return done.stdout, done.stderr, done.returncode


def test_sha256_of_200_files(farm: Farm) -> None:
    content = random.Random(1)
    for number in range(200):
        (farm.cwd / f"f{number}").write_bytes(content.randbytes(content.randint(0, 5000)))
    lines = [f"sha256sum f{number}" for number in range(195)]
    lines += ["sha256sum missing", "cat f7", "true", "printf '\\0\\377' && printf oops >&2; exit 3", "cat f8 f9 >&2"]
    farm.submit(lines)
    farm.run("run", ranks=3)
    ended = farm.tasks()
    assert len(ended) == 200
    whole = b""
    for number, line in enumerate(lines, 1):
        out, err, code = _by_hand(line, farm.cwd)
        whole += out
        task = ended[number - 1]
        assert (task["task"], task["state"], task["exit_code"]) == (number, "failed" if code else "succeeded", code)
        if number > 190:
            assert farm.output(str(number)) == out, line
            assert farm.output(str(number), "job", "--stderr") == err, line
    assert farm.output("1-200") == whole
    made = {path.name for path in farm.cwd.iterdir()} - {f"f{number}" for number in range(200)} - {"job.txt"}
    assert made == {"mpifarm-run-1.h5"}
    assert farm.report()["failures"] == {"exit": 2}


def test_task_selectors(farm: Farm) -> None:
    farm.submit(["echo one", "echo two >&2", "echo three"], "a.7")
    farm.run("run", ranks=1)
    assert farm.run("report", "a.7.1")[0] == b"one\n"
    assert farm.run("report", "a.7.2-3", "--both")[0] == b"two\nthree\n"
    assert b"a.7" in farm.run("report", "a.7")[0]
    assert [task["task"] for task in farm.tasks("a.7.3")] == [3]
    farm.run("report", "a.7.4", code=2)


@pytest.mark.parametrize("ranks", [1, 2, 5, 16])
def test_every_size_of_world(farm: Farm, ranks: int) -> None:
    farm.submit([f"echo {number}" for number in range(100)])
    farm.run("run", ranks=ranks)
    assert farm.output("1-100") == b"".join(b"%d\n" % number for number in range(100))


def test_several_nodes(farm: Farm) -> None:
    """MPICH pretends that seven ranks sit on three nodes: three leaders, three launchers, one recorder."""
    farm.submit(["echo $MPIFARM_NODE; sleep 0.05"] * 60 + ["head -c 3000000 /dev/zero"])
    farm.run("run", ranks=7, environ={"MPIR_CVAR_NUM_CLIQUES": "3"})
    nodes = set(farm.output("1-60").split())
    assert len(nodes) == 3
    assert farm.output("61") == bytes(3_000_000)


def test_the_environment_of_a_task(farm: Farm) -> None:
    farm.submit(["env", "readlink /proc/self/fd/0; pwd", "#MPIFARM --cpus 2", "echo $MPIFARM_CPUS"])
    farm.run("run", "--cpus", "2", ranks=2)
    seen = dict(line.split("=", 1) for line in farm.output("1").decode().splitlines() if "=" in line)
    assert seen["MPIFARM_JOB"] == "job"
    assert (seen["MPIFARM_TASK"], seen["MPIFARM_ATTEMPT"], seen["MPIFARM_CPUS"]) == ("1", "1", "1")
    assert seen["MPIFARM_ENTRY"] == "env"
    assert seen["MPIFARM_NODE"]
    assert seen["MPIFARM_SLOT"] in {"0", "1"}
    prefixes = ("PMI", "PMIX", "HYDI", "MPI_LOCAL", "OMPI_COMM", "SLURM_STEP", "SLURM_PROCID")
    assert not [name for name in seen if name.startswith(prefixes)]
    assert farm.output("2").decode().splitlines() == ["/dev/null", str(farm.cwd)]
    assert farm.output("3") == b"2\n"


def test_wide_tasks_and_time_limits(farm: Farm) -> None:
    farm.submit(
        ["#MPIFARM --cpus 3", "echo wide", "#MPIFARM --cpus 1 --time-limit 1s", "sleep 60", "echo narrow"],
    )
    farm.run("run", "--cpus", "2", ranks=1)
    tasks = farm.tasks()
    assert [(task["state"], task["class"]) for task in tasks] == [
        ("pending", None),
        ("failed", "timeout"),
        ("succeeded", None),
    ]
    farm.run("run", "--cpus", "4", ranks=1)
    assert farm.output("1") == b"wide\n"


def test_reading_while_the_run_writes(farm: Farm) -> None:
    """A long task holds the run open; the outcome of another is reported meanwhile, bytes and all."""
    from tests.fix_farm import wait_for

    gate = farm.cwd / "gate"
    os.mkfifo(gate)
    farm.submit(["echo first", f"cat {gate}"])
    process = farm.start("run", "--cpus", "2", ranks=2)
    wait_for(lambda: farm.report()["tasks"]["succeeded"] == 1, "the first task is recorded")
    assert farm.output("1") == b"first\n"
    gate.write_bytes(b"let go\n")
    farm.finish(process)
    assert farm.output("1,2") == b"first\nlet go\n"


def test_what_a_task_left_running_stands_with_it(farm: Farm) -> None:
    """A task that ends before what it has started has succeeded in nothing but starting it: that is to be seen."""
    farm.submit(["(setsid sleep 1000 &) ; (setsid sleep 1001 &); echo on", "echo off"])
    farm.run("run", ranks=2)
    assert [task["left"] for task in farm.tasks()] == [2, None]
    assert [task["task"] for task in farm.tasks("job", "--where", "left > 0")] == [1]
    assert "it left 2 processes, killed" in farm.run("explain", "job.1")[0].decode()
    assert b",2," in farm.run("tasks", "job", "--format", "csv")[0].splitlines()[1]
