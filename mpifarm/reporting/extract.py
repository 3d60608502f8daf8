"""Outputs of tasks, byte for byte: out of the run files of a job, to a stream or to one file per task and stream.

Works while runs are writing: a recorded outcome promises that its bytes are in the file. What cannot be given is told
at the end, after everything that could. Must never import click or mpi4py.
"""

from __future__ import annotations

import os
import re
from collections import OrderedDict, defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO, NamedTuple

from mpifarm.core.row import STDERR, STDOUT
from mpifarm.errors import OutputError, UsageError
from mpifarm.reporting.text import spans_text

if TYPE_CHECKING:
    from mpifarm.output.reader import RunFile
    from mpifarm.queue.client import TaskLine

FINAL = ("succeeded", "failed", "cancelled")

_FILES_OPEN_MAX = 16
_SUFFIX = {STDOUT: "out", STDERR: "err"}
_OURS = re.compile(r"([1-9][0-9]*)\.(?:out|err)")


class Outputs:
    """Reads outputs of recorded tasks from their run files, a few of which stay open. A context manager."""

    def __init__(self) -> None:
        self._open: OrderedDict[str, RunFile] = OrderedDict()

    def streams(self, line: TaskLine, wanted: Iterable[int]) -> Iterator[tuple[int, Iterator[bytes]]]:
        """What the recorded attempt wrote to these streams, in pieces; no stream at all for a task that never ran.

        Raises OutputError, for damaged bytes at the end of their stream.
        """
        if line.file is None or line.file_row is None:
            return
        file = self._file(line.file)
        row = file.attempt(line.file_row)
        if (row.lease, row.task, row.attempt) != (line.lease, line.task, line.attempt):
            raise OutputError(f"run file {line.file} is not the one that was recorded for task {line.task}")
        sizes = {STDOUT: row.stdout_bytes, STDERR: row.stderr_bytes}
        for stream in wanted:
            yield stream, file.output(line.file_row, stream) if sizes[stream] else iter(())

    def _file(self, path: str) -> RunFile:
        from mpifarm.output.reader import open_run

        if path in self._open:
            self._open.move_to_end(path)
            return self._open[path]
        if len(self._open) == _FILES_OPEN_MAX:
            self._open.popitem(last=False)[1].close()
        self._open[path] = open_run(path)
        return self._open[path]

    def __enter__(self) -> Outputs:
        return self

    def __exit__(self, *_: object) -> None:
        for file in self._open.values():
            file.close()


class Missing(NamedTuple):
    """What could not be given, a sentence each; `code` is the exit code it deserves, 0 when nothing is missing."""

    sentences: list[str]
    code: int


def write_outputs(lines: Iterable[TaskLine], streams: tuple[int, ...], out: BinaryIO) -> Missing:
    """The outputs one after the other with nothing between."""

    def write(outputs: Outputs, line: TaskLine) -> None:
        for _, pieces in outputs.streams(line, streams):
            out.writelines(pieces)

    return _each(lines, write)


def extract(lines: Iterable[TaskLine], directory: Path, *, force: bool) -> Missing:
    """Files `17.out` and, unless empty, `17.err` in `directory` for every task that ran; a file appears whole or not.

    Raises UsageError for a file that exists, unless `force`.
    """

    def write(outputs: Outputs, line: TaskLine) -> None:
        for stream, pieces in outputs.streams(line, _SUFFIX):
            _write_file(directory / f"{line.task}.{_SUFFIX[stream]}", pieces, stream == STDOUT, force)

    return _each(lines, write)


def prepare_directory(directory: Path, ranges: Sequence[tuple[int, int]] | None, *, force: bool) -> None:
    """Make it; without `force`, refuse one that holds outputs of these tasks (None: of any) before any is written."""
    directory.mkdir(parents=True, exist_ok=True)
    if force:
        return
    for path in directory.iterdir():
        number = _OURS.fullmatch(path.name)
        if number and (ranges is None or any(lo <= int(number[1]) < hi for lo, hi in ranges)):
            raise _exists(path)


def _each(lines: Iterable[TaskLine], write: Callable[[Outputs, TaskLine], None]) -> Missing:
    """Write every task that has an outcome; collect why others could not be, tasks with one reason together."""
    missing: defaultdict[str, list[list[int]]] = defaultdict(list)
    code = 0
    with Outputs() as outputs:
        for line in lines:
            if line.state in FINAL:
                try:
                    write(outputs, line)
                    continue
                except OutputError as error:
                    reason, code = str(error), error.exit_code
            else:
                reason, code = "no outcome yet", code or 1
            spans = missing[reason]
            if spans and spans[-1][1] == line.task - 1:
                spans[-1][1] = line.task
            else:
                spans.append([line.task, line.task])
    return Missing([f"task {spans_text(spans)}: {reason}" for reason, spans in missing.items()], code)


def _write_file(path: Path, pieces: Iterator[bytes], even_empty: bool, force: bool) -> None:
    """Written beside its name and then given it, so that a name always stands for a whole output.

    The name itself is never opened, so a symbolic link of that name leads nowhere.
    """
    first = next(pieces, b"")
    if not first and not even_empty:
        if force:
            path.unlink(missing_ok=True)  # left by an earlier extraction, it would be taken for this one's
        return
    draft = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        with open(draft, "xb") as file:
            file.write(first)
            file.writelines(pieces)
        if force:
            draft.replace(path)
        else:
            _name(draft, path)
    finally:
        draft.unlink(missing_ok=True)


def _name(draft: Path, path: Path) -> None:
    """Like a rename that refuses to replace. Raises UsageError."""
    try:
        os.link(draft, path)
    except FileExistsError:
        raise _exists(path) from None
    except OSError:
        # No hard links on this file system; the small window between the two calls has to do.
        if os.path.lexists(path):
            raise _exists(path) from None
        draft.rename(path)


def _exists(path: Path) -> UsageError:
    return UsageError(f"{path} exists already: --force replaces such files, or choose another directory")
