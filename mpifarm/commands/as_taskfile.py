"""`mpifarm tasks JOB --as-taskfile`: tasks as a file that `mpifarm submit` reads as the same ones, with what they need
and what they wait for.

Tasks are numbered anew in such a file, and so are those that they wait for. What is not in the file cannot be waited
for there: a comment says so, before the first task that did (`mpifarm submit --after` can wait for them). What an
export holds of a job does not include what its tasks waited for. Must never import click or mpi4py.
"""

from __future__ import annotations

from array import array
from bisect import bisect_left
from collections.abc import Callable, Iterable, Iterator
from itertools import groupby, islice
from typing import TYPE_CHECKING, BinaryIO, cast

from mpifarm.core.model import Parent
from mpifarm.core.needs import Needs
from mpifarm.errors import UsageError
from mpifarm.intake.parents import merged
from mpifarm.intake.task_options import said
from mpifarm.intake.taskfile import check_command
from mpifarm.outputs.source import archive_of

if TYPE_CHECKING:
    from mpifarm.outputs.source import Source
    from mpifarm.queue.client import Client, JobSummary, TaskLine

BLOCK_TASKS = 2000


def write_taskfile(client: Source, job: JobSummary, lines: Callable[[], Iterable[TaskLine]], out: BinaryIO) -> None:
    """`lines`: asked for twice when tasks of the job wait for others. Raises UsageError for a command that cannot be a
    line of a task file; what came before it is written then."""
    needs, missing = Needs(), b""
    awaited = _Awaited(client, job, lines)
    for task, needed in _shaped(client, job, lines()):
        _check(job, task)
        if needed != needs:
            out.write(_directive(needs, needed))
            needs = needed
        annotation, comment = awaited.of(task.task)
        if comment != missing:
            out.write(comment)
            missing = comment
        out.write(annotation + task.command + b"\n")


class _Awaited:
    """What each task waits for, in the numbers of the file. Keeps 4 bytes per task when any waits, else nothing."""

    def __init__(self, client: Source, job: JobSummary, lines: Callable[[], Iterable[TaskLine]]) -> None:
        self._client, self._job = client, job
        self._rows: Iterator[tuple[int, int, tuple[Parent, ...]]] = iter(())
        self._row: tuple[int, int, tuple[Parent, ...]] | None = None
        self._numbers = array("I")
        """Of the tasks in the file, as they are in the job, in order."""
        self._names: dict[int, str] = {}
        self._said: tuple[tuple[Parent, ...], tuple[bytes, bytes]] = ((), (b"", b""))
        if archive_of(client) is None:
            self._rows = cast("Client", client).needs(job.id)
            self._row = next(self._rows, None)
        if self._row is not None:
            self._numbers.extend(line.task for line in lines())

    def of(self, task: int) -> tuple[bytes, bytes]:
        """The annotation before its command, and a comment about what it cannot name. Tasks come in order."""
        while self._row is not None and self._row[1] <= task:
            self._row = next(self._rows, None)
        if self._row is None or task < self._row[0]:
            return b"", b""
        parents = self._row[2]
        if parents != self._said[0]:
            self._said = (parents, self._say(parents))
        return self._said[1]

    def _say(self, parents: tuple[Parent, ...]) -> tuple[bytes, bytes]:
        here: list[Parent] = []
        missing: list[str] = []
        for parent in parents:
            own = parent.job == self._job.id
            lo, hi = (bisect_left(self._numbers, number) + 1 if own else 0 for number in parent[:2])
            if hi > lo:
                here.append(Parent(lo, hi, parent.any))
            if hi - lo < parent.hi - parent.lo:
                missing.append(f"{'any ' if parent.any else ''}{self._name(parent)}.{_range(parent)}")
        comment = (
            f"# what follows waited for {', '.join(missing)}: not all of them are in this file\n" if missing else ""
        )
        texts = [
            f"[# {'any ' if any_end else ''}{','.join(map(_range, group))} #] "
            for any_end, group in groupby(merged(here), lambda parent: parent.any)
        ]
        return "".join(texts).encode(), comment.encode()

    def _name(self, parent: Parent) -> str:
        if not self._names:
            self._names = {job.id: job.name for job in self._client.jobs()}
        return self._names.get(cast("int", parent.job), f"job {parent.job}")


def _range(parent: Parent) -> str:
    return str(parent.lo) if parent.hi - parent.lo == 1 else f"{parent.lo}-{parent.hi - 1}"


def _shaped(client: Source, job: JobSummary, lines: Iterable[TaskLine]) -> Iterator[tuple[TaskLine, Needs]]:
    ahead = iter(lines)
    while block := list(islice(ahead, BLOCK_TASKS)):
        shapes = iter(client.shapes(job.id, block[0].task, block[-1].task + 1))
        _, hi, needs = next(shapes)
        for task in block:
            while task.task >= hi:
                _, hi, needs = next(shapes)
            yield task, needs


def _check(job: JobSummary, task: TaskLine) -> None:
    command = task.command
    text = command.lstrip(b" \t")
    special = not text or text.startswith((b"#", b"[#")) or command.startswith(b"\xef\xbb\xbf")
    if special or b"\n" in command or command.endswith(b"\r"):
        reason = "is no line of a task file: it is empty, begins with #, [# or a byte order mark, or holds line ends"
        raise UsageError(f"the command of {job.name}.{task.task} {reason} (mpifarm tasks {job.name} --json has it)")
    check_command(command, f"{job.name}.{task.task}", 1)


def _directive(before: Needs, after: Needs) -> bytes:
    """What changes, as the task file says it."""
    return (" ".join(["#MPIFARM", *said(after, before)]) + "\n").encode()
