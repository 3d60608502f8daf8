"""Run files and exports as people read them who have no mpifarm: h5dump, where it is installed."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import h5py
import pytest

from tests.runfile.damage import SEED, make
from tests.runfile.gather import content

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(shutil.which("h5dump") is None, reason="no h5dump (Debian: hdf5-tools)"),
]


def h5dump(*words: str) -> str:
    done = subprocess.run(["h5dump", *words], capture_output=True, text=True, timeout=60, check=True)
    return done.stdout


def field(dump: str, number: int) -> int:
    """One of the values of the row that was dumped."""
    values = re.findall(r"^\s+(-?[\d.e+]+),?$", dump, re.MULTILINE)
    return int(values[number])


def test_h5dump_gives_an_output(tmp_path: Path) -> None:
    path = tmp_path / "run.h5"
    make(path, finished=True)
    task = next(task for task in range(1, 100) if 0 < len(content(SEED, task, 1)) < 10_000)
    with h5py.File(path, "r") as file:
        names = file["attempts"].dtype.names
    row = h5dump("-d", "/attempts", "-s", str(task - 1), "-c", "1", str(path))
    lo = field(row, names.index("extent_lo"))
    assert field(row, names.index("task")) == task
    extent = h5dump("-d", "/extents", "-s", str(lo), "-c", "1", str(path))
    length, position = field(extent, 4), field(extent, 5)
    out = tmp_path / "out"
    h5dump("-d", "/bytes", "-s", str(position), "-c", str(length), "-b", "LE", "-o", str(out), str(path))
    assert out.read_bytes() == content(SEED, task, 1)
