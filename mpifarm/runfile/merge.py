"""Merges the run files of a job into one file that needs nothing else: `mpifarm export`.

The result is a run file (the same tables, readable in the same five lines) and holds the job besides, see
`mpifarm.runfile.exported`. Chunks of output are copied as they lie in the run files, deflated or not; one that tasks of
another job have filled in part comes along whole. Memory is a few bits per attempt. A run may be going on meanwhile.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

import h5py
import numpy as np

from mpifarm.core.model import RunId
from mpifarm.core.needs import Needs
from mpifarm.core.plural import counted
from mpifarm.core.protocol.facts import TaskLine
from mpifarm.errors import OutputError
from mpifarm.runfile import exported, format
from mpifarm.runfile.exported import EXPORT_ATTRIBUTE, EXPORT_VERSION, SHAPE_TYPE, TASK_TYPE, Names
from mpifarm.runfile.format import FAILURES, FORMAT_VERSION, HOW_TO_READ, VERSION_ATTRIBUTE, explain
from mpifarm.runfile.reader import BLOCK_ROWS, RunFile, open_run
from mpifarm.runfile.row_numbers import Taken
from mpifarm.runfile.sweep import Ints, Pass, Rows

TASKS_AT_ONCE = 4096
_TEXT_CHUNK = 1 << 16
_NODES_MAX = 1 << 16


class Missed(NamedTuple):
    """A run file that could not be read, and the tasks whose outputs are therefore not in the export."""

    path: str
    why: str
    tasks: int


class _Table:
    """A dataset that grows by whole chunks, so that each is deflated once."""

    def __init__(self, file: h5py.File, name: str, kind: np.dtype[Any], chunk_rows: int) -> None:
        gzip: dict[str, Any] = {"compression": "gzip", "compression_opts": 1, "shuffle": kind.itemsize > 1}
        self._dataset = file.create_dataset(
            name, (0,), kind, maxshape=(None,), chunks=(chunk_rows,), fletcher32=True, **gzip
        )
        self._chunk_rows = chunk_rows
        self._waiting: list[Rows] = []
        self._held = 0
        self.count = 0
        """Rows so far, those that wait included."""

    def append(self, rows: Rows) -> None:
        self._waiting.append(rows)
        self._held += len(rows)
        self.count += len(rows)
        if self._held >= 16 * self._chunk_rows:
            self._write(self._held - self._held % self._chunk_rows)

    def finish(self) -> None:
        self._write(self._held)

    def _write(self, count: int) -> None:
        rows = np.concatenate(self._waiting) if self._waiting else np.zeros(0, self._dataset.dtype)
        first = self.count - self._held
        self._dataset.resize((first + count,))
        self._dataset[first:] = rows[:count]
        self._waiting, self._held = [rows[count:]], self._held - count


class _Source:
    """A run file of the job: which of its rows are taken, and where they begin in the export."""

    def __init__(self, path: str, run: RunFile) -> None:
        self.path = path
        self.rows = run.rows
        self.taken = Taken(run.rows)
        self.first_row = 0


class Merge:
    """An export under way, written to `draft`. Call `tasks`, `copy`, `close` in this order. Raises OutputError."""

    def __init__(self, draft: Path, job: int, *, every_attempt: bool = False, missing_ok: bool = False) -> None:
        self._path, self._job = draft, job
        self._every_attempt, self._missing_ok = every_attempt, missing_ok
        try:
            self._file = h5py.File(draft, "x", libver=("v110", "latest"))
            format.keep_private(self._file)
        except FAILURES as error:
            raise explain(draft, "create", error) from error
        self._extents = _Table(self._file, format.EXTENTS, format.EXTENT_TYPE, format.EXTENTS_CHUNK_ROWS)
        self._attempts = _Table(self._file, format.ATTEMPTS, format.ROW_TYPE, format.ATTEMPTS_CHUNK_ROWS)
        self._events = _Table(self._file, format.EVENTS, format.EVENT_TYPE, format.EVENTS_CHUNK_ROWS)
        self._texts = _Table(self._file, exported.TEXTS, np.dtype("u1"), _TEXT_CHUNK)
        self._names = Names()
        self._nodes: dict[tuple[str, int, int], int] = {}
        self._sources: dict[RunId, _Source] = {}
        self._missed: dict[RunId, list[Any]] = {}
        self._pool: _Pool | None = None
        self._draft_rows = tempfile.TemporaryFile(dir=draft.parent)  # noqa: SIM115 - closed in `close` and `discard`
        self.attributes: dict[int, dict[str, str]] = {}
        """What each run wrote about itself."""
        self.counts = dict.fromkeys(exported.STATES, 0)
        """Tasks by state."""

    def tasks(self, lines: Iterable[TaskLine], files: Mapping[RunId, str]) -> list[Missed]:
        """Take note of all tasks of the job. Returns what must be missing; raises OutputError unless that is ok."""
        if self._every_attempt:
            for run, path in files.items():
                self._source(run, path)
        ahead = iter(lines)
        while block := list(islice(ahead, TASKS_AT_ONCE)):
            rows, texts = exported.packed(block, self._texts.count, self._names)
            self._texts.append(np.frombuffer(texts, np.uint8))
            self._draft_rows.write(rows.tobytes())
            for state, count in enumerate(np.bincount(rows["state"]).tolist()):
                self.counts[exported.STATES[state]] += count
            self._mark(rows, files)
        missed = [Missed(*values) for values in self._missed.values() if values[2] or self._every_attempt]
        if missed and not self._missing_ok:
            told = "".join(f"\n  {path}: {why} (outputs of {counted(tasks, 'task')})" for path, why, tasks in missed)
            raise OutputError(f"run files of this job cannot be read here:{told}\n  --missing-ok exports the rest")
        return missed

    def _mark(self, rows: Rows, files: Mapping[RunId, str]) -> None:
        recorded = rows[rows["row"] >= 0]
        for run in np.unique(recorded["run"]).tolist():
            mine = recorded["row"][recorded["run"] == run].astype(np.int64)
            source = self._source(RunId(run), files.get(RunId(run), f"of run {run}"))
            if source is None:
                self._missed[run][2] += len(mine)
                continue
            if mine.max() >= source.rows:
                raise OutputError(f"run file {source.path} is not the one that was recorded: it is too short")
            source.taken.mark(mine)

    def _source(self, run: RunId, path: str) -> _Source | None:
        """None when it cannot be read."""
        if run not in self._sources and run not in self._missed:
            try:
                with open_run(path) as file:
                    if file.missing is not None:
                        raise file.missing
                    self._sources[run] = _Source(path, file)
            except (OutputError, OSError) as error:
                self._missed[run] = [path, str(error).rpartition(f"{path}: ")[2], 0]
        return self._sources.get(run)

    def copy(self) -> None:
        """Copy what is taken of every file, the files in the order of their runs."""
        for run in sorted(self._sources):
            source = self._sources[run]
            with open_run(source.path) as file:
                if self._pool is None:
                    self._pool = _Pool(self._file, file.pool.chunk_bytes)
                elif self._pool.chunk_bytes != file.pool.chunk_bytes:
                    raise OutputError(f"run file {source.path} has chunks of another size than those before it")
                self._copy(run, source, file)

    def _copy(self, run: RunId, source: _Source, file: RunFile) -> None:
        if self._every_attempt:
            for lo in range(0, source.rows, BLOCK_ROWS):
                rows = file.attempts(lo, min(lo + BLOCK_ROWS, source.rows))
                source.taken.mark(lo + np.flatnonzero((rows["job"] == self._job) & (rows["lease"] != 0)))
        source.taken.freeze()
        source.first_row, first_extent = self._attempts.count, self._extents.count
        assert self._pool is not None
        copying = _Copying(file, source.taken, self._pool, self._extents, holes=self._missing_ok)
        copying.go()
        copying.taken.freeze()
        numbers = np.array([self._node(node) for node in file.nodes] or [0], np.uint16)
        for lo in range(0, source.rows, BLOCK_ROWS):
            hi = min(lo + BLOCK_ROWS, source.rows)
            rows = file.attempts(lo, hi)
            rows = rows[source.taken.has(np.arange(lo, hi))]
            for name in ("extent_lo", "extent_hi"):
                rows[name] = first_extent + copying.taken.rank(np.clip(rows[name], 0, file.extents))
            rows["node"] = numbers[np.minimum(rows["node"], len(numbers) - 1)]
            self._attempts.append(rows)
        events = [(time, format.clip(text, format.EVENT_TYPE["text"])) for time, text in file.events()]
        self._events.append(np.array(events, format.EVENT_TYPE))
        self.attributes[int(run)] = file.attributes

    def _node(self, node: tuple[str, int, int]) -> int:
        number = self._nodes.setdefault(node, len(self._nodes))
        if number >= _NODES_MAX:
            raise OutputError(f"the runs of this job had more than {_NODES_MAX:,} nodes, which one file cannot name")
        return number

    def close(self, about: Mapping[str, object], shapes: Sequence[tuple[int, int, Needs]]) -> None:
        """Write what is known about the job, and make the file durable."""
        self._finish_tasks()
        if self._pool is None:
            self._pool = _Pool(self._file, format.CHUNK_BYTES)
        shape_rows = _Table(self._file, exported.SHAPES, SHAPE_TYPE, 1024)
        shape_rows.append(np.array([(lo, hi, needs.cpus, needs.time_limit_s) for lo, hi, needs in shapes], SHAPE_TYPE))
        rows = {run: (source.first_row, source.taken.count) for run, source in self._sources.items()}
        text = exported.to_json({**about, "nodes": self._names.all(), "rows": rows})
        about_bytes = _Table(self._file, exported.JOB, np.dtype("u1"), _TEXT_CHUNK)
        about_bytes.append(np.frombuffer(text, np.uint8))
        for table in (self._extents, self._attempts, self._events, self._texts, shape_rows, about_bytes):
            table.finish()
        nodes = [(format.clip(name, format.NODE_TYPE["name"]), ranks, slots) for name, ranks, slots in self._nodes]
        self._file.create_dataset(format.NODES, data=np.array(nodes, format.NODE_TYPE))
        self._file.attrs.update({VERSION_ATTRIBUTE: FORMAT_VERSION, EXPORT_ATTRIBUTE: EXPORT_VERSION})
        self._file.attrs["how_to_read"] = HOW_TO_READ
        self._file.flush()
        os.fsync(self._file.id.get_vfd_handle())
        self.discard()

    def _finish_tasks(self) -> None:
        """Tasks with their rows in the export instead of those in their run's file."""
        table = _Table(self._file, exported.TASKS, TASK_TYPE, TASKS_AT_ONCE)
        self._draft_rows.seek(0)
        while block := self._draft_rows.read(TASKS_AT_ONCE * TASK_TYPE.itemsize):
            rows = np.frombuffer(block, TASK_TYPE).copy()
            for run, source in self._sources.items():
                mine = (rows["run"] == run) & (rows["row"] >= 0)
                rows["row"][mine] = source.first_row + source.taken.rank(rows["row"][mine])
            table.append(rows)
        table.finish()

    def discard(self) -> None:
        """Let go of the files, finished or not."""
        self._draft_rows.close()
        self._file.close()


