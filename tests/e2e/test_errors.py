"""Errors a user can act on: what is wrong, where, what to do; never a traceback."""

from __future__ import annotations

import json
import shlex
import subprocess
from pathlib import Path

import pytest

from mpifarm.startup.own_process import own_command
from tests.fix_farm import Farm

pytestmark = [pytest.mark.postgres, pytest.mark.mpi_outside]


def _wrong(farm: Farm, *arguments: str, code: int, ranks: int = 0, **more: object) -> str:
    _, said = farm.run(*arguments, ranks=ranks, code=code, **more)
    assert "Traceback" not in said
    assert "mpifarm: " in said
    return said


def test_no_postgres(farm: Farm) -> None:
    dsn = {"MPIFARM_DSN": "postgresql://me:secret@localhost:1/none?sslmode=disable"}
    for ranks in (0, 3):
        command = ("run",) if ranks else ("report",)
        said = _wrong(farm, *command, code=4, ranks=ranks, environ=dsn)
        assert "localhost" in said
        assert "port 1" in said
        assert "sslmode" in said
        assert "secret" not in said
        assert said.count("mpifarm: ") == 1


def test_bad_line_queues_nothing(farm: Farm) -> None:
    (farm.cwd / "bad.txt").write_text("true\necho 'open\n")
    said = _wrong(farm, "submit", "bad.txt", code=2)
    assert "bad.txt:2:6" in said
    assert said.rstrip().endswith("^")
    assert farm.run("report", "--json")[0].strip() == b"[]"


def test_unknown_job_names_its_neighbours(farm: Farm) -> None:
    farm.submit(["true"], "spectra")
    assert "spectra" in _wrong(farm, "report", "spectre", code=2)


def test_singletons_are_told_from_a_world(farm: Farm) -> None:
    """As under srun with the wrong --mpi: N copies, each alone, all told by the launcher that they are N."""
    farm.submit(["true"])
    copies = [
        farm.start("run", environ={"SLURM_STEP_NUM_TASKS": "3", "SLURM_PROCID": str(index)}) for index in range(3)
    ]
    said = [farm.finish(copy, code=3)[1] for copy in copies]
    assert "--mpi=" in said[0]
    assert "3 separate copies" in said[0]
    assert said[1:] == ["", ""]
    assert farm.report()["tasks"]["pending"] == 1


def test_a_launcher_of_another_protocol_is_told_before_mpi_starts(farm: Farm) -> None:
    """MPICH would abort with a page of its own when it finds the variables of PMIx."""
    farm.submit(["true"])
    environ = {"PMIX_NAMESPACE": "x", "OMPI_COMM_WORLD_SIZE": "2"}
    copies = [farm.start("run", environ={**environ, "OMPI_COMM_WORLD_RANK": str(index)}) for index in range(2)]
    said = [farm.finish(copy, code=3)[1] for copy in copies]
    assert "--mpi=" in said[0] and "Abort" not in said[0]
    assert said[1] == ""


def test_a_task_does_not_see_the_dsn_of_its_run(farm: Farm) -> None:
    dsn = farm.environ["MPIFARM_DSN"]
    farm.submit(["env", shlex.join(own_command("report"))])
    farm.run("run", ranks=2)
    assert dsn.encode() not in farm.output("1")
    assert b"--pass-dsn" in farm.output("2", "job", "--stderr")
    farm.submit(["env"], "asked")
    farm.run("run", "--pass-dsn", "--dsn", dsn, ranks=2)
    assert f"MPIFARM_DSN={dsn}\n".encode() in farm.output("1", "asked")


def test_unwritable_output_directory(farm: Farm) -> None:
    farm.submit(["true"])
    (farm.cwd / "nowhere").write_text("a file")
    missing = str(farm.cwd / "nowhere" / "deep")
    assert missing in _wrong(farm, "run", "--output", missing, code=5, ranks=2)
    assert farm.report()["tasks"]["pending"] == 1


