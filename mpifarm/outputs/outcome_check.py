"""Outcomes of the queue held against the rows of a run file that they name, many at once. Must never import h5py."""

from __future__ import annotations

import zlib
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import numpy as np

from mpifarm.core.model import FailureClass, State
from mpifarm.runfile.exported import NO_CHECKSUM

if TYPE_CHECKING:
    from mpifarm.runfile.reader import RunFile

BLOCK_ROWS = 1 << 14

Array = np.ndarray[Any, Any]

_CHECKED = np.dtype(
    [("stdout_bytes", "<u8"), ("stderr_bytes", "<u8"), ("stdout_crc32", "<u4"), ("stderr_crc32", "<u4")]
)


def held_against(run: RunFile, job: int, places: Array) -> tuple[Array, Array]:
    """The rows of these places, and whether each is the one that was recorded and makes sense; blank rows where the
    file has none. Raises OutputError."""
    rows: Array = np.zeros(len(places), run.attempts(0, 0).dtype)
    order = np.argsort(places["row"], kind="stable")
    for at, block in _near(order, places["row"][order]):
        found = run.attempts(int(block[0]), int(block[-1]) + 1)
        inside = block - block[0] < len(found)
        rows[at[inside]] = found[(block - block[0])[inside]]
    right = rows["job"] == job
    for name in ("task", "lease", "attempt"):
        right &= rows[name] == places[name]
    right &= (rows["state"] <= max(State)) & (rows["failure"] <= max(FailureClass))
    right &= np.isfinite(rows["started"]) & np.isfinite(rows["ended"])
    right &= (places["checksum"] == NO_CHECKSUM) | (places["checksum"] == _checksums(rows))
    return rows, right


def _near(order: Array, numbers: Array) -> Iterator[tuple[Array, Array]]:
    """In parts whose rows lie within one block."""
    lo = 0
    while lo < len(numbers):
        hi = int(numbers.searchsorted(numbers[lo] + BLOCK_ROWS))
        yield order[lo:hi], numbers[lo:hi]
        lo = hi


def _checksums(rows: Array) -> Array:
    """`mpifarm.core.row.output_checksum` of each."""
    packed = np.zeros(len(rows), _CHECKED)
    for name in _CHECKED.names or ():
        packed[name] = rows[name]
    raw, size = packed.tobytes(), _CHECKED.itemsize
    sums = [zlib.crc32(raw[at : at + size]) for at in range(0, len(raw), size)]
    return np.array(sums, np.uint32).view(np.int32)