class _Pool:
    """The byte pool of the export."""

    def __init__(self, file: h5py.File, chunk_bytes: int) -> None:
        self.chunk_bytes = chunk_bytes
        gzip: dict[str, Any] = {"compression": "gzip", "compression_opts": 1, "fill_time": "never"}
        made = file.create_dataset(format.BYTES, (0,), "u1", maxshape=(None,), chunks=(chunk_bytes,), **gzip)
        self._dataset = made
        self.count = 0

    def append(self, deflated: bool, stored: bytes) -> None:
        self.skip()
        self._dataset.id.write_direct_chunk(((self.count - 1) * self.chunk_bytes,), stored, 0 if deflated else 1)

    def skip(self) -> None:
        """A hole, in place of a chunk that cannot be read: who reads it gets an error."""
        self.count += 1
        self._dataset.id.set_extent((self.count * self.chunk_bytes,))


class _Copying(Pass):
    """Copies extents of the rows taken, and the chunks they lie in."""

    def __init__(self, run: RunFile, rows: Taken, pool: _Pool, extents: _Table, *, holes: bool) -> None:
        super().__init__(run)
        self._rows, self._pool, self._out, self._holes = rows, pool, extents, holes
        self._open: dict[tuple[int, ...], tuple[int, int]] = {}
        self._places = np.full(run.pool.count, -1, np.int64)
        """By chunk of the run file: its number in the export."""
        self.taken = Taken(run.extents)

    def _begin(self, numbers: Ints, rows: Rows) -> None:
        rows = rows[self._rows.has(numbers)]
        keys = zip(rows["lease"].tolist(), rows["task"].tolist(), rows["attempt"].tolist())
        self._open.update(zip(keys, zip(rows["extent_lo"].tolist(), rows["extent_hi"].tolist())))

    def _look(self, first: int, extents: Rows) -> None:
        opened, size, end = self._open, self._pool.chunk_bytes, self._run.pool.count * self._pool.chunk_bytes
        kept, positions = [], []
        for index, (lease, task, attempt, _, length, position) in enumerate(extents.tolist()):
            bounds = opened.get((lease, task, attempt))
            if bounds is None or not bounds[0] <= first + index < bounds[1] or not length:
                continue
            if position + length > end:
                self._unreadable(OutputError(f"run file {self._run.path} is damaged: bytes of task {task} are missing"))
                continue
            chunk = position // size
            kept.append(index)
            positions.append(self._place(chunk, (position + length - 1) // size) * size + position - chunk * size)
        rows = extents[kept]
        rows["position"] = positions
        self._out.append(rows)
        self.taken.mark(first + np.array(kept, np.int64))

    def _place(self, first: int, last: int) -> int:
        """The number in the export of a chunk that is followed there by those up to `last`."""
        place = int(self._places[first])
        if first == last and place >= 0:
            return place
        places = self._places[first : last + 1]
        known = places[places >= 0]
        if place < 0 or (known != place + np.arange(len(known))).any():
            place = self._pool.count  # not side by side: all of them once more
        elif len(known) < len(places) and place + len(known) != self._pool.count:
            place = self._pool.count
        for number in range(first, last + 1):
            if place + number - first == self._pool.count:
                self._copy(number)
            self._places[number] = place + number - first
        return place

    def _copy(self, number: int) -> None:
        try:
            stored = self._run.pool.stored(number)
        except OutputError as error:
            self._unreadable(error)
            self._pool.skip()
        else:
            self._pool.append(*stored)

    def _unreadable(self, error: OutputError) -> None:
        if not self._holes:
            raise OutputError(f"{error}\n  --missing-ok exports the rest") from error

    def _close(self, hi: int) -> None:
        for key in [key for key, (_, end) in self._open.items() if end <= hi]:
            del self._open[key]
