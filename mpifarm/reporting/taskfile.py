"""`mpifarm tasks JOB --as-taskfile`: tasks as a file that `mpifarm submit` reads as the same ones, shapes included.

Must never import click or mpi4py.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import islice
from typing import TYPE_CHECKING, BinaryIO

from mpifarm.core.model import Shape
from mpifarm.errors import UsageError
from mpifarm.intake.taskfile import check_command

if TYPE_CHECKING:
    from mpifarm.queue.client import JobSummary, TaskLine
    from mpifarm.reporting.source import Source

BLOCK_TASKS = 2000


def write_taskfile(client: Source, job: JobSummary, lines: Iterable[TaskLine], out: BinaryIO) -> None:
    """Raises UsageError for a command that cannot be a line of a task file; what came before it is written then."""
    shape = Shape()
    for task, needed in _shaped(client, job, lines):
        _check(job, task)
        if needed != shape:
            out.write(_directive(shape, needed))
            shape = needed
        out.write(task.command + b"\n")


def _shaped(client: Source, job: JobSummary, lines: Iterable[TaskLine]) -> Iterator[tuple[TaskLine, Shape]]:
    ahead = iter(lines)
    while block := list(islice(ahead, BLOCK_TASKS)):
        shapes = iter(client.shapes(job.id, block[0].task, block[-1].task + 1))
        _, hi, shape = next(shapes)
        for task in block:
            while task.task >= hi:
                _, hi, shape = next(shapes)
            yield task, shape


def _check(job: JobSummary, task: TaskLine) -> None:
    command = task.command
    start = command.lstrip(b" \t")[:1]
    if b"\n" in command or command.endswith(b"\r") or start in (b"", b"#") or command.startswith(b"\xef\xbb\xbf"):
        reason = "is no line of a task file: it is empty, begins with # or a byte order mark, or holds line ends"
        raise UsageError(f"the command of {job.name}.{task.task} {reason} (mpifarm tasks {job.name} --json has it)")
    check_command(command, f"{job.name}.{task.task}", 1)


def _directive(before: Shape, after: Shape) -> bytes:
    """What changes, as the task file says it."""
    words = ["#MPIFARM"]
    if after.cpus != before.cpus:
        words += ["--cpus", str(after.cpus)]
    if after.time_limit_s != before.time_limit_s:
        plain = repr(after.time_limit_s)
        words += ["--time-limit", f"{after.time_limit_s:.9f}s" if "e" in plain else f"{plain}s"]
    return (" ".join(words) + "\n").encode()
