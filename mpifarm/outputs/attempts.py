"""`--attempt all|N`: all attempts of tasks that run files hold, superseded ones too.

The queue knows the attempt that counts. Those that were given back (walltime, a drain), or whose record came after
their lease had gone, are rows of run files only; they are found by looking through the `attempts` tables in blocks.
For memory that does not grow with a job, tasks are served in windows: one look through the files finds the attempts
of `WINDOW_TASKS` tasks. Must never import click, h5py or mpi4py.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from mpifarm.core.model import FailureClass, State
from mpifarm.errors import OutputError
from mpifarm.outputs.streams_of_tasks import FINAL, Absent, Attempt, Outputs
from mpifarm.show.text import ending
from mpifarm.units import format_seconds

if TYPE_CHECKING:
    from mpifarm.queue.client import TaskLine
    from mpifarm.runfile.reader import RunFile

WINDOW_TASKS = 1 << 20
BLOCK_ROWS = 1 << 15
"""Attempts looked at in one go: 3 MiB."""

_FOUND = np.dtype([("task", "u4"), ("attempt", "u2"), ("lease", "u8"), ("file", "u4"), ("row", "u4")])
_ORDER = ("task", "attempt", "lease")
Found = np.ndarray[Any, Any]


class Attempts:
    """A choice of attempts: those of one number, or (None) all. Tasks must be asked for in ascending order.

    `needed`: a task that has none is an error.
    """

    def __init__(self, files: Sequence[str], job: int, number: int | None, *, needed: bool) -> None:
        self._files, self._job, self._number, self._needed = files, job, number, needed
        self._window = range(0)
        self._found: Found = np.zeros(0, _FOUND)
        self._tasks: Found = np.zeros(0, np.int64)
        """Those of `_found`, as a plain array of Python's integers: numpy would copy anything else to search in it."""
        self.unreadable: dict[str, OutputError] = {}
        """By path; whatever these files hold is missing."""

    def __call__(self, outputs: Outputs, line: TaskLine) -> Iterator[Attempt]:
        """In the order they were made. Raises OutputError, Absent."""
        if line.task not in self._window:
            self._window = range(line.task, line.task + WINDOW_TASKS)
            self._found = self._look(outputs)
            self._tasks = self._found["task"].astype(np.int64)
        lo, hi = (int(self._tasks.searchsorted(task)) for task in (line.task, line.task + 1))
        if lo == hi:
            if line.state in FINAL and line.file in self.unreadable:
                raise self.unreadable[line.file]
            if self._needed:
                raise Absent("no attempt has ended yet" if self._number is None else f"no attempt {self._number}")
        for *_, file, row in self._found[lo:hi].tolist():
            yield outputs.attempt(self._files[file], row)

    def _look(self, outputs: Outputs) -> Found:
        """Attempts of the tasks of the window, in order."""
        parts: list[Found] = []
        for number, path in enumerate(self._files):
            if path not in self.unreadable:
                try:
                    parts += self._of_file(outputs.file(path), number)
                except OutputError as error:
                    self.unreadable[path] = error
        found = np.concatenate(parts) if parts else np.zeros(0, _FOUND)
        order = np.lexsort([found[name] for name in reversed(_ORDER)])
        ordered: Found = found[order]
        return ordered

    def _of_file(self, run: RunFile, number: int) -> Iterator[Found]:
        lo, hi = self._window.start, self._window.stop
        run.refresh()
        for start in range(0, run.rows, BLOCK_ROWS):
            rows = run.attempts(start, start + BLOCK_ROWS)
            mine = (rows["job"] == self._job) & (rows["task"] >= lo) & (rows["task"] < hi)
            if self._number is not None:
                mine &= rows["attempt"] == self._number
            at = np.flatnonzero(mine)
            if at.size:
                found = np.zeros(at.size, _FOUND)
                for name in _ORDER:
                    found[name] = rows[name][at]
                found["file"], found["row"] = number, start + at
                yield found


def heading(job: str, line: TaskLine, attempt: Attempt) -> str:
    """What is said before the output of one of several attempts."""
    row = attempt.row
    how = ending(FailureClass(row.failure).name.lower(), row.exit_code, row.signal)
    counts = line.state in FINAL and (line.lease, line.attempt) == (row.lease, row.attempt)
    words = [
        State(row.state).name.lower() + (f" ({how})" if how else ""),
        f"after {format_seconds(row.ended - row.started)}",
    ]
    words.append("the one that counts" if counts else "superseded")
    return f"==> {job}.{line.task}, attempt {row.attempt}: {', '.join(words)} <=="


def announcer(job: str, tell: Callable[[str], None]) -> Callable[[TaskLine, Attempt], None]:
    """Tells the heading of each attempt."""
    return lambda line, attempt: tell(heading(job, line, attempt))
