"""`report --captured`: files that tasks left, as a list or (with --extract) as files again; and what was not kept.

Names come out of run files, which anybody may have made: none leads out of the directory that is extracted to. Must
never import click or mpi4py.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, BinaryIO

from mpifarm.core.row import STDERR, STDERR_CUT, STDOUT, STDOUT_CUT, AttemptRow
from mpifarm.errors import FarmError, OutputError

if TYPE_CHECKING:
    from mpifarm.queue.client import TaskLine
    from mpifarm.reporting.extract import Folder
    from mpifarm.reporting.outputs import Attempt, Choice, Missing, Outputs


class NotKept(FarmError):
    """Something is not there because nobody wanted it, or because the task did not make it: no error."""

    exit_code = 0


def not_kept(row: AttemptRow, streams: Iterable[int]) -> Iterator[NotKept]:
    """Of these streams."""
    parts = {STDOUT: ("stdout", STDOUT_CUT, row.stdout_crc32), STDERR: ("stderr", STDERR_CUT, row.stderr_crc32)}
    for stream in streams:
        name, cut, checksum = parts[stream]
        if row.flags & cut and checksum:
            yield NotKept(f"only the end of its {name} was kept, as its job says (submit --keep)")
        elif row.flags & cut:
            yield NotKept(f"its {name} was not kept, as its job says (submit --keep)")


def give_captured(lines: Iterable[TaskLine], out: BinaryIO, folder: Folder | None, choice: Choice) -> Missing:
    """List what tasks left (task, bytes, name, separated by tabs), or write it to `folder`, below a directory for each
    task. What was asked for and is not there is said, but no error."""
    from mpifarm.output.contents import captured, contents, values
    from mpifarm.reporting.outputs import each_attempt

    notes: list[tuple[int, str]] = []

    def give(outputs: Outputs, line: TaskLine, attempt: Attempt) -> None:
        run = outputs.file(attempt.path)
        notes.extend((line.task, note) for note in contents(run, attempt.row).notes)
        for file in captured(run, attempt.row).values():
            if folder is None:
                _list(out, line.task, file.length, file.name)
            else:
                folder.write((str(line.task), *_components(file.name)), file.pieces(), even_empty=True)
        for name, value in values(run, attempt.row).items():
            if folder is None:
                _list(out, line.task, value.length, f"{name} {value.dtype} {value.shape}")

    missing = each_attempt(lines, choice, give, streams=())
    told = [f"task {task}: {_shown(note)}" for task, note in notes]
    return missing._replace(sentences=[*told, *missing.sentences])


def _list(out: BinaryIO, task: int, length: int, name: str) -> None:
    out.write(f"{task}\t{length}\t{_shown(name)}\n".encode())


def _shown(name: str) -> str:
    """On one line, and plain: other characters as Python escapes them."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape", "surrogatepass").decode() for c in name)


def _components(name: str) -> list[str]:
    components = name.split("/")
    if {"", ".", ".."} & set(components) or "\0" in name:
        raise OutputError(f"a captured file is called {name!r}, which leads out of its directory")
    return components
