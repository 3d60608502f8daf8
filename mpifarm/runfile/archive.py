"""An exported job, read instead of the queue: it answers what reports ask of `mpifarm.queue.client.Client`."""

from __future__ import annotations

import json
from collections.abc import Collection, Iterator, Sequence
from pathlib import Path
from typing import Any

import h5py

from mpifarm.core.model import JobId, RunId
from mpifarm.core.needs import Needs
from mpifarm.core.protocol.facts import FailureLine, JobSummary, RunLine, TaskLine
from mpifarm.core.row import AttemptRow
from mpifarm.errors import OutputError, UsageError
from mpifarm.runfile import exported
from mpifarm.runfile.exported import EXPORT_ATTRIBUTE, EXPORT_VERSION, STATES
from mpifarm.runfile.format import FAILURES, explain
from mpifarm.runfile.reader import RunFile, open_run
from mpifarm.startup.limited import reading

TASKS_AT_ONCE = 4096
_AS_PYTHON = ("utf-8", "surrogateescape")


class Archive:
    """An open export. A context manager. All methods raise OutputError for a damaged file."""

    def __init__(self, path: Path) -> None:
        """Raises OutputError: missing, damaged, not an export."""
        self.path = path
        open_run(path).close()
        try:
            self._file = h5py.File(path, "r")
            version = self._file.attrs.get(EXPORT_ATTRIBUTE)
            if version is None:
                raise OutputError(
                    f"{path} is the file of a run, not an exported job: in Python, mpifarm.open_run reads it"
                )
            if version > EXPORT_VERSION:
                raise OutputError(f"{path} was exported by a newer mpifarm (version {version}): use that one")
            with reading(path):
                self._about: dict[str, Any] = json.loads(self._file[exported.JOB][:].tobytes())
        except FAILURES as error:
            raise explain(path, "open", error) from error
        self._job = exported.job_of(self._about["job"])
        self._runs = [RunLine(**values) for values in self._about["runs"]]
        self.paths = {RunId(run.id): str(run.file) for run in self._runs}
        """By run: where its outputs are, which is elsewhere when they were missing at the export."""
        self.paths.update((RunId(int(run)), str(path)) for run in self._about["rows"])

    def __enter__(self) -> Archive:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        self._file.close()

    def jobs(self) -> list[JobSummary]:
        return [self._job]

    def find(self, selector: str) -> JobSummary:
        """The job, for the name of the file. Raises UsageError."""
        if Path(selector) != self.path:
            raise UsageError(f"{self.path} holds one job: say {self.path}, or {self.path}.17 for a task of it")
        return self._job

    def runs(self, job: JobId | None = None) -> list[RunLine]:  # noqa: ARG002
        """None of them is live; `file` is where it was."""
        return self._runs

    def failures(self, job: JobId) -> list[FailureLine]:  # noqa: ARG002
        rows = [dict(zip(FailureLine._fields, values)) for values in self._about["failures"]]
        for row in rows:
            for name in ("stderr_tail", "entry"):
                row[name] = None if row.get(name) is None else row[name].encode(*_AS_PYTHON)
        return [FailureLine(**row) for row in rows]

    def durations(self, job: JobId) -> tuple[float, float, float] | None:  # noqa: ARG002
        values = self._about["durations"]
        return None if values is None else (values[0], values[1], values[2])

    def accounts(self) -> dict[RunId, list[float]]:
        """What became of the core time of its runs, as `mpifarm.outputs.accounting` names it."""
        return {RunId(run): seconds for run, seconds in self._about["accounts"]}

    def open_part(self, run: RunId) -> Part:
        first_row, count = self._about["rows"].get(str(run), (0, 0))
        try:
            return Part(self.path, first_row, count)
        except FAILURES as error:
            raise explain(self.path, "open", error) from error

    def taken_back(self, run: RunId) -> list[tuple[int, int, int]]:  # noqa: ARG002
        return []

    def shapes(self, job: JobId, lo: int = 1, hi: int = 2**31 - 1) -> list[tuple[int, int, Needs]]:  # noqa: ARG002
        rows = self._read(exported.SHAPES, 0, len(self._file[exported.SHAPES]))
        rows = rows[(rows["lo"] < hi) & (rows["hi"] > lo)]
        return [(max(lo, a), min(hi, b), Needs(cpus, time_limit_s=limit_s)) for a, b, cpus, limit_s in rows.tolist()]

    def tasks(
        self,
        job: JobId,  # noqa: ARG002
        *,
        ranges: Sequence[tuple[int, int]] | None = None,
        states: Collection[str] | None = None,
    ) -> Iterator[TaskLine]:
        """Tasks in order of their number. `ranges`: half-open, not overlapping or not in order: each task once."""
        wanted = None if states is None else [STATES.index(state) for state in states]
        done = 1
        for lo, hi in sorted(ranges) if ranges is not None else [(1, self._job.total + 1)]:
            for first in range(max(lo, done), min(hi, self._job.total + 1), TASKS_AT_ONCE):
                yield from self._lines(first, min(first + TASKS_AT_ONCE, hi, self._job.total + 1), wanted)
            done = max(done, hi)

    def _lines(self, lo: int, hi: int, states: Sequence[int] | None) -> Iterator[TaskLine]:
        rows = self._rows_of(lo, hi)
        first, end = (int(rows[0]["text"]), exported.text_end(rows[-1])) if len(rows) else (0, 0)
        texts = self._read(exported.TEXTS, first, end).tobytes()
        for line in exported.lines_of(rows, texts, self._about["nodes"], self.paths):
            if states is None or STATES.index(line.state) in states:
                yield line

    def _rows_of(self, lo: int, hi: int) -> Any:
        """Of the tasks from `lo` to `hi`, all of them."""
        rows = self._read(exported.TASKS, lo - 1, hi - 1)
        if len(rows) != hi - lo:
            raise OutputError(f"{self.path} is damaged: it has lost the rows of its tasks from {lo + len(rows)} on")
        return rows

    def _read(self, name: str, lo: int, hi: int) -> Any:
        try:
            with reading(self.path):
                return self._file[name][lo:hi]
        except FAILURES as error:
            raise explain(self.path, "read", error) from error

    def places(self, job: JobId, lo: int = 1, hi: int = 2**31 - 1) -> Iterator[Any]:  # noqa: ARG002
        """Where the outputs of tasks from `lo` to `hi` are, many at once, in order."""
        for first in range(lo, min(hi, self._job.total + 1), TASKS_AT_ONCE):
            rows = self._rows_of(first, min(first + TASKS_AT_ONCE, hi, self._job.total + 1))
            yield rows[rows["row"] >= 0]

    def counts(self, job: JobId, ranges: Sequence[tuple[int, int]]) -> dict[str, int]:
        """How many of these tasks are in which state."""
        counts = dict.fromkeys(STATES, 0)
        for line in self.tasks(job, ranges=ranges):
            counts[line.state] += 1
        return counts


class Part(RunFile):
    """The attempts of one run within an export, numbered from 0."""

    def __init__(self, path: Path, first_row: int, count: int) -> None:
        super().__init__(path, h5py.File(path, "r", rdcc_nbytes=0))
        self.first_row, self._count = first_row, count

    @property
    def rows(self) -> int:
        return self._count

    def attempts(self, lo: int, hi: int) -> Any:
        return super().attempts(self.first_row + lo, self.first_row + min(hi, self._count))

    def attempt(self, row: int) -> AttemptRow:
        found = self.attempts(row, row + 1)
        if not len(found):
            raise OutputError(f"{self.path} is damaged: it has no attempt row {self.first_row + row}")
        return AttemptRow._make(found[0].item())
