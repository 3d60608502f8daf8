"""What a shell may leave around a process: a sentence or nothing, never a traceback."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow

MPIFARM = [sys.executable, "-m", "mpifarm"]


def run(argv: list[str], before: str = "", **variables: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        ["bash", "-c", f'{before} exec "$@"', "bash", *argv],
        capture_output=True, text=True, timeout=60, check=False, stdin=subprocess.DEVNULL, env=os.environ | variables,
    )  # fmt: skip


@pytest.mark.parametrize("words", [["report"], ["submit", "x"], ["run", "--local", "2"], ["run"], ["wait", "x"]])
def test_a_working_directory_that_was_removed(tmp_path: Path, words: list[str]) -> None:
    gone = tmp_path / "gone"
    gone.mkdir()
    done = run([*MPIFARM, *words], f"cd {gone}; rmdir {gone};")
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == (
        f"mpifarm: the working directory ({gone}) has been removed: go to one that exists, and try again\n"
    )


@pytest.mark.parametrize("rank", ["PMI_RANK", "OMPI_COMM_WORLD_RANK", "PMIX_RANK", "SLURM_PROCID"])
def test_of_many_ranks_one_says_so(tmp_path: Path, rank: str) -> None:
    (tmp_path / "gone").mkdir()
    gone = f"cd {tmp_path}/gone; rmdir ../gone;"
    assert run([*MPIFARM, "run"], gone, **{rank: "3"}).stderr == ""


@pytest.mark.parametrize(("words", "code"), [(["--version"], 0), (["report", "--nonsense"], 2), (["run", "-h"], 0)])
def test_no_prompt_at_the_end(words: list[str], code: int) -> None:
    done = run([*MPIFARM, *words], PYTHONINSPECT="1")
    assert done.returncode == code and "Traceback" not in done.stderr
    plain = run([*MPIFARM, *words])
    assert (done.stdout, done.stderr) == (plain.stdout, plain.stderr)
