"""Outputs of tasks, byte for byte, out of the run files of a job. Never more than a chunk of them is in memory.

Works while runs are writing: a recorded outcome promises that its bytes are in the file. What cannot be given is told
at the end, after everything that could. Must never import click or mpi4py.
"""

from __future__ import annotations

from collections import OrderedDict, defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, BinaryIO, NamedTuple

from mpifarm.core.ranges import extend
from mpifarm.core.row import STDERR, STDERR_CUT, STDOUT, STDOUT_CUT, AttemptRow, output_checksum
from mpifarm.errors import FarmError, OutputError
from mpifarm.show.text import ranges_text

if TYPE_CHECKING:
    from mpifarm.queue.client import TaskLine
    from mpifarm.runfile.reader import RunFile

FINAL = ("succeeded", "failed", "cancelled")

_FILES_OPEN_MAX = 16


class Absent(FarmError):
    """There is nothing to give of a task, or not yet."""


class NotKept(FarmError):
    """Something is not there because nobody wanted it, or because the task did not make it: no error."""

    exit_code = 0


def not_kept(row: AttemptRow, streams: Iterable[int]) -> Iterator[NotKept]:
    """Which of these streams were not kept whole, and why."""
    parts = {STDOUT: ("stdout", STDOUT_CUT, row.stdout_crc32), STDERR: ("stderr", STDERR_CUT, row.stderr_crc32)}
    for stream in streams:
        name, cut, checksum = parts[stream]
        if row.flags & cut and checksum:
            yield NotKept(f"only the end of its {name} was kept, as its job says (submit --keep)")
        elif row.flags & cut:
            yield NotKept(f"its {name} was not kept, as its job says (submit --keep)")


class Attempt(NamedTuple):
    """An ended attempt and where it is: which row of which run file."""

    path: str
    number: int
    row: AttemptRow


class Outputs:
    """Reads outputs of ended attempts from their run files, a few of which stay open. A context manager."""

    def __init__(self) -> None:
        self._open: OrderedDict[str, RunFile] = OrderedDict()
        self._failed: dict[str, OutputError] = {}
        """Files that cannot be opened: a million tasks shall not try it a million times."""

    def attempt(self, path: str, number: int) -> Attempt:
        """Raises OutputError."""
        return Attempt(path, number, self.file(path).attempt(number))

    def recorded(self, line: TaskLine) -> list[Attempt]:
        """The attempt that counts; none for a task that was cancelled before it ran. Raises OutputError, Absent."""
        if line.state not in FINAL:
            raise Absent("no outcome yet")
        if line.file is None or line.file_row is None:
            return []
        attempt = self.attempt(line.file, line.file_row)
        if attempt.row[:1] + attempt.row[2:4] != (line.lease, line.task, line.attempt):
            raise OutputError(f"run file {line.file} is not the one that was recorded for task {line.task}")
        if line.checksum is not None and line.checksum != output_checksum(attempt.row):
            raise OutputError(f"run file {line.file} does not hold what was recorded: lengths or checksums differ")
        return [attempt]

    def stream(self, attempt: Attempt, stream: int) -> Iterator[bytes]:
        """All that the attempt wrote to it, in pieces. Raises OutputError, for damaged bytes at their end."""
        return self.file(attempt.path).output(attempt.number, stream)

    def file(self, path: str) -> RunFile:
        """Open until so many others were asked for. Raises OutputError."""
        from mpifarm.runfile.reader import open_run

        if path in self._open:
            self._open.move_to_end(path)
            return self._open[path]
        if path in self._failed:
            raise self._failed[path]
        if len(self._open) == _FILES_OPEN_MAX:
            self._open.popitem(last=False)[1].close()
        try:
            self._open[path] = open_run(path)
        except OutputError as error:
            self._failed[path] = error
            raise
        return self._open[path]

    def __enter__(self) -> Outputs:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        for file in self._open.values():
            file.close()
        self._open.clear()


Choice = Callable[[Outputs, "TaskLine"], Iterable[Attempt]]
"""Which attempts of a task are meant, in the order to give them; may raise OutputError or Absent."""


class Missing(NamedTuple):
    """What could not be given, a sentence each; `code` is the exit code it deserves, 0 when nothing is missing."""

    sentences: list[str]
    code: int


class Unanswered:
    """Collects why tasks could not be served, tasks with one reason together."""

    def __init__(self) -> None:
        self._ranges: defaultdict[str, list[tuple[int, int]]] = defaultdict(list)
        self._code = 0

    def add(self, task: int, error: FarmError) -> None:
        self._code = max(self._code, error.exit_code)
        extend(self._ranges[str(error)], task)

    def missing(self) -> Missing:
        return Missing([f"task {tasks}: {reason}" for tasks, reason in self.reasons()], self._code)

    def reasons(self) -> list[tuple[str, str]]:
        """(tasks, why), the tasks as `--tasks` takes them."""
        return [(ranges_text(ranges), reason) for reason, ranges in self._ranges.items()]


def each_attempt(
    lines: Iterable[TaskLine],
    choice: Choice,
    give: Callable[[Outputs, TaskLine, Attempt], None],
    streams: tuple[int, ...] = (STDOUT, STDERR),
) -> Missing:
    """Call `give` for the chosen attempts of every task; go on where one cannot be given, and say so at the end, as of
    `streams` that were not kept."""
    unanswered = Unanswered()
    with Outputs() as outputs:
        serve(lines, outputs, choice, give, streams, unanswered)
    return unanswered.missing()


def serve(
    lines: Iterable[TaskLine],
    outputs: Outputs,
    choice: Choice,
    give: Callable[[Outputs, TaskLine, Attempt], None],
    streams: tuple[int, ...],
    unanswered: Unanswered,
) -> None:
    """As `each_attempt`, for some tasks of several helpings."""
    for line in lines:
        try:
            for attempt in choice(outputs, line):
                give(outputs, line, attempt)
                for what in not_kept(attempt.row, streams):
                    unanswered.add(line.task, what)
        except (OutputError, Absent) as error:
            unanswered.add(line.task, error)


def write_outputs(
    lines: Iterable[TaskLine],
    streams: tuple[int, ...],
    out: BinaryIO,
    choice: Choice = Outputs.recorded,
    announce: Callable[[TaskLine, Attempt], None] | None = None,
) -> Missing:
    """The outputs one after the other with nothing between; `announce` is told before each."""

    def write(outputs: Outputs, line: TaskLine, attempt: Attempt) -> None:
        if announce is not None:
            out.flush()  # in order also where stdout and stderr go to the same place
            announce(line, attempt)
        for stream in streams:
            out.writelines(outputs.stream(attempt, stream))

    return each_attempt(lines, choice, write, streams)


class Pouring:
    """Writes outputs one after the other: those of tasks as they are in memory, and those of an attempt."""

    def __init__(self, streams: tuple[int, ...], out: BinaryIO) -> None:
        self._streams, self._out = streams, out

    def plain(self, _tasks: Sequence[int], texts: Sequence[Sequence[Sequence[memoryview]]]) -> None:
        self._out.write(b"".join(piece for text in texts for pieces in text for piece in pieces))

    def careful(self, outputs: Outputs, _line: TaskLine, attempt: Attempt) -> None:
        for stream in self._streams:
            self._out.writelines(outputs.stream(attempt, stream))
