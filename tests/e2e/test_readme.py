"""README.md cannot rot: its commands are run, in order, in one directory, as a user would type them."""

from __future__ import annotations

import platform
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.fix_farm import Farm
from tests.fix_mpi import ROOT

pytestmark = [pytest.mark.postgres, pytest.mark.mpi_outside]

README = (ROOT / "README.md").read_text()


def _blocks(kind: str) -> list[str]:
    return re.findall(rf"<!-- {kind} -->\n```\w*\n(.*?)\n```", README, re.DOTALL)


def _shell(farm: Farm, command: str, deadline_s: float = 1200.0) -> str:
    """Run it with this environment's programs first on PATH, as an activated environment has them."""
    path = f"{Path(sys.executable).parent}:{farm.environ['PATH']}"
    done = subprocess.run(
        ["bash", "-c", command],
        cwd=farm.cwd,
        env={**farm.environ, "PATH": path},
        capture_output=True,
        text=True,
        timeout=deadline_s,
        check=False,
    )
    assert done.returncode == 0, f"{command}\n{done.stdout}\n{done.stderr}"
    return done.stdout


def test_commands(farm: Farm) -> None:
    (farm.cwd / "tasks.txt").write_text("echo one\necho two >&2; exit 2\necho three\necho four\n")
    (farm.cwd / "more.txt").write_text("echo five\necho six\n")
    said = ""
    for block in _blocks("commands"):
        for command in block.splitlines():
            said += _shell(farm, command)
    assert "2 succeeded" in said or "3 succeeded" in said
    assert (farm.cwd / "outputs").is_dir()


def _told(line: str) -> str:
    """What a line says, whatever the machine, the folder and the clock."""
    line = re.sub(r"(?<!\w)/\S+", "PATH", line.replace(platform.node(), "vm"))
    return " ".join(re.sub(r"\d[\d.,:-]*( ?(ms|s|%)(?!\w))?", "N", line).split())


def test_what_the_commands_say(farm: Farm) -> None:
    (farm.cwd / "tasks.txt").write_text("echo one\necho two >&2; exit 2\necho three\necho four\n")
    (block,) = _blocks("said")
    for command, *lines in (each.splitlines() for each in block.removeprefix("$ ").split("\n$ ")):
        said = [_told(line) for line in _shell(farm, command).splitlines()]
        assert [told for line in lines if (told := _told(line)) not in said] == [], said


def test_plain_h5py(farm: Farm) -> None:
    farm.submit([f"echo this is task {number}" for number in range(1, 31)])
    farm.run("run", ranks=2)
    (code,) = _blocks("h5py")
    assert len(code.splitlines()) == 5
    done = subprocess.run([sys.executable, "-c", code], cwd=farm.cwd, capture_output=True, text=True, timeout=60)
    assert done.stdout == "this is task 17\n\n", done.stderr


def test_main_job_on_real_molecules(farm: Farm) -> None:
    """What the first command of README does after its installation: quantum chemistry of the G2 molecules."""
    (main,) = _blocks("main")
    assert "bash jobscripts/laptop.sh" in main
    said = _shell(farm, f"bash {ROOT / 'jobscripts' / 'laptop.sh'} here")
    assert "162" in said
    work = farm.cwd / "here"
    energies = _shell(farm, "mpifarm report last --tasks 1-162").splitlines()
    assert len(energies) == 162
    numbers = dict(line.split(" ", 1) for line in energies)
    # The published total energy of water with GFN2-xTB, in hartree.
    assert "energy_hartree=-5.07" in numbers["H2O"]
    assert [path.name for path in work.glob("*.h5")] == ["mpifarm-run-1.h5"]


def test_every_command_has_an_example(farm: Farm) -> None:
    for command in ("submit", "run", "report", "tasks"):
        said = _shell(farm, f"mpifarm {command} --help")
        assert f"mpifarm {command}" in said.partition("xample")[2], said


def test_ci_runs_the_test_command(tmp_path: Path) -> None:
    """`.ci/run` finds the command in README.md and stops when it fails (here: a command that only fails)."""
    (tmp_path / ".ci").mkdir()
    shutil.copy(ROOT / ".ci" / "run", tmp_path / ".ci" / "run")
    (tmp_path / "README.md").write_text(README.replace(_blocks("test")[0], "echo ran && exit 7"))
    for words in (["init", "-q"], ["add", "-A"], ["-c", "user.name=x", "-c", "user.email=x@y", "commit", "-qm", "x"]):
        subprocess.run(["git", *words], cwd=tmp_path, check=True, timeout=30)
    done = subprocess.run(["bash", ".ci/run"], cwd=tmp_path, capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, "ran" in done.stdout.splitlines()) == (7, True), done.stderr
    assert "python -m tests" in _blocks("test")[0]
