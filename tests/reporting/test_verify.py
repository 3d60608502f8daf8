"""`mpifarm verify`: exit 0 only when every task is in one place and every recorded output is in its file."""

from __future__ import annotations

import json
from pathlib import Path

import h5py
import psycopg
import pytest

from mpifarm.server.dsn import Dsn
from tests.reporting.test_export import Typed, job, runs, typed  # noqa: F401 - fixtures
from tests.reporting.test_whole import PlayedRun

pytestmark = pytest.mark.postgres


def set_field(path: Path, row: int, **values: int) -> None:
    """Alter one row of `attempts`, as a bit flip does."""
    with h5py.File(path, "r+") as file:
        rows = file["attempts"][row : row + 1]
        for name, value in values.items():
            rows[name] = value
        file["attempts"][row : row + 1] = rows


def test_all_is_well(typed: Typed, job: str, runs: list[PlayedRun]) -> None:  # noqa: F811
    said = typed("verify", job)
    assert (said.code, said.err) == (0, ""), said
    assert said.out == b"job scan: 40 tasks, each in one place; 30 recorded outputs, each in its file as written\n"
    assert typed("verify").out.count(b"\n") == 2
    assert json.loads(typed("verify", "--json").out)["proved"] is True
    assert typed("export", job, "scan.h5").code == 0
    assert typed("verify", "scan.h5", queue=False).code == 0
    for run in runs:
        run.close()
    assert typed("verify", "run-1.h5", queue=False).out.endswith(b"22 attempts, the output of each as written\n")


def test_damage_is_told_by_task(typed: Typed, job: str, runs: list[PlayedRun], tmp_path: Path) -> None:  # noqa: F811
    for run in runs:
        run.close()
    set_field(tmp_path / "run-1.h5", 10, task=99)  # task 1 of scan
    set_field(tmp_path / "run-1.h5", 12, stdout_crc32=1)
    set_field(tmp_path / "run-2.h5", 3, extent_hi=2**62)  # harmless: its extents are found all the same
    set_field(tmp_path / "run-3.h5", 0, state=7)
    (tmp_path / "run-2.h5").rename(tmp_path / "away.h5")
    said = typed("verify", job)
    assert said.code == 6
    assert said.out.decode().splitlines() == [
        f"job scan: task 1,3: its row in {tmp_path}/run-1.h5 is not the one that was recorded",
        f"job scan: task 13-20: cannot open run file {tmp_path}/run-2.h5: no such file or directory",
        f"job scan: task 21: its row in {tmp_path}/run-3.h5 is not the one that was recorded",
    ]
    seen = json.loads(typed("verify", job, "--json").out)
    assert [damage["tasks"] for damage in seen["jobs"][0]["damaged"]] == ["1,3", "13-20", "21"]
    assert typed("verify", "run-1.h5", queue=False).code == 6
    (tmp_path / "away.h5").rename(tmp_path / "run-2.h5")
    assert b"13-20" not in typed("verify", job).out


def test_another_output_that_agrees_with_itself(
    typed: Typed,  # noqa: F811
    job: str,  # noqa: F811
    runs: list[PlayedRun],  # noqa: F811
    tmp_path: Path,
) -> None:
    """A row altered so that it makes sense: only the queue can tell."""
    for run in runs:
        run.close()
    set_field(tmp_path / "run-3.h5", 2, stdout_bytes=0, stdout_crc32=0)
    said = typed("verify", job)
    assert (said.code, "task 23: its row" in said.out.decode()) == (6, True)
    assert typed("report", f"{job}.23").code == 5


def test_a_task_that_is_nowhere(typed: Typed, job: str, pg_dsn: Dsn) -> None:  # noqa: F811
    with psycopg.connect(pg_dsn.text, autocommit=True) as connection:
        connection.execute("DELETE FROM mpifarm.outcome WHERE job = 2 AND no BETWEEN 4 AND 6")
    said = typed("verify", job)
    assert (said.code, said.out) == (6, b"job scan: tasks 4 to 6 are nowhere\n")


def test_every_flipped_bit_of_a_chunk_is_seen(typed: Typed, job: str, runs: list[PlayedRun], tmp_path: Path) -> None:  # noqa: F811
    for run in runs:
        run.close()
    path = tmp_path / "run-3.h5"
    with h5py.File(path) as file:
        stored = file["bytes"].id.get_chunk_info(2)
    whole = bytearray(path.read_bytes())
    for bit in range(0, stored.size * 8, 41):
        at, mask = stored.byte_offset + bit // 8, 1 << bit % 8
        whole[at] ^= mask
        path.write_bytes(whole)
        said = typed("verify", "run-3.h5", queue=False)
        output = typed("report", f"{job}.23")
        assert (said.code, output.code) == (6, 5) or output.out == b"out 23\n\xff", bit
        whole[at] ^= mask