def test_newer_run_file(farm: Farm) -> None:
    farm.submit(["echo x"])
    farm.run("run", ranks=1)
    import h5py

    from mpifarm.runfile.format import VERSION_ATTRIBUTE

    with h5py.File(farm.cwd / "mpifarm-run-1.h5", "r+") as file:
        file.attrs[VERSION_ATTRIBUTE] = 999
    said = _wrong(farm, "report", "job", "--tasks", "1", code=5)
    assert "999" in said


def test_newer_schema(farm: Farm) -> None:
    import psycopg

    farm.submit(["true"])
    with psycopg.connect(farm.environ["MPIFARM_DSN"]) as connection:
        connection.execute("UPDATE mpifarm.meta SET version = 999")
    for command, ranks in ((("report",), 0), (("run",), 2)):
        assert "999" in _wrong(farm, *command, code=4, ranks=ranks)


def test_wrong_options_of_run(farm: Farm) -> None:
    _, said = farm.run("run", "--nonsense", ranks=3, code=2)
    assert said.count("No such option") == 1
    assert "Traceback" not in said


def test_no_mpi_library(farm: Farm, tmp_path: Path) -> None:
    """An mpi4py that finds no MPI (here: one that cannot be imported) is explained."""
    fake = tmp_path / "fake"
    (fake / "mpi4py").mkdir(parents=True)
    (fake / "mpi4py" / "__init__.py").write_text("class rc: pass\n")
    (fake / "mpi4py" / "MPI.py").write_text("raise RuntimeError('cannot load MPI library')\n")
    said = _wrong(farm, "run", code=3, environ={"PYTHONPATH": f"{fake}:{farm.environ['PYTHONPATH']}"})
    assert "cannot load MPI library" in said
    assert "pip install" in said


def test_help_needs_no_mpi(farm: Farm) -> None:
    for command in ("run", "submit", "report", "tasks"):
        out, _ = farm.run(command, "--help", environ={"MPI4PY_MPIABI": "none"})
        assert b"mpifarm " + command.encode() in out


def test_interrupted_submit_leaves_nothing(farm: Farm) -> None:
    process = farm.start("submit", "-", stdin=subprocess.PIPE)
    assert process.stdin is not None
    process.stdin.write(b"echo x\n" * 100_000)
    process.stdin.flush()
    process.send_signal(2)
    _, said = farm.finish(process, code=130)
    assert "nothing" in said
    assert farm.run("report", "--json")[0].strip() == b"[]"


@pytest.mark.parametrize("words", [("--jobs", "typo"), ("--jobs", "8"), ("--jobs", "job,typo"), ("--jobs", "job.1")])
def test_a_run_for_a_job_that_is_none_does_not_begin(farm: Farm, words: tuple[str, ...]) -> None:
    farm.submit(["echo a"])
    _, said = farm.run("run", *words, ranks=2, code=2)
    assert "no job is called" in said and "there is job" in said
    assert json.loads(farm.run("runs", "--json")[0]) == [] and not list(farm.cwd.glob("*.h5"))


def test_a_run_for_a_tag_that_no_job_has_says_so(farm: Farm) -> None:
    """A tag may come later, so that is no error, but no file is made for it; with work to wait for the run waits."""
    farm.submit(["echo a"])
    _, said = farm.run("run", "--tags", "nosuch", ranks=1)
    assert "no job has a tag like nosuch now" in said and "nothing to do" in said
    assert json.loads(farm.run("runs", "--json")[0]) == [] and not list(farm.cwd.glob("*.h5"))
    out, said = farm.run("run", "--tags", "nosuch,*", ranks=1)
    assert "no job has a tag like nosuch now" in said and b"1 succeeded" in out


def test_a_run_for_the_last_job(farm: Farm) -> None:
    farm.submit(["echo a"])
    farm.submit(["echo b", "echo c"], "more")
    out, _ = farm.run("run", "--jobs", "last", ranks=1)
    assert b"2 succeeded" in out
    out, _ = farm.run("run", "--jobs", "1", ranks=1)
    assert b"1 succeeded" in out
