"""What batch systems say of an allocation, as they say it."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from mpifarm.rank.allocation import Allocation, clock_s, find_allocation


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("59", 59),
        ("1:05", 65),
        ("2:00:01", 7201),
        ("1-00:00:00", 86400),
        ("UNLIMITED", None),
        ("", None),
        ("x:1", None),
    ],
)
def test_clocks(text: str, seconds: float | None) -> None:
    assert clock_s(text) == seconds


def test_variables_tell() -> None:
    assert find_allocation({}) == Allocation()
    assert find_allocation({"SLURM_JOB_ID": "7", "SLURM_JOB_END_TIME": "1764270000"}).ends == 1764270000
    assert find_allocation({"COBALT_JOBID": "7", "COBALT_ENDTIME": "1764270000.5"}).ends == 1764270000.5
    assert find_allocation({"SLURM_JOB_ID": "7", "SLURM_JOB_END_TIME": "soon"}) == Allocation("slurm", "7")
    assert find_allocation({"JOB_ID": "7"}, ask=True) == Allocation("sge", "7")


PBS = """Job Id: 7.head
    resources_used.walltime = 00:10:00
    Resource_List.ncpus = 4
    Resource_List.walltime = 01:00:00
"""


@pytest.mark.parametrize(
    ("variable", "program", "says", "left_s"),
    [
        ("SLURM_JOB_ID", "squeue", "1-00:00:30\n", 86430),
        ("SLURM_JOB_ID", "squeue", "UNLIMITED\n", None),
        ("PBS_JOBID", "qstat", PBS, 3000),
        ("LSB_JOBID", "bjobs", "JOBID USER STAT TIME_LEFT\n7 me RUN 2:30 L\n", 9000),
        ("FLUX_JOB_ID", "flux", "1234.5\n", 1234),
    ],
)
def test_commands_tell(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, variable: str, program: str, says: str, left_s: float | None
) -> None:
    (tmp_path / "says").write_text(says)
    command = tmp_path / program
    command.write_text(f"#!/bin/sh\ncat {tmp_path}/says\n")
    command.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    assert find_allocation({variable: "7"}).ends is None  # a rank that may not ask
    ends = find_allocation({variable: "7"}, ask=True).ends
    assert ends is None if left_s is None else ends is not None and abs(ends - time.time() - left_s) < 10


def test_a_command_that_is_not_there_or_fails(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert find_allocation({"SLURM_JOB_ID": "7"}, ask=True) == Allocation("slurm", "7")


def test_an_element_of_an_array_asks_for_its_own_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The master element has the number of the array, and for that squeue tells the ends of all elements."""
    command = tmp_path / "squeue"
    command.write_text('#!/bin/sh\ncase "$*" in *7_4*) echo 1:00;; *) echo 2:00; echo 3:00;; esac\n')
    command.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    found = find_allocation({"SLURM_JOB_ID": "7", "SLURM_ARRAY_JOB_ID": "7", "SLURM_ARRAY_TASK_ID": "4"}, ask=True)
    assert found.ends is not None and found.id == "7" and abs(found.ends - time.time() - 60) < 10
