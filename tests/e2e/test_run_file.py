"""The run file as a whole: what it says of its run, where its bytes lie on Lustre, locks that others hold."""

from __future__ import annotations

import fcntl
import math
import os
import shlex
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import h5py
import pytest

import mpifarm
from mpifarm.errors import SiteError, UsageError
from mpifarm.process import run_program
from mpifarm.rank.striping import Stripes, make_striped, parse_stripe_size
from tests.fix_farm import Farm, wait_for

pytestmark = [pytest.mark.postgres, pytest.mark.mpi_outside]


def test_a_run_describes_itself(farm: Farm) -> None:
    farm.submit(["#MPIFARM --cpus 3", "echo wide", "#MPIFARM --cpus 1", "sleep 0.1"])
    before = time.time()
    farm.run("run", "--cpus", "2", "--output", str(farm.cwd), ranks=2, environ={"SLURM_JOB_ID": "4711"})
    with mpifarm.open_run(farm.cwd / "mpifarm-run-1.h5") as run:
        about = run.attributes
    assert about["command"] == f"mpifarm run --cpus 2 --output {farm.cwd}"
    assert (about["run"], about["allocation"], about["ranks"], about["cwd"]) == ("1", "slurm 4711", "2", str(farm.cwd))
    assert about["mpifarm_version"] == mpifarm.__version__
    assert about["python_version"] == sys.version.split()[0]
    assert about["hdf5_version"] == h5py.version.hdf5_version and about["h5py_version"] == h5py.__version__
    assert "(MPI " in about["mpi_library"]
    assert about["host"] == os.uname().nodename and about["user"]
    assert before < float(about["ended"]) < time.time()
    with h5py.File(farm.cwd / "mpifarm-run-1.h5", "r") as plain:
        (said,) = [text.decode() for _, text in plain["events"]]
        assert said.startswith("1 task stays in the queue: they need more than a node offers: 2 cores")
        assert before < plain["events"][0]["time"] < plain.attrs["ended"]
        assert [name.decode() for name, *_ in plain["nodes"]] == [os.uname().nodename]


def test_a_run_that_was_killed_has_not_ended(farm: Farm) -> None:
    farm.submit(["sleep 100"])
    process = farm.start("run", ranks=1)
    wait_for(lambda: farm.report()["tasks"]["running"], "the task runs")
    wait_for((farm.cwd / "mpifarm-run-1.h5").exists, "the file is there")
    os.killpg(process.pid, 9)
    farm.finish(process, None)
    with mpifarm.open_run(farm.cwd / "mpifarm-run-1.h5") as run:
        assert math.isnan(float(run.attributes["ended"]))


def test_a_name_that_is_taken(farm: Farm) -> None:
    """Kind: something has the run file's name, be it a link that leads nowhere: it keeps it, and the next is taken."""
    farm.submit(["echo one"])
    (farm.cwd / "mpifarm-run-1.h5").symlink_to("nowhere")
    (farm.cwd / "mpifarm-run-1-2.h5").mkdir()
    farm.run("run", ranks=1)
    assert farm.output("1") == b"one\n" and not (farm.cwd / "nowhere").exists()
    assert farm.report()["runs"][-1]["file"].endswith("mpifarm-run-1-3.h5")


@pytest.mark.parametrize("closed", ["<&-", ">&-", "2>&-", "<&- >&- 2>&-"])
def test_closed_streams(farm: Farm, closed: str) -> None:
    """Kind: a command whose standard streams are closed does what it does, and nothing of it lands elsewhere."""
    farm.submit(["echo one"])
    for command in ("run --local 1", "report job --json", "report job.1", "tasks job", "verify", "explain job.1"):
        typed = f"{shlex.quote(sys.executable)} -m mpifarm {command} {closed}"
        done = subprocess.run(
            ["bash", "-c", typed], cwd=farm.cwd, env=farm.environ, capture_output=True, timeout=60, check=False
        )
        assert (done.returncode, b"bug" in done.stderr) == (0, False), (command, done)
    assert farm.output("1") == b"one\n"


def fake_lfs(folder: Path, script: str) -> Path:
    """Make a Lustre whose `lfs` does this; the last argument is the file. Returns the directory of the program."""
    program = folder / "bin" / "lfs"
    program.parent.mkdir()
    program.write_text(f'#!/bin/bash\necho "$@" >> {folder}/lfs.log\nfile="${{@: -1}}"\n{script}\n')
    program.chmod(0o755)
    return program.parent


