"""`report --captured`: files that tasks left, as a list or (with --extract) as files again.

Names come out of run files, which anybody may have made: none leads out of the directory that is extracted to. Must
never import click or mpi4py.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, BinaryIO

from mpifarm.errors import OutputError
from mpifarm.outputs.streams_of_tasks import each_attempt

if TYPE_CHECKING:
    from mpifarm.outputs.extract import Folder
    from mpifarm.outputs.streams_of_tasks import Attempt, Choice, Missing, Outputs
    from mpifarm.queue.client import TaskLine


def give_captured(lines: Iterable[TaskLine], out: BinaryIO, folder: Folder | None, choice: Choice) -> Missing:
    """List what tasks left (task, bytes, name, separated by tabs), or write it to `folder`, below a directory for each
    task. What was asked for and is not there is said, but no error."""
    from mpifarm.runfile.captures import captured, contents, values

    notes: list[tuple[int, str]] = []

    def give(outputs: Outputs, line: TaskLine, attempt: Attempt) -> None:
        run = outputs.file(attempt.path)
        notes.extend((line.task, note) for note in contents(run, attempt.row).notes)
        refused = []
        for file in captured(run, attempt.row).values():
            if folder is None:
                _list(out, line.task, file.length, file.name)
                continue
            components = (str(line.task), *_components(file.name))
            try:
                folder.write(components, file.pieces(), even_empty=True)
            except OutputError as error:  # the others of this task are none the worse for it
                refused.append(str(error))
        for name, value in values(run, attempt.row).items():
            if folder is None and value.dtype is not None:
                _list(out, line.task, value.length, f"{name} {value.dtype} {value.shape}")
        if refused:
            raise OutputError("; ".join(refused))

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
