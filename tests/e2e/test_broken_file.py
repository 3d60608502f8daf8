"""Whole runs whose file is taken away, written over or broken by a file system: the run goes on, and says so."""

from __future__ import annotations

import errno
import os
import shutil
import signal
import subprocess
from pathlib import Path

import pytest

from tests.fix_farm import Farm, wait_for

pytestmark = [pytest.mark.postgres, pytest.mark.mpi_outside]

HARMS = {
    "removed": "rm -f *.h5",
    "moved": "mkdir -p old; mv *.h5 old/",
    "replaced": "echo mine > new; mv new mpifarm-run-1.h5",
    "its directory removed": "rm -rf ../out",
    "its directory moved": "mv ../out ../old",
}


@pytest.mark.parametrize(
    ("harm", "ranks"), [*((harm, 1) for harm in HARMS.values()), (HARMS["removed"], 3)], ids=[*HARMS, "of three ranks"]
)
def test_a_task_takes_the_file_away(farm: Farm, ranks: int, harm: str) -> None:
    """Kind: the run file has lost its name. Nothing that was recorded is lost, all runs, and the exit code says it."""
    folder = farm.cwd / "out"
    folder.mkdir()
    farm.submit(["echo first", f"sleep 0.5; cd {folder} && {harm}; echo harm", "sleep 1.5; echo last"])
    out, said = farm.run("run", "--quiet", "--output", str(folder), ranks=ranks, code=5)
    assert "while it was written" in said and "the run goes on in another file" in said
    assert b"3 succeeded" in out and b"mpifarm-run-1.2.h5" in out
    assert farm.output("1-3") == b"first\nharm\nlast\n"
    assert farm.run("verify", "job")[0].startswith(b"job job: 3 tasks")
    if harm == HARMS["replaced"]:
        assert (folder / "mpifarm-run-1.h5").read_text() == "mine\n"
    if ranks == 3:
        assert b"last" in farm.run("report", "job", "--grep", "last")[0]
        farm.run("export", "job", "job.h5")
        assert farm.run("report", str(farm.cwd / "job.h5"), "--tasks", "1-3")[0] == b"first\nharm\nlast\n"


def test_a_task_writes_over_the_file(farm: Farm) -> None:
    """Kind: a task opens the run file itself and writes to it. What comes after is kept, what was lost is told."""
    harm = "sleep 0.5; echo mine > mpifarm-run-1.h5; echo harm"
    farm.submit(["echo first", harm, "sleep 1.5; echo last"])
    _, said = farm.run("run", "--quiet", ranks=1, code=5)
    assert "was written over while it was written" in said
    assert (farm.cwd / "mpifarm-run-1.h5").read_bytes().startswith(b"mine\n")
    assert farm.output("2-3") == b"harm\nlast\n"
    assert "mpifarm-run-1.h5" in farm.run("report", "job.1", code=5)[1]
    assert b"task 1: cannot open run file" in farm.run("verify", "job", code=6)[0]


@pytest.fixture(scope="module")
def faulty(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A library that makes writes fail."""
    made = tmp_path_factory.mktemp("faulty") / "faulty.so"
    source = Path(__file__).parent.parent / "runfile" / "faulty.c"
    compiler = shutil.which("gcc") or shutil.which("cc")
    assert compiler, "this campaign needs a C compiler"
    subprocess.run([compiler, "-shared", "-fPIC", "-O1", "-o", made, source, "-ldl"], check=True)
    return made


@pytest.mark.parametrize("ranks", [1, 3])
def test_there_is_no_room_for_the_file(farm: Farm, faulty: Path, ranks: int) -> None:
    """Kind: a run that cannot begin, on a full disk. A sentence, and the queue is as it was."""
    farm.submit(["echo never", "echo early"])
    during = farm.cwd / "during"
    during.touch()
    shim = {"LD_PRELOAD": str(faulty), "FAULTY_WHILE": str(during), "FAULTY_SHARE": "1", "FAULTY_ERRNO": "28"}
    _, said = farm.run("run", ranks=ranks, code=5, environ=shim)
    assert "cannot create run file" in said and "make room" in said and "Traceback" not in said, said
    assert not list(farm.cwd.glob("*.h5"))
    assert [(task["state"], task["attempts"]) for task in farm.tasks()] == [("pending", 0)] * 2
    during.unlink()
    farm.run("run", ranks=ranks, environ=shim)
    assert farm.output("1-2") == b"never\nearly\n"


@pytest.mark.torture
@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT, errno.EIO], ids=["no space", "quota", "error"])
@pytest.mark.parametrize("ranks", [1, 3])
def test_writes_fail_at_random(farm: Farm, faulty: Path, number: int, ranks: int) -> None:
    """Three of ten, flushes and syncs too, for four seconds; then all is well: nothing is lost, and the run ends."""
    tasks = 200
    farm.submit([f"head -c 20000 /dev/urandom | tee out-{task}; sleep 0.05" for task in range(1, tasks + 1)])
    during = farm.cwd / "during"
    shim = {"LD_PRELOAD": str(faulty), "FAULTY_WHILE": str(during), "FAULTY_SHARE": "0.3", "FAULTY_ERRNO": str(number)}
    run = farm.start("run", "--quiet", "--cpus", "4", ranks=ranks, environ=shim)
    wait_for(lambda: len(list(farm.cwd.glob("out-*"))) > 20, "some tasks have run")
    during.touch()
    signal.sigtimedwait([], 4.0)
    during.unlink()
    farm.finish(run, None)
    while farm.report()["tasks"]["pending"]:
        farm.run("run", "--quiet", "--cpus", "4", ranks=ranks)
    assert farm.report()["tasks"]["succeeded"] == tasks
    assert b"each in its file as written" in farm.run("verify", "job")[0]
    expected = b"".join((farm.cwd / f"out-{task}").read_bytes() for task in range(1, tasks + 1))
    assert farm.output(f"1-{tasks}") == expected


def test_a_stop_after_the_file_was_taken_away(farm: Farm) -> None:
    farm.submit(["echo first", "sleep 100"])
    run = farm.start("run", "--quiet", "--grace", "1s", ranks=1)
    wait_for(lambda: farm.report()["tasks"]["succeeded"], "the first is recorded")
    (farm.cwd / "mpifarm-run-1.h5").unlink()
    os.killpg(run.pid, signal.SIGTERM)
    _, said = farm.finish(run, None, 30.0)
    assert "was removed while it was written" in said
    assert farm.output("1") == b"first\n"
