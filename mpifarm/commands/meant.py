"""Which jobs and tasks are meant by the words a command was given. Must never import click or mpi4py."""

from __future__ import annotations

from typing import TYPE_CHECKING

from mpifarm.core.lifecycle import STATES
from mpifarm.errors import UsageError
from mpifarm.selection.report_options import Ranges, named_tasks
from mpifarm.units import parse_ranges

if TYPE_CHECKING:
    from mpifarm.outputs.source import Source
    from mpifarm.queue.client import Client, JobSummary


def find(client: Source, selector: str, ranges: Ranges | None) -> tuple[JobSummary, Ranges | None]:
    """The job that is meant, and its tasks: those asked for, or those of JOB.17, or of the whole job called so. Raises
    UsageError when there are both."""
    named = named_tasks(selector)
    if ranges is not None or named is None:
        return client.find(selector), ranges
    whole, parent = _found(client, selector), _found(client, named[0])
    if parent is None:
        return whole or client.find(selector), None
    its = parse_ranges(named[1])
    if whole is None:
        return parent, its
    if any(lo <= parent.total for lo, _ in its):
        raise UsageError(
            f"{selector} is the name of a job and also task {named[1]} of job {parent.name}: say {whole.id} for the job"
            f" or {parent.id}.{named[1]} for the task"
        )
    return whole, None


def _found(client: Source, selector: str) -> JobSummary | None:
    try:
        return client.find(selector)
    except UsageError:
        return None


def check_ranges(job: JobSummary, ranges: Ranges) -> None:
    """Raises UsageError for a task number the job does not have."""
    for lo, hi in ranges:
        if hi > job.total + 1:
            raise UsageError(f"job {job.name} has no task {max(lo, job.total + 1)}: it has tasks 1 to {job.total}")


def choose(client: Client, selector: str) -> list[tuple[JobSummary, Ranges | None]]:
    """The jobs that are meant, and of each the tasks (None: all). Raises UsageError."""
    if selector == "all":
        return [(job, None) for job in client.jobs()]
    job, ranges = find(client, selector, None)
    check_ranges(job, ranges or [])
    return [(job, ranges)]


def counts_of(client: Client, job: JobSummary, ranges: Ranges | None) -> dict[str, int]:
    """How many of the tasks that are meant are in which state, as of now."""
    if ranges is not None:
        return client.counts(job.id, ranges)
    found = client.find(str(job.id))
    return {state: getattr(found, state) for state in STATES}
