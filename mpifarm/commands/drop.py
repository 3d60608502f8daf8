"""`mpifarm drop`: a job leaves the queue for good. Must never import click or mpi4py."""

from __future__ import annotations

from typing import TYPE_CHECKING

from mpifarm.commands.answer import say
from mpifarm.core.lifecycle import STATES
from mpifarm.core.plural import counted
from mpifarm.show.objects import job_object
from mpifarm.show.text import when

if TYPE_CHECKING:
    from mpifarm.queue.client import Client, JobSummary


def doomed(job: JobSummary) -> str:
    """What dropping a job deletes."""
    counts = ", ".join(f"{getattr(job, state):,} {state}" for state in STATES if state != "waiting" or job.waiting)
    return f"job {job.name} (id {job.id}, submitted {when(job.submitted)}): {counted(job.total, 'task')}: {counts}"


def drop(client: Client, job: JobSummary, *, as_json: bool) -> None:
    client.drop(job.id)
    say([job_object(job)], [f"deleted {doomed(job)}; run files stay"], as_json)
