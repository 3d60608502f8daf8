"""`mpifarm export`: a job of several runs in one file, and everything that reads it where there is no queue."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import h5py
import pytest

import mpifarm
from mpifarm.cli import main
from mpifarm.outputs.source import file_named
from mpifarm.server.dsn import Dsn
from tests.reporting.test_whole import Answer, PlayedRun

pytestmark = pytest.mark.postgres

ROOT = Path(__file__).parents[2]
NO_QUEUE = {"MPIFARM_DSN": "host=/nowhere dbname=none"}
Typed = Callable[..., Answer]


@pytest.fixture
def typed(
    pg_dsn: Dsn, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfdbinary: pytest.CaptureFixture[bytes]
) -> Typed:
    """A command line; `queue=False` where no queue is."""
    monkeypatch.chdir(tmp_path)

    def run(*argv: str, queue: bool = True) -> Answer:
        monkeypatch.setenv("MPIFARM_DSN", pg_dsn.text if queue else NO_QUEUE["MPIFARM_DSN"])
        code = main.main(argv)
        out, err = capfdbinary.readouterr()
        return Answer(code, out, err.decode())

    return run


@pytest.fixture
def runs(pg_dsn: Dsn, tmp_path: Path) -> Iterator[list[PlayedRun]]:
    made = [PlayedRun(pg_dsn, tmp_path / f"run-{number}.h5") for number in (1, 2, 3)]
    yield made
    for run in made:
        run.close()


@pytest.fixture
def job(typed: Typed, runs: list[PlayedRun], tmp_path: Path) -> str:
    """`scan`: 40 tasks, of which three runs did 30, beside another job."""
    (tmp_path / "other.txt").write_bytes(b"echo other\n" * 10)
    (tmp_path / "scan.txt").write_bytes(b"".join(b"echo %d \xff\n" % task for task in range(1, 41)))
    assert typed("submit", "other.txt").code == 0
    assert typed("submit", "scan.txt", "--tag", "kind=test").code == 0
    runs[0].work(10)  # of the other job
    for run, count in zip(runs, (12, 8, 10)):
        run.work(count)
        run.end()
    return "scan"


LOOKS = [
    ("report", "JOB", "--tasks", "1-30"),
    ("report", "JOB", "--tasks", "5,25", "--both"),
    ("report", "JOB.17"),
    ("report", "JOB.17,19"),
    ("report", "JOB", "--tasks", "30-32"),
    ("report", "JOB", "--grep", "out .*7"),
    ("report", "JOB", "--grep", "bad", "--stderr", "--where", "task > 12 and state = failed"),
    ("report", "JOB", "--tasks", "3", "--attempt", "1"),
    ("tasks", "JOB"),
    ("tasks", "JOB", "--json"),
    ("tasks", "JOB", "--state", "failed", "--format", "csv"),
    ("tasks", "JOB", "--state", "pending", "--tasks", "20-33,31-35,9"),
    ("tasks", "JOB", "--format", "joblog"),
    ("tasks", "JOB", "--as-taskfile", "--state", "failed"),
]


@pytest.mark.parametrize("look", LOOKS, ids=" ".join)
def test_an_export_says_what_the_queue_says(typed: Typed, job: str, look: tuple[str, ...]) -> None:
    assert typed("export", job, "scan.h5") == (0, b"", "")
    assert Path("scan.h5").stat().st_mode & 0o777 == 0o600, "as the run files that are in it"
    for file in Path().glob("run-*.h5"):
        file.unlink()
    missing = typed("report", job, "--tasks", "3")
    assert missing.code == 5, missing
    there = typed(*(word.replace("JOB", "scan.h5") for word in look), queue=False)
    here = typed(*(word.replace("JOB", job) for word in look)) if look[0] == "tasks" else None
    if here is not None:
        assert there == here
    assert "nowhere" not in there.err
    assert there.out or there.code


def test_outputs_of_an_export(typed: Typed, job: str) -> None:
    wanted = [typed(*(word.replace("JOB", job) for word in look)) for look in LOOKS[:8]]
    assert typed("report", job, "--extract", "before").code == 1
    assert typed("export", job, "scan.h5") == (0, b"", "")
    for file in Path().glob("run-*.h5"):
        file.unlink()
    seen = [typed(*(word.replace("JOB", "scan.h5") for word in look), queue=False) for look in LOOKS[:8]]
    assert seen == wanted
    assert typed("report", "scan.h5", "--extract", "after", queue=False).code == 1
    before, after = ({path.name: path.read_bytes() for path in Path(name).iterdir()} for name in ("before", "after"))
    assert before == after
    assert len(after) == 36


def test_report_of_an_export(typed: Typed, job: str) -> None:
    before = json.loads(typed("report", job, "--json").out)
    assert typed("export", job, "scan.h5") == (0, b"", "")
    for file in Path().glob("run-*.h5"):
        file.unlink()
    after = json.loads(typed("report", "scan.h5", "--json", queue=False).out)
    for run in (*before["runs"], *after["runs"]):
        del run["state"], run["seconds"], run["utilisation"]
    before["next"] = after["next"] = ""
    assert after == before
    said = typed("report", "./scan.h5", queue=False)
    assert said.code == 0
    assert "kind=test" in said.out.decode()
    assert typed("report", "scan.h5", "--html", "scan.html", queue=False).code == 0
    assert "waiting" in Path("scan.html").read_text()
    assert "missing here" not in Path("scan.html").read_text()


def test_an_export_in_python_and_in_plain_h5py(typed: Typed, job: str, monkeypatch: pytest.MonkeyPatch) -> None:
    assert typed("export", job, "scan.h5").code == 0
    monkeypatch.setenv("MPIFARM_DSN", NO_QUEUE["MPIFARM_DSN"])
    for file in Path().glob("run-*.h5"):
        file.unlink()
    with mpifarm.open_job("scan.h5") as exported:
        assert (exported.name, len(exported)) == ("scan", 40)
        assert exported.stdout(27) == b"out 27\n\xff"
        assert [task.task for task in exported.tasks("state = failed")] == [5, 10, 15, 20, 25, 30]
        assert next(exported.tasks()).command == b"echo 1 \xff"
    with mpifarm.open_run("scan.h5") as run:
        assert len(run) == 30
        assert run.stdout(13) == b"out 13\n\xff"
    with h5py.File("scan.h5", "r") as f:
        row = next(r for r in f["attempts"] if r["task"] == 17)
        pieces = f["extents"][row["extent_lo"] : row["extent_hi"]]
        mine = [p for p in pieces if p["task"] == 17 and p["stream"] == 1]
        assert (
            b"".join(f["bytes"][p["position"] : p["position"] + p["length"]].tobytes() for p in mine) == b"out 17\n\xff"
        )
        assert (f["attempts"]["job"] == 2).all()


def test_missing_files_are_named(typed: Typed, job: str) -> None:
    Path("run-2.h5").rename("moved.h5")
    said = typed("export", job, "scan.h5")
    assert said.code == 5
    assert f"{Path.cwd() / 'run-2.h5'}: no such file or directory (outputs of 8 tasks)" in said.err
    assert not Path("scan.h5").exists()
    said = typed("export", job, "scan.h5", "--missing-ok")
    assert said.code == 5
    assert "lacks the outputs of 8 tasks" in said.err
    assert typed("report", "scan.h5", "--tasks", "12,21", queue=False).out == b"out 12\n\xffout 21\n\xff"
    said = typed("report", "scan.h5", "--tasks", "12-21", queue=False)
    assert (said.code, said.out) == (5, b"out 12\n\xffout 21\n\xff")
    assert said.err.startswith("mpifarm: task 13-20: cannot open run file")


def test_it_never_overwrites_and_leaves_nothing_behind(typed: Typed, job: str) -> None:
    Path("scan.h5").write_text("precious")
    said = typed("export", job, "scan.h5")
    assert (said.code, "exists already" in said.err) == (2, True)
    assert Path("scan.h5").read_text() == "precious"
    assert typed("export", job, "scan.h5", "--force").code == 0
    assert typed("report", "scan.h5.1", queue=False).out == b"out 1\n\xff"
    assert not [path for path in Path().iterdir() if path.name.startswith(".")]
    assert typed("export", job, "scan").code == 2


def test_every_attempt(typed: Typed, job: str, runs: list[PlayedRun]) -> None:
    assert typed("rerun", "scan.3", "--force").code == 0
    assert typed("export", job, "one.h5").code == 0
    assert typed("export", job, "all.h5", "--attempt", "all").code == 0
    for name, count in (("one.h5", 29), ("all.h5", 30)):
        with h5py.File(name, "r") as file:
            assert len(file["attempts"]) == count
    assert typed("report", "all.h5.3", "--attempt", "all", queue=False).out == b"out 3\n\xff"
    assert typed("report", "one.h5.3", queue=False).code == 1
    assert runs


def test_file_names(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("a.h5").touch()
    assert file_named("a.h5") == Path("a.h5") == file_named("a.h5.3,7-9")
    assert file_named("b.h5") is None
    assert file_named("a") is None
    with pytest.raises(mpifarm.FarmError, match=r"no file there/b\.h5"):
        file_named("there/b.h5")


def test_a_run_file_is_told_from_an_export(typed: Typed, job: str) -> None:
    said = typed("report", "run-1.h5", queue=False)
    assert (said.code, "not an exported job" in said.err) == (5, True)
    assert job


def test_as_a_process_with_no_queue_at_all(typed: Typed, job: str, tmp_path: Path) -> None:
    assert typed("export", job, "scan.h5").code == 0
    done = subprocess.run(
        [sys.executable, "-m", "mpifarm", "report", "scan.h5", "--tasks", "2"],
        env={**os.environ, **NO_QUEUE, "PYTHONPATH": str(ROOT)},
        cwd=tmp_path, capture_output=True, timeout=60, check=True,
    )  # fmt: skip
    assert done.stdout == b"out 2\n\xff"
