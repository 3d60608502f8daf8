"""`mpifarm tasks`: a line per task, in any format. Must never import click or mpi4py."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from mpifarm.commands.answer import look_of
from mpifarm.commands.meant import check_ranges, find
from mpifarm.selection.report_options import Ranges
from mpifarm.selection.where import Predicate, select
from mpifarm.show.text import task_head, task_text

if TYPE_CHECKING:
    from mpifarm.outputs.source import Source
    from mpifarm.queue.client import TaskLine


def print_tasks(
    client: Source,
    selector: str,
    ranges: Ranges | None,
    states: Sequence[str],
    where: Predicate | None = None,
    form: str = "text",
) -> None:
    """The tasks of a job in one of `formats.FORMATS`, or as text; written as the rows arrive, so memory stays flat."""
    job, ranges = find(client, selector, ranges)
    check_ranges(job, ranges or [])

    def chosen() -> Iterator[TaskLine]:
        return select(client.tasks(job.id, ranges=ranges, states=states or None), where)

    if form == "taskfile":
        from mpifarm.commands.as_taskfile import write_taskfile

        sys.stdout.flush()
        write_taskfile(client, job, chosen, sys.stdout.buffer)
        return
    lines = chosen()
    if form != "text":
        from mpifarm.show.formats import FORMATS

        sys.stdout.flush()
        FORMATS[form](lines, sys.stdout.buffer)
        return
    look, digits = look_of(sys.stdout), max(4, len(str(job.total)))
    if look.width is not None:
        print(task_head(digits))
    for line in lines:
        sys.stdout.write(task_text(line, digits, look) + "\n")
