"""Makes a sound run file of a damaged one: everything that can be found, in its old place, and what could not be.

Rows and bytes keep their numbers, so that what the queue recorded of the file holds for the repaired one. What is lost
leaves blank rows and missing chunks, which readers tell. The tables have no checksums of their own: a row is taken for
sound when it makes sense, an output when it has its length and CRC-32.
"""

from __future__ import annotations

import mmap
import zlib
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

import h5py
import numpy as np

from mpifarm.core.model import FailureClass, State
from mpifarm.core.ranges import disjoint
from mpifarm.errors import OutputError
from mpifarm.runfile import format
from mpifarm.runfile.codec import expand
from mpifarm.runfile.exported import EXPORT_ATTRIBUTE
from mpifarm.runfile.format import (
    ATTEMPTS,
    BYTES,
    CHUNK_BYTES,
    EVENTS,
    EXTENTS,
    FAILURES,
    NODES,
    explain,
    has_ended,
    rows_at_end,
)
from mpifarm.runfile.parts import Counts, before
from mpifarm.runfile.reader import open_run
from mpifarm.runfile.repairing.salvage import Arrays, Chunk
from mpifarm.runfile.repairing.superblock import open_beneath
from mpifarm.runfile.sweep import Sweep, rowless
from mpifarm.startup.limited import NeverBack, in_child, reading

Rows = np.ndarray[Any, Any]
Content = mmap.mmap | bytes
Array = dict[int, Chunk]

_SIZE_BYTES = 1 + (CHUNK_BYTES.bit_length() - 1 + 8) // 8
"""Of the stored size of a chunk, as HDF5 decides it from the full size."""
_EARLIEST, _LATEST = 1 << 20, 1 << 33
"""Unix seconds: no attempt starts before or later. Small whole numbers, read as a time, are much earlier."""
_OWN = (format.VERSION_ATTRIBUTE, "created", "how_to_read")


class Repaired(NamedTuple):
    """What was found, and what was not. `lost_rows`: of `attempts`, half-open; `damaged`: tasks by job, with a row but
    without their whole output; `rowless`: tasks that wrote and have no row, though they may just not have ended."""

    attempts: int
    bytes: int
    lost_rows: list[tuple[int, int]]
    damaged: dict[int, list[int]]
    rowless: list[int]
    notes: list[str]
    worse: int = 0
    """Attempts whose outputs the damaged file gives and this one does not."""
    emptied: bool = False
    """There is output, and there are no rows, though the file was closed or cannot say so."""

    @property
    def whole(self) -> bool:
        return not self.lost_rows and not self.damaged and not self.worse and not self.emptied


def _sensible_attempts(rows: Rows) -> Rows:
    fine = (rows["lease"] > 0) & (rows["task"] > 0) & (rows["task"] < 1 << 31) & (rows["attempt"] > 0)
    fine &= (rows["state"] <= max(State)) & (rows["failure"] <= max(FailureClass))
    with np.errstate(invalid="ignore"):
        fine &= (
            (rows["started"] > _EARLIEST)
            & (rows["started"] < _LATEST)
            & (rows["ended"] > _EARLIEST)
            & (rows["ended"] < _LATEST)
        )
    fine &= (rows["extent_lo"] >= 0) & (rows["extent_lo"] <= rows["extent_hi"])
    return fine


def _sensible_extents(rows: Rows) -> Rows:
    fine = (rows["lease"] > 0) & (rows["task"] > 0) & (rows["task"] < 1 << 31) & (rows["attempt"] > 0)
    return fine & (rows["stream"] > 0) & (rows["length"] > 0) & (rows["position"] < 1 << 56)


def _sensible_events(rows: Rows) -> Rows:
    with np.errstate(invalid="ignore"):
        return (rows["time"] > _EARLIEST) & (rows["time"] < _LATEST)


_TABLES: dict[str, tuple[np.dtype[Any], int, Callable[[Rows], Rows]]] = {
    ATTEMPTS: (format.ROW_TYPE, format.ATTEMPTS_CHUNK_ROWS, _sensible_attempts),
    EXTENTS: (format.EXTENT_TYPE, format.EXTENTS_CHUNK_ROWS, _sensible_extents),
    EVENTS: (format.EVENT_TYPE, format.EVENTS_CHUNK_ROWS, _sensible_events),
}


