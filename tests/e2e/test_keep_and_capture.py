"""What jobs keep and capture, through whole runs: from the task's directory into the run file and back."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import h5py
import numpy as np
import pytest

import mpifarm
from tests.fix_farm import Farm

pytestmark = [pytest.mark.postgres, pytest.mark.mpi_outside]


LINES = ["echo good", "echo bad; echo why >&2; exit 2", "seq 100000", "sleep 0.1; seq 100000; exit 1"]
SEQUENCE = b"".join(b"%d\n" % number for number in range(1, 100_001))


@pytest.mark.parametrize(("ranks", "keep"), [(1, "tail:64K"), (2, "failed"), (5, "none")])
def test_keep(farm: Farm, ranks: int, keep: str) -> None:
    farm.submit(LINES, "job", "--keep", keep)
    farm.run("run", "--cpus", "2", ranks=ranks)
    out, err = farm.run("report", "job", "--tasks", "1-4")
    kept = {
        "none": [b"", b"", b"", b""],
        "failed": [b"", b"bad\n", b"", SEQUENCE],
        "tail:64K": [b"good\n", b"bad\n", SEQUENCE[-65536:], SEQUENCE[-65536:]],
    }[keep]
    assert out == b"".join(kept)
    said = {
        "none": "task 1-4: its stdout was not kept",
        "failed": "task 1,3: its stdout was not kept",
        "tail:64K": "task 3-4: only the end of its stdout was kept",
    }
    assert said[keep] in err
    farm.run("verify", "job")
    assert [task["state"] for task in farm.tasks()] == ["succeeded", "failed", "succeeded", "failed"]
    with mpifarm.open_run(farm.cwd / "mpifarm-run-1.h5") as file:
        assert [file.stdout(task) for task in (1, 2, 3, 4)] == kept
    with h5py.File(farm.cwd / "mpifarm-run-1.h5", "r") as plain:
        rows = {int(row["task"]): row for row in plain["attempts"]}
        assert [int(rows[task]["stdout_bytes"]) for task in (1, 2, 3, 4)] == [5, 4, len(SEQUENCE), len(SEQUENCE)]
        assert len(plain["bytes"]) == {"none": 0}.get(keep, len(plain["bytes"]))


@pytest.mark.parametrize("ranks", [1, 2, 5])
def test_capture(farm: Farm, ranks: int, monkeypatch: pytest.MonkeyPatch) -> None:
    (farm.cwd / "save.py").write_text(
        "import numpy, sys; n = int(sys.argv[1]); numpy.save(f'out-{n}.npy', numpy.arange(2 * n).reshape(2, n))"
    )
    lines = [f"{sys.executable} save.py {number}; echo {number}" for number in (1, 2, 3)]
    lines += ["true", "head -c 9000000 /dev/urandom | tee out-5.npy | sha256sum; exit 3"]
    farm.submit(lines, "job", "--capture", "out-{task}.npy")
    farm.run("run", "--cpus", "2", ranks=ranks)
    assert farm.output("1-3") == b"1\n2\n3\n"
    (farm.cwd / "out-1.npy").unlink()
    farm.run("verify", "job")
    listed, said = farm.run("report", "job.1-5", "--captured")
    assert listed == b"1\t144\tout-1.npy\n2\t160\tout-2.npy\n3\t176\tout-3.npy\n5\t9000000\tout-5.npy\n"
    assert said == "mpifarm: task 4: out-4.npy: no such file was made or changed by the attempt\n"
    farm.run("report", "job", "--captured", "--extract", "again")
    made = {path.relative_to(farm.cwd / "again") for path in (farm.cwd / "again").rglob("*.npy")}
    assert made == {Path("1/out-1.npy"), Path("2/out-2.npy"), Path("3/out-3.npy"), Path("5/out-5.npy")}
    for number in (2, 3, 5):
        assert (farm.cwd / f"again/{number}/out-{number}.npy").read_bytes() == (
            farm.cwd / f"out-{number}.npy"
        ).read_bytes()
    farm.run("export", "job", "job.h5")
    assert farm.run("report", "job.h5.1-5", "--captured")[0] == listed
    farm.run("verify", "job.h5")
    monkeypatch.chdir(farm.cwd)
    monkeypatch.setenv("MPIFARM_DSN", farm.environ["MPIFARM_DSN"])
    with mpifarm.open_job("job") as job:
        array = job.captured(3)["out-3.npy"].array
        assert array.dtype == np.arange(1).dtype and (array == np.arange(6).reshape(2, 3)).all()
        assert job.captured(4) == {} and job.notes(4)
        with pytest.raises(mpifarm.FarmError, match="is no array"):
            _ = job.captured(5)["out-5.npy"].array


def test_hostile_files_through_a_run(farm: Farm) -> None:
    hostile = "mkfifo 1a.npy; ln -s /etc/passwd 1b.npy; mkdir 1c.npy; echo ok > $'1\\n\\xff.npy'"
    lines = [hostile, "mkdir many2; cd many2; touch {1..8999}; echo last > x"]
    farm.submit(lines, "job", "--capture", "{task}*.npy", "--capture", "many{task}/*")
    farm.run("run", "--cpus", "2", ranks=2)
    listed, said = farm.run("report", "job.1", "--captured")
    assert listed == b"1\t3\t1\\n\\udcff.npy\n"
    assert "1a.npy: a named pipe, not taken" in said and "1b.npy: a symbolic link, not taken" in said
    assert len(farm.run("report", "job.2", "--captured")[0].splitlines()) == 9_000
    farm.run("report", "job", "--captured", "--extract", "out")
    assert (Path(os.fsdecode(os.fsencode(farm.cwd) + b"/out/1/1\n\xff.npy"))).read_bytes() == b"ok\n"
    assert (farm.cwd / "out/2/many2/x").read_bytes() == b"last\n"
    assert len(list((farm.cwd / "out/2/many2").iterdir())) == 9_000