def with_lfs(farm: Farm, script: str) -> dict[str, str]:
    return {"PATH": f"{fake_lfs(farm.cwd, script)}:{farm.environ['PATH']}"}


STRIPED = ("run", "--stripe-count", "8", "--stripe-size", "4M")


@pytest.mark.parametrize("ranks", [1, 5])
def test_stripes(farm: Farm, ranks: int) -> None:
    farm.submit(["echo one"])
    made = 'set -o noclobber; : > "$file" && stat -c %i "$file" > inode'
    (farm.cwd / "mpifarm-run-1.h5").write_text("of another queue")
    _, said = farm.run(*STRIPED, ranks=ranks, environ=with_lfs(farm, made))
    assert "stripes" not in said
    path = farm.cwd / "mpifarm-run-1-2.h5"
    assert (farm.cwd / "lfs.log").read_text() == f"setstripe -c 8 -S 4194304 {path}\n"
    assert int((farm.cwd / "inode").read_text()) == path.stat().st_ino
    assert farm.output("1") == b"one\n"
    with mpifarm.open_run(path) as run:
        assert run.attributes["stripes"] == "-c 8 -S 4194304"


def test_without_stripes_the_run_goes_on(farm: Farm) -> None:
    farm.submit(["echo one"])
    refuses = 'echo "error: setstripe: not a Lustre file system" >&2; exit 25'
    _, said = farm.run(*STRIPED, ranks=2, environ=with_lfs(farm, refuses))
    assert "not a Lustre file system" in said and "the run file has the stripes of its directory" in said
    assert farm.output("1") == b"one\n"


def _wrong(argv: Sequence[str], timeout_s: float) -> str:
    try:
        run_program(argv, timeout_s=timeout_s)
    except SiteError as error:
        return str(error)
    return ""


@pytest.mark.parametrize(
    ("script", "why", "left"),
    [
        (None, "need Lustre's lfs, which is not on the PATH", None),
        (': > "$file"; exit 5', "failed with exit code 5", None),
        ('echo precious > "$file"', "it is not empty", "precious\n"),
        ("exit 0", "No such file or directory", None),
        ('ln -s /dev/null "$file"', "it is not empty", ""),
    ],
)
def test_what_lfs_may_do(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, script: str | None, why: str, left: str | None
) -> None:
    path = tmp_path / "run.h5"
    monkeypatch.setenv("PATH", f"{fake_lfs(tmp_path, script)}:/bin:/usr/bin" if script else str(tmp_path))
    made = make_striped(path, Stripes(4), _wrong)
    assert not made.made and why in made.said and "the run file has the stripes of its directory" in made.said
    assert (path.read_text() if os.path.lexists(path) else None) == left


def test_a_lock_held_by_another_process(farm: Farm) -> None:
    """Of the file that `run` is to write, made for it by lfs; of one that `report` is to read."""
    advice = "HDF5_USE_FILE_LOCKING=FALSE"
    farm.submit(["echo one"])
    holder = 'exec 9> "$file"; flock -x 9; (exec >/dev/null 2>&1 </dev/null; sleep 100) &'
    _, said = farm.run(*STRIPED, ranks=2, environ=with_lfs(farm, holder), code=5)
    assert "cannot create run file" in said and advice in said
    farm.run("run", ranks=2)
    path = Path(farm.tasks("job", "--where", "task = 1") and farm.report()["runs"][-1]["file"])
    with path.open("rb") as other:
        fcntl.flock(other, fcntl.LOCK_EX)
        assert advice in farm.run("report", "job.1", code=5)[1]
    assert farm.output("1") == b"one\n"


@pytest.mark.parametrize("text", ["0", "100K", "4G", "1T", "", "-1M", "64K or so"])
def test_what_is_no_stripe_size(text: str) -> None:
    with pytest.raises(UsageError, match="not a multiple of 64K"):
        parse_stripe_size(text)


def test_stripe_words() -> None:
    assert Stripes(-1, parse_stripe_size("1MiB")).words() == ["-c", "-1", "-S", "1048576"]
    assert Stripes().words() == [] and not Stripes().wanted
