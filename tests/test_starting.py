"""How processes of mpifarm start: from nowhere but its own installation; quietly, when interrupted at once."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from mpifarm.startup.own_process import INTERRUPTED, own_command
from tests.fix_farm import Farm
from tests.fix_mpi import ROOT

SCRIPT = Path(sys.executable).with_name("mpifarm")
OTHERS = ("mpifarm", "numpy", "h5py", "mpi4py", "click", "psycopg", "rich", "isal", "tomli", "hdf5plugin", "lfs")
TRAP = "import os\nopen(os.environ['TRAPPED'], 'a').write(__file__ + '\\n')\nraise SystemExit(0)\n"


@pytest.fixture
def trapped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A file that names what was imported from `tmp_path`, where every module of Python and ours has a namesake."""
    for name in {*sys.stdlib_module_names, *OTHERS, *(path.stem for path in (ROOT / "mpifarm").iterdir())}:
        (tmp_path / f"{name}.py").write_text(TRAP)
    seen = tmp_path / "trapped.txt"
    monkeypatch.setenv("TRAPPED", str(seen))
    monkeypatch.chdir(tmp_path)
    return seen


def _ends(command: list[str], environ: dict[str, str]) -> str:
    done = subprocess.run(
        command, env={**os.environ, **environ}, capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.slow
@pytest.mark.parametrize("command", [[str(SCRIPT)], own_command(), [sys.executable, "-m", "mpifarm"]])
def test_nothing_comes_from_the_working_directory(trapped: Path, command: list[str]) -> None:
    if "-m" in command:
        (trapped.parent / "mpifarm.py").unlink()  # with it, Python does not even look for ours
        for name in sys.stdlib_module_names - {"queue", "random"}:  # what Python's own way to a module takes
            (trapped.parent / f"{name}.py").unlink()
    said = _ends([*command, "submit", "--help"], {})
    assert "mpifarm submit" in said
    assert not trapped.exists(), trapped.read_text()


@pytest.mark.slow
@pytest.mark.parametrize("path", ["", ".", "{here}", "{root}:", "{link}"])
def test_nor_by_way_of_pythonpath(trapped: Path, path: str) -> None:
    """An empty entry, as `PYTHONPATH=$PYTHONPATH:/x` makes one, is the working directory too."""
    here = trapped.parent
    for file in here.glob("*.py"):  # Python itself looks there for its own modules, before any of ours
        if file.stem not in ("queue", "random", "process", *OTHERS):
            file.unlink()
    (here / "mpifarm.py").unlink()  # the user says so, by name: it is for Python to obey
    (here / "link").symlink_to(here)
    value = path.format(here=here, root=ROOT, link=here / "link")
    said = _ends([str(SCRIPT), "submit", "--help"], {"PYTHONPATH": value})
    assert "mpifarm submit" in said
    assert not trapped.exists(), trapped.read_text()


@pytest.mark.postgres
@pytest.mark.mpi_outside
def test_a_whole_run_among_namesakes(trapped: Path, farm: Farm) -> None:
    """Ranks, launcher, guardian; and a task's own Python has its habits."""
    farm.environ.pop("PYTHONPATH")

    def typed(*words: str) -> str:
        return _ends([str(SCRIPT), *words], farm.environ)

    (trapped.parent / "sim.py").write_text("import queue\n")
    typed("submit", "--name", "job", "--", f"{sys.executable} sim.py")
    assert "1 succeeded" in typed("run", "--local", "2")
    assert set(trapped.read_text().splitlines()) == {str(trapped.parent / "queue.py")}, "by the task alone"
    typed("report", "job", "--html", "page.html")
    typed("export", "job", "job.h5")
    assert len(trapped.read_text().splitlines()) == 1


@pytest.mark.postgres
@pytest.mark.mpi_outside
@pytest.mark.parametrize("words", [("report",), ("run",), ("run", "--local", "3")])
def test_ctrl_c_in_the_first_second(farm: Farm, words: tuple[str, ...]) -> None:
    """Before and while modules are imported, MPI starts, the queue is opened."""
    farm.submit(["sleep 30"])
    for tenth in range(4, 11, 3):  # what comes before is Python's own start
        process = farm.start(*words)
        signal.sigtimedwait([], tenth / 10)  # the moment is what is tried
        os.killpg(process.pid, signal.SIGINT)
        _, said = farm.finish(process, code=None, deadline_s=60)
        # 2 is mpiexec's own, interrupted before it had started all ranks
        assert process.returncode in (0, INTERRUPTED, -signal.SIGINT, *[2] * ("--local" in words)), said
        assert "Traceback" not in said and "BAD TERMINATION" not in said, (tenth, said)
