"""`mpifarm set`: priority, hold and tags of jobs. Must never import click or mpi4py."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from mpifarm.commands.answer import say
from mpifarm.commands.meant import choose
from mpifarm.core.plural import counted
from mpifarm.errors import UsageError
from mpifarm.show.objects import job_object

if TYPE_CHECKING:
    from mpifarm.queue.client import Client, JobSummary


def set_jobs(
    client: Client, selector: str, priority: int | None, held: bool | None, tags: Mapping[str, str], *, as_json: bool
) -> None:
    jobs = []
    for job, ranges in choose(client, selector):
        if ranges is not None:
            raise UsageError(f"priority, hold and tags are those of a whole job: mpifarm set {job.name}")
        client.set_job(job.id, priority=priority, held=held, tags=tags)
        jobs.append(client.find(str(job.id)))
    say(map(job_object, jobs), map(_settings, jobs), as_json)


def _settings(job: JobSummary) -> str:
    tags = "".join(f", {name}={value}" if value else f", {name}" for name, value in job.tags)
    on = counted(job.running, "task that runs hold goes on", "tasks that runs hold go on")
    running = f"; {on}" if job.held and job.running else ""
    return f"{job.name}: priority {job.priority}, {'held' if job.held else 'not held'}{tags}{running}"
