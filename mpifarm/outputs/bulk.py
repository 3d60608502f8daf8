"""Outputs of many tasks at the price of arrays: what `outputs` does task by task, for the plain ones among them.

Plain is a task with an outcome, whose row is as it was recorded, with everything kept, not large, and its extents side
by side: nearly all. Whatever is not, or turns out to be damaged, is served the careful way, in its place among the
others. Must never import click, h5py or mpi4py.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple
from zlib import crc32

import numpy as np

from mpifarm.core.model import RunId
from mpifarm.core.row import STDOUT
from mpifarm.errors import OutputError
from mpifarm.outputs.outcome_check import held_against
from mpifarm.outputs.source import paths_of
from mpifarm.outputs.streams_of_tasks import FINAL, Attempt, Missing, Outputs, Unanswered, serve

if TYPE_CHECKING:
    from mpifarm.core.protocol.facts import JobSummary, TaskLine
    from mpifarm.outputs.source import Source
    from mpifarm.runfile.pool import Pool
    from mpifarm.runfile.reader import RunFile

WINDOW_TASKS = 1 << 14
EXTENTS_MAX = 1 << 17
"""Extents looked at for the tasks of a window; more, and they lie too far apart for this."""
OWN_EXTENTS_MAX = 64
OWN_BYTES_MAX = 128 << 10
"""What a task wrote; more is not held in memory at once."""
BATCH_TASKS = 128

Array = np.ndarray[Any, Any]
Pieces = list[memoryview]
Texts = list[list[Pieces]]
"""By task, by stream."""
Give = Callable[[Outputs, "TaskLine", Attempt], None]


class Way(NamedTuple):
    """What to do with outputs: `plain` with the bytes of tasks, `careful` with an attempt."""

    plain: Callable[[Sequence[int], Texts], None]
    careful: Give
    streams: tuple[int, ...]


class Streaming:
    """Serves tasks of a job in their order."""

    def __init__(self, source: Source, job: JobSummary, way: Way) -> None:
        self._source, self._job, self._way = source, job, way
        self._unanswered = Unanswered()
        self._paths = paths_of(source)

    def go(self, ranges: Sequence[tuple[int, int]] | None) -> Missing:
        """`ranges`: half-open; None: all that have an outcome. Raises QueueError."""
        with Outputs() as outputs:
            done = 1
            for lo, hi in sorted(ranges) if ranges is not None else [(1, self._job.total + 1)]:
                for first in range(max(lo, done), hi, WINDOW_TASKS):
                    self._window(outputs, first, min(hi, first + WINDOW_TASKS), every=ranges is not None)
                done = max(done, hi)
        return self._unanswered.missing()

    def _window(self, outputs: Outputs, lo: int, hi: int, *, every: bool) -> None:
        """`every`: a task without an outcome is told."""
        states = None if every else FINAL
        at = lo
        for places in self._source.places(self._job.id, lo, hi):
            for part in _runs(places):
                for tasks, texts in self._of_run(outputs, part):
                    if tasks[0] > at:
                        self._careful(outputs, at, tasks[0], states)
                    self._way.plain(tasks, texts)
                    at = tasks[-1] + 1
        if at < hi:
            self._careful(outputs, at, hi, states)

    def _careful(self, outputs: Outputs, lo: int, hi: int, states: Sequence[str] | None) -> None:
        lines = self._source.tasks(self._job.id, ranges=[(lo, hi)], states=states)
        serve(lines, outputs, Outputs.recorded, self._way.careful, self._way.streams, self._unanswered)

    def _of_run(self, outputs: Outputs, places: Array) -> Iterator[tuple[list[int], Texts]]:
        """Tasks of the places that follow each other, with their texts; those left out take more care."""
        path = self._paths.get(RunId(int(places["run"][0])))
        if path is None:
            return
        try:
            run = outputs.file(path)
            if int(places["row"].max()) >= run.rows:
                run.refresh()
            found = _Plain(run, self._job.id, places, self._way.streams)
        except OutputError:
            return
        yield from found.texts()


def _runs(places: Array) -> Iterable[Array]:
    """In parts of one run each, the order kept."""
    return np.split(places, np.flatnonzero(np.diff(places["run"])) + 1) if len(places) else []


class _Plain:
    """Some tasks of one run file, in order, and where their bytes are. Raises OutputError."""

    def __init__(self, run: RunFile, job: int, places: Array, streams: tuple[int, ...]) -> None:
        self._pool: Pool = run.pool
        self._size = run.pool.chunk_bytes
        self._held, self._chunk = -1, memoryview(b"")
        self._tasks = places["task"].tolist()
        rows, right = held_against(run, job, places)
        self._fine = right & (rows["flags"] == 0)
        self._fine &= rows["extent_hi"] - rows["extent_lo"] <= OWN_EXTENTS_MAX
        self._fine &= (rows["stdout_bytes"] <= OWN_BYTES_MAX) & (rows["stderr_bytes"] <= OWN_BYTES_MAX)
        wrote = self._fine & (rows["extent_hi"] > rows["extent_lo"])
        lo = int(rows["extent_lo"][wrote].min(initial=run.extents))
        hi = min(int(rows["extent_hi"][wrote].max(initial=0)), run.extents)
        if hi - lo > EXTENTS_MAX or lo < 0:
            self._fine[:] = False
            lo = hi
        extents = run.extent_rows(lo, hi) if lo < hi else run.extent_rows(0, 0)
        self._streams = [self._stream(rows, extents, lo, stream) for stream in streams]

    def _stream(self, rows: Array, extents: Array, first: int, stream: int) -> tuple[list[int], ...]:
        """Where the extents of each task begin, positions and lengths of extents, and the CRC-32 of each task."""
        names = ("stdout_bytes", "stdout_crc32") if stream == STDOUT else ("stderr_bytes", "stderr_crc32")
        mine = extents["stream"] == stream
        index = np.flatnonzero(mine)
        extents = extents[mine]
        owner = np.minimum(rows["task"].searchsorted(extents["task"]), len(rows) - 1)
        good = np.ones(len(extents), bool)
        for name in ("task", "lease", "attempt"):
            good &= rows[name][owner] == extents[name]
        good &= (index + first >= rows["extent_lo"][owner]) & (index + first < rows["extent_hi"][owner])
        extents, owner = extents[good], owner[good]
        sizes = np.bincount(owner, weights=extents["length"], minlength=len(rows))
        self._fine &= sizes == rows[names[0]]
        order = np.argsort(owner, kind="stable")
        begins = np.concatenate(([0], np.cumsum(np.bincount(owner, minlength=len(rows)))))
        positions, lengths = extents["position"][order].tolist(), extents["length"][order].tolist()
        return begins.tolist(), positions, lengths, rows[names[1]].tolist()

    def texts(self) -> Iterator[tuple[list[int], Texts]]:
        """Tasks that follow each other, with their texts."""
        fine = self._fine.tolist()
        tasks: list[int] = []
        texts: Texts = []
        for number, task in enumerate(self._tasks):
            text = self._text(number) if fine[number] else None
            if tasks and (text is None or task != tasks[-1] + 1 or len(tasks) == BATCH_TASKS):
                yield tasks, texts
                tasks, texts = [], []
            if text is not None:
                tasks.append(task)
                texts.append(text)
        if tasks:
            yield tasks, texts

    def _text(self, number: int) -> list[Pieces] | None:
        """Of one task, by stream; None when it is damaged."""
        size = self._size
        text: list[Pieces] = []
        for begins, positions, lengths, checksums in self._streams:
            pieces: Pieces = []
            checksum = 0
            for at in range(begins[number], begins[number + 1]):
                position, length = positions[at], lengths[at]
                while length:
                    wanted, offset = divmod(position, size)
                    if wanted != self._held and not self._hold(wanted):
                        return None
                    piece = self._chunk[offset : offset + length]
                    checksum = crc32(piece, checksum)
                    pieces.append(piece)
                    position += len(piece)
                    length -= len(piece)
            if checksum != checksums[number]:
                return None
            text.append(pieces)
        return text

    def _hold(self, number: int) -> bool:
        """Take a chunk in hand; False when it cannot be read."""
        try:
            self._chunk = memoryview(self._pool.chunk(number))
        except OutputError:
            return False
        self._held = number
        return True