def repair(path: Path, out: Path, told: Callable[[int], None] = lambda _: None) -> Repaired:
    """Read the damaged `path`, write `out`, which must not exist. Raises OutputError: nothing of a run file in it."""
    try:
        with open(path, "rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
            return _Repair(path, content, out).go(told)
    except (OSError, ValueError) as error:  # ValueError: an empty file cannot be mapped
        raise explain(path, "repair", error) from error


class _Repair:
    def __init__(self, path: Path, content: Content, out: Path) -> None:
        self._path, self._content, self._out = path, content, out
        self._notes: list[str] = []
        self._endless = False
        """HDF5 does not come back from it."""
        attributes, nodes = self._description()
        self._ended, self._rows_at_end = has_ended(attributes) or not attributes, rows_at_end(attributes)
        self._end = float(attributes.pop(format.ENDED_ATTRIBUTE, "nan"))
        arrays = Arrays(content, _SIZE_BYTES)
        self._row_type = format.ROW_TYPE
        """That of the format of the file, which may be older."""
        self._pool: Array = arrays.filtered[0] if arrays.filtered else {}
        self._tables = self._told_apart(arrays.plain)
        if not self._pool and ATTEMPTS not in self._tables:
            raise OutputError(f"cannot repair {path}: nothing in it looks like a part of a run file")
        if not nodes:
            self._notes.append("the names of its nodes")
            nodes = [(f"node{number}", 1, 1) for number in range(1 + self._highest_node())]
        earlier = before(path, attributes)
        self._first = Counts() if earlier is None else earlier.counts
        """What comes before is in the file that this one goes on from."""
        if earlier is not None:
            attributes |= earlier.attributes(out)
        self._file = format.create(out, {**attributes, "repaired_from": str(path)}, nodes)

    def go(self, told: Callable[[int], None]) -> Repaired:
        try:
            self._copy_pool()
            lost = {name: self._copy_table(name) for name in (EXTENTS, EVENTS, ATTEMPTS)}
            rows = len(self._file[ATTEMPTS])
            if rows < self._rows_at_end:
                lost[ATTEMPTS] = disjoint([*lost[ATTEMPTS], (max(rows, self._first.rows), self._rows_at_end)])
            self._file.attrs.modify(format.ENDED_ATTRIBUTE, np.float64(self._end))
            if self._rows_at_end >= 0:
                self._file.attrs.modify(format.ROWS_ATTRIBUTE, np.int64(self._rows_at_end))
            self._file.flush()
        except FAILURES as error:
            self._file.close()
            self._out.unlink()
            raise explain(self._out, "write", error) from error
        self._file.close()
        with open_run(self._out) as run:
            sweep = Sweep(run, told)
            damaged: defaultdict[int, list[int]] = defaultdict(list)
            sound = sweep.sound()
            emptied = self._ended and not run.rows and run.extents > 0
            without = sorted(rowless(run)) if lost[ATTEMPTS] or emptied else []
            for number in np.flatnonzero(~sound).tolist():
                row = run.attempt(number)
                if row.lease:  # else it is lost, and told as such
                    damaged[row.job].append(row.task)
            rows = run.rows - sum(max(0, min(hi, run.rows) - lo) for lo, hi in lost[ATTEMPTS])
            worse = 0 if self._endless else self._worse(sound)
        ordered = {job: sorted(set(tasks)) for job, tasks in sorted(damaged.items())}
        return Repaired(rows, sweep.bytes, lost[ATTEMPTS], ordered, without, self._notes, worse, emptied)

    def _description(self) -> tuple[dict[str, str], list[tuple[str, int, int]]]:
        """What the run wrote about itself, and its nodes, as far as HDF5 finds them."""
        attributes: dict[str, str] = {}
        nodes: list[tuple[str, int, int]] = []
        try:
            for name, value in in_child(self._attributes):
                if value is None:
                    self._notes.append(f"its attribute {name}")
                else:
                    attributes[name] = value
        except NeverBack:
            self._endless = True
            self._notes.append("what the run wrote about itself, or a part of it")
        if EXPORT_ATTRIBUTE in attributes:
            raise OutputError(f"{self._path} is an export: make it again from the files of its runs")
        if not attributes and not self._notes:
            self._notes.append("what the run wrote about itself")
        with suppress(NeverBack):
            nodes += in_child(self._nodes)
        return {name: value for name, value in attributes.items() if name not in _OWN}, nodes

    def _attributes(self) -> Iterator[tuple[str, str | None]]:
        """Of the damaged file, one after the other; None: it cannot be read."""
        with reading(self._path):
            file = open_beneath(self._content)
            if file is None:
                return
            for name in _names(file):
                try:
                    yield name, str(file.attrs[name])
                except FAILURES:
                    yield name, None

    def _nodes(self) -> Iterator[tuple[str, int, int]]:
        with reading(self._path):
            file = open_beneath(self._content)
            if file is not None:
                yield from ((name.decode("utf-8", "replace"), int(r), int(s)) for name, r, s in file[NODES][:])

    def _worse(self, sound: Rows) -> int:
        """How many attempts have lost their outputs to the repair: tables are told apart by what makes sense."""

        def found() -> Iterator[bytes]:
            with open_run(self._path) as run:
                yield Sweep(run).sound().tobytes()

        try:
            before = np.frombuffer(b"".join(in_child(found)), bool)
        except NeverBack:
            return 0
        after = np.zeros(max(len(before), len(sound)), bool)
        after[: len(sound)] = sound
        return int(np.count_nonzero(before & ~after[: len(before)]))

    def _told_apart(self, arrays: list[Array]) -> dict[str, Array]:
        """Which array is which table, by what its chunks hold."""
        tables: dict[str, Array] = {}
        for chunks in sorted(filter(None, arrays), key=len, reverse=True):
            scores = {name: self._likeness(chunks, name) for name in _TABLES if name not in tables}
            best = max(scores, key=lambda name: scores[name], default=None)
            if best is not None and scores[best] > 0.5:
                tables[best] = chunks
                if best == ATTEMPTS:
                    self._row_type = max(format.ROW_TYPES, key=lambda kind: self._share(chunks, ATTEMPTS, kind))
        return tables

    def _likeness(self, chunks: Array, name: str) -> float:
        kinds = format.ROW_TYPES if name == ATTEMPTS else [_TABLES[name][0]]
        return max(self._share(chunks, name, kind) for kind in kinds)

    def _share(self, chunks: Array, name: str, kind: np.dtype[Any]) -> float:
        """How many of the rows, if they are of this kind, make sense in the first chunks that hold any."""
        shares = []
        for number in sorted(chunks)[:4]:
            rows = self._read(chunks[number], kind, _TABLES[name][1])
            written = rows[rows.view(np.uint8).reshape(len(rows), -1).any(axis=1)]
            if len(written):
                shares.append(float(_TABLES[name][2](written).mean()))
        return sum(shares) / len(shares) if shares else 0.0

    def _rows(self, chunk: Chunk, name: str) -> Rows:
        kind, count, _ = _TABLES[name]
        return (
            format.widened(self._read(chunk, self._row_type, count))
            if name == ATTEMPTS
            else self._read(chunk, kind, count)
        )

    def _read(self, chunk: Chunk, kind: np.dtype[Any], count: int) -> Rows:
        """Rows that the file still holds; a chunk may be cut off."""
        piece = self._content[chunk.address : chunk.address + count * kind.itemsize]
        return np.frombuffer(piece[: len(piece) - len(piece) % kind.itemsize], kind)

    def _highest_node(self) -> int:
        chunks = self._tables.get(ATTEMPTS, {}).values()
        return max((int(rows["node"].max(initial=0)) for rows in map(self._sound_rows, chunks)), default=0)

    def _sound_rows(self, chunk: Chunk) -> Rows:
        rows = self._rows(chunk, ATTEMPTS)
        return rows[_sensible_attempts(rows)]

    def _copy_pool(self) -> None:
        pool = self._file[BYTES]
        lost = 0
        for number in sorted(self._pool):
            chunk = self._pool[number]
            stored = self._content[chunk.address : chunk.address + chunk.size]
            if number >= len(pool) // CHUNK_BYTES:
                pool.id.set_extent(((number + 1) * CHUNK_BYTES,))
            sound, deflated = _sound(chunk, stored)
            if sound:
                pool.id.write_direct_chunk((number * CHUNK_BYTES,), sound, 0 if deflated else 1)
            else:
                lost += 1
        first = self._first.bytes // CHUNK_BYTES
        lost += max(first, 1 + max(self._pool, default=-1)) - first - len(self._pool)
        if lost:
            self._notes.append(f"{lost:,} chunks of {CHUNK_BYTES >> 10} KiB of output")

    def _copy_table(self, name: str) -> list[tuple[int, int]]:
        """Returns the ranges of rows that are lost."""
        kind, count, sensible = _TABLES[name]
        chunks = self._tables.get(name, {})
        table, lost = self._file[name], []
        last = 1 + max(chunks, default=-1)
        for number in range(last):
            found = self._rows(chunks[number], name) if number in chunks else np.zeros(0, kind)
            rows = np.zeros(count, kind)
            rows[: len(found)] = np.where(sensible(found), found, np.zeros(1, kind))
            blank = np.ones(count, bool)
            blank[: len(found)] = ~sensible(found)
            if number == last - 1:  # the table ends somewhere in it
                used = np.flatnonzero(~blank)
                rows = rows[: 1 + int(used[-1]) if used.size else 0]
            table.resize((number * count + len(rows),))
            table[number * count :] = rows
            lost += [(number * count + lo, number * count + hi) for lo, hi in _spans(blank[: len(rows)])]
        first = {ATTEMPTS: self._first.rows, EXTENTS: self._first.extents}.get(name, 0)
        return [(max(lo, first), hi) for lo, hi in disjoint(lost) if hi > first]


def _names(file: h5py.File) -> list[str]:
    try:
        return list(file.attrs)
    except FAILURES:
        return []


def _sound(chunk: Chunk, stored: bytes) -> tuple[bytes, bool]:
    """What can be stored for a chunk, and whether that is deflated; nothing when it is damaged."""
    content, deflated = stored, False
    if chunk.filtered:
        try:
            content, deflated = expand(stored)
        except zlib.error:
            return b"", False
    if len(content) != CHUNK_BYTES:
        return b"", False
    return stored if deflated else content, deflated


def _spans(mask: Rows) -> Iterator[tuple[int, int]]:
    edges = np.flatnonzero(np.diff(np.concatenate(([False], mask, [False])).astype(np.int8)))
    yield from zip(edges[::2].tolist(), edges[1::2].tolist())
