"""The outputs of tasks in Python: `mpifarm.open_run(path)` reads one run file, `mpifarm.open_job(name)` a job of the
queue with all its runs. Both can be read while runs are writing, and neither holds more than it was asked for.

Must never import click or mpi4py; psycopg, h5py and numpy come with the first call.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from mpifarm.core.model import FailureClass, State
from mpifarm.core.row import STDERR, STDOUT
from mpifarm.errors import UsageError
from mpifarm.outputs.source import open_source
from mpifarm.outputs.streams_of_tasks import FINAL, Absent, Attempt, Outputs

if TYPE_CHECKING:
    from types import TracebackType

    from mpifarm.outputs.source import Source
    from mpifarm.queue.client import JobSummary, TaskLine
    from mpifarm.runfile.captures import Captured

PAGE_TASKS = 2000
"""Tasks asked of the queue at once. No transaction is open between, however long a loop over them takes."""

BLOCK_ROWS = 1 << 15


class Task(NamedTuple):
    """A task and its attempt that counts; what there is not (yet) is None. `seconds` of wall time, `started` in Unix
    seconds, `command` as it was submitted (None in `open_run`: run files do not hold it)."""

    job: str
    task: int
    state: str
    failure: str | None
    exit_code: int | None
    signal: int | None
    seconds: float | None
    started: float | None
    node: str | None
    attempt: int | None
    command: bytes | None
    place: tuple[str, int] | None
    """The path of the run file and the row in its `attempts`."""
    entry: bytes | None = None
    """The value it was made from (`submit --array`, `--each-line`, `:::`); None in `open_run`, too."""


def open_run(path: str | os.PathLike[str]) -> Run:
    """Open a run file. Raises mpifarm.FarmError.

    >>> import mpifarm
    >>> with mpifarm.open_run("mpifarm-run-1.h5") as run:
    ...     for task in run.tasks():
    ...         print(task.task, task.state, run.stdout(task))
    1 succeeded b'one\\n'
    2 failed b''
    3 succeeded b'three\\n'
    >>> with mpifarm.open_run("mpifarm-run-1.h5") as run:
    ...     run.stderr(2)
    b'cannot read 2\\n'
    """
    return Run(Path(path))


def open_job(name: str, dsn: str | None = None) -> Job:
    """Open a job by name or number, or the youngest as `last`; the queue is found as by the commands unless `dsn` says
    where it is. The name of a file that `mpifarm export` wrote opens the job in it. Raises mpifarm.FarmError.

    >>> import mpifarm
    >>> with mpifarm.open_job("scan") as job:
    ...     print(len(job), job.stdout(3))
    ...     for task in job.tasks("state = failed"):
    ...         print(task.task, task.exit_code, job.stderr(task))
    3 b'three\\n'
    2 1 b'cannot read 2\\n'
    """
    with ExitStack() as stack:
        source = stack.enter_context(open_source(name, dsn))
        return Job(source, source.find(name), stack.pop_all())


class _Readable:
    """What jobs and runs have in common: outputs of tasks, and being closed."""

    def __init__(self) -> None:
        self._outputs = Outputs()

    def _find(self, number: int) -> Task:
        raise NotImplementedError

    def stdout(self, task: Task | int) -> bytes:
        """All that the task wrote there, as far as its job kept it (`submit --keep`). Raises mpifarm.FarmError: no
        outcome yet, no such task, damaged."""
        return b"".join(self.stream(task, STDOUT))

    def stderr(self, task: Task | int) -> bytes:
        """All that the task wrote there. Raises as `stdout` does."""
        return b"".join(self.stream(task, STDERR))

    def stream(self, task: Task | int, stream: int = STDOUT) -> Iterator[bytes]:
        """Stdout (1) or stderr (2) in pieces of at most 256 KiB, for outputs larger than memory."""
        attempt = self._attempt(task)
        return iter(()) if attempt is None else self._outputs.stream(attempt, stream)

    def captured(self, task: Task | int) -> dict[str, Captured]:
        """The files that the task left and `submit --capture` took, by name; `.bytes` or `.pieces()` of each are its
        content, `.array` is what a .npy file holds. Raises as `stdout` does.

        >>> import mpifarm
        >>> with mpifarm.open_run("mpifarm-run-1.h5") as run:
        ...     sorted(run.captured(3))
        []
        """
        from mpifarm.runfile.captures import captured

        attempt = self._attempt(task)
        return {} if attempt is None else captured(self._outputs.file(attempt.path), attempt.row)

    def value(self, task: Task | int, *, unpickle: bool = False) -> Any:
        """What the task's call returned: JSON, bytes and arrays as they were, dataclasses as their fields. Anything
        else was pickled, and is only loaded by `unpickle` (which runs code of whoever wrote it), or `.load()`. Raises
        mpifarm.RaisedError when the call raised; else as `stdout` does.

        >>> import mpifarm
        >>> with mpifarm.open_job("squares") as job:
        ...     job.value(3)
        ...     [(task.task, value) for task, value in job.values()]
        9
        [(1, 1), (2, 4), (3, 9)]
        """
        from mpifarm.outputs.values import value_of

        return value_of(self._values(task), unpickle=unpickle)

    def arrays(self, task: Task | int) -> dict[str, Any]:
        """The arrays that the value of the task holds, by their place in it, as numpy arrays. Raises as `stdout`
        does."""
        return {name: value.array for name, value in self._values(task).items() if value.dtype is not None}

    def usage(self, task: Task | int) -> dict[str, float]:
        """What the task used: `seconds`, `user_s`, `system_s`, `max_rss_kib`, `read_bytes`, `write_bytes`; empty when
        it was cancelled before it ran. Raises as `stdout` does."""
        from mpifarm.outputs.values import usage_of

        attempt = self._attempt(task)
        return {} if attempt is None else usage_of(attempt.row)

    def _values(self, task: Task | int) -> dict[str, Captured]:
        from mpifarm.runfile.captures import values

        attempt = self._attempt(task)
        return {} if attempt is None else values(self._outputs.file(attempt.path), attempt.row)

    def notes(self, task: Task | int) -> tuple[str, ...]:
        """Why something that `submit --capture` named is not there. Raises as `stdout` does."""
        from mpifarm.runfile.captures import contents

        attempt = self._attempt(task)
        return () if attempt is None else contents(self._outputs.file(attempt.path), attempt.row).notes

    def _attempt(self, task: Task | int) -> Attempt | None:
        """The one that counts; None for a task that was cancelled before it ran."""
        found = self._find(task) if isinstance(task, int) else task
        if found.place is not None:
            return self._outputs.attempt(*found.place)
        if found.state in FINAL:
            return None
        raise Absent(f"task {found.task} of {found.job} has no outcome yet")

    def close(self) -> None:
        self._outputs.close()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


class Job(_Readable):
    """A job; its tasks from 1 to `len(job)`. A context manager."""

    def __init__(self, source: Source, summary: JobSummary, opened: ExitStack) -> None:
        """`opened`: what `close` lets go of."""
        super().__init__()
        self._source, self._summary, self._opened = source, summary, opened

    def __enter__(self) -> Job:
        return self

    def __len__(self) -> int:
        return self._summary.total

    def __iter__(self) -> Iterator[Task]:
        return self.tasks()

    @property
    def name(self) -> str:
        return self._summary.name

    def tasks(self, where: str | None = None) -> Iterator[Task]:
        """Tasks in order as they stand now; `where` as `mpifarm tasks --where` takes it."""
        from mpifarm.selection.where import parse_where

        holds = None if where is None else parse_where(where)
        return (
            self._task(line)
            for lo in range(1, len(self) + 1, PAGE_TASKS)
            for line in list(self._source.tasks(self._summary.id, ranges=[(lo, lo + PAGE_TASKS)]))
            if holds is None or holds(line)
        )

    def ended(self, ranges: Sequence[tuple[int, int]]) -> Iterator[Task]:
        """Those of the tasks in half-open ranges that have an outcome by now."""
        return map(self._task, list(self._source.tasks(self._summary.id, ranges=ranges, states=FINAL)))

    def values(self, where: str | None = None, *, unpickle: bool = False) -> Iterator[tuple[Task, Any]]:
        """Tasks that have succeeded, each with what its call returned, in order; `where` as in `tasks`."""
        for task in self.tasks(where):
            if task.state == "succeeded":
                yield task, self.value(task, unpickle=unpickle)

    def close(self) -> None:
        super().close()
        self._opened.close()

    def _find(self, number: int) -> Task:
        lines = list(self._source.tasks(self._summary.id, ranges=[(number, number + 1)]))
        if not lines:
            raise UsageError(f"job {self.name} has no task {number}: it has tasks 1 to {len(self)}")
        return self._task(lines[0])

    def _task(self, line: TaskLine) -> Task:
        place = None if line.file is None or line.file_row is None else (line.file, line.file_row)
        failure = None if line.failure in ("", "none") else line.failure
        outcome = (line.state, failure, line.exit_code, line.signal, line.seconds, line.started, line.node)
        return Task(self.name, line.task, *outcome, line.attempt, line.command, place, line.entry)


class Run(_Readable):
    """One run file; of a task with several attempts in it, the last that was final, or else the last. The queue alone
    knows which attempt counts when a task was in several runs: see `open_job`. A context manager."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self._path = str(path)
        self.attributes = dict(self._outputs.file(self._path).attributes)
        """What the run wrote about itself."""
        self._index: Any = None

    def __enter__(self) -> Run:
        return self

    def __len__(self) -> int:
        """Tasks with an attempt in the file, as of the first look or the last `refresh`."""
        return len(self._rows())

    def __iter__(self) -> Iterator[Task]:
        return self.tasks()

    def tasks(self) -> Iterator[Task]:
        """Tasks that have an attempt in the file, by job and number."""
        return (self._task(int(row)) for row in self._rows()["row"])

    def refresh(self) -> None:
        """See what was written since."""
        self._outputs.file(self._path).refresh()
        self._index = None

    def _find(self, number: int) -> Task:
        rows = self._rows()
        found = rows["row"][rows["task"] == number]
        if not len(found):
            raise Absent(f"run file {self._path} has no ended attempt of task {number}")
        if len(found) > 1:
            raise UsageError(f"run file {self._path} has a task {number} of several jobs: ask with one from tasks()")
        return self._task(int(found[0]))

    def _task(self, number: int) -> Task:
        run = self._outputs.file(self._path)
        row = run.attempt(number)
        failure = FailureClass(row.failure).name.lower() if row.failure else None
        node = run.nodes[row.node][0] if row.node < len(run.nodes) else None
        ran = (row.exit_code, row.signal, row.ended - row.started, row.started, node)
        state = State(row.state).name.lower()
        return Task(str(row.job), row.task, state, failure, *ran, row.attempt, None, (self._path, number))

    def _rows(self) -> Any:
        """The row of each task, sorted: 13 bytes per attempt, made at the first use."""
        import numpy as np

        if self._index is None:
            kind = np.dtype([("job", "u4"), ("task", "u4"), ("final", "?"), ("row", "u4")])
            run = self._outputs.file(self._path)
            index = np.zeros(run.rows, kind)
            for lo in range(0, run.rows, BLOCK_ROWS):
                rows = run.attempts(lo, lo + BLOCK_ROWS)
                part = index[lo : lo + len(rows)]
                part["job"], part["task"] = rows["job"], rows["task"]
                part["final"] = rows["state"] != State.RETURNED
                part["row"] = np.arange(lo, lo + len(rows))
            index = index[np.lexsort((index["row"], index["final"], index["task"], index["job"]))]
            last = np.ones(len(index), bool)  # of each task, the last is the one to show
            last[:-1] = (index["job"][1:] != index["job"][:-1]) | (index["task"][1:] != index["task"][:-1])
            self._index = index[last]
        return self._index
