"""`mpifarm export JOB FILE.h5`: a job with all its outputs as one file that needs no queue.

Must never import click, h5py or mpi4py.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from mpifarm.core.plural import counted
from mpifarm.errors import OutputError
from mpifarm.outputs.history import accounts
from mpifarm.outputs.streams_of_tasks import Missing
from mpifarm.show.whole_file import draft_of

if TYPE_CHECKING:
    from mpifarm.queue.client import Client


def export(client: Client, selector: str, path: Path, *, every_attempt: bool, missing_ok: bool, force: bool) -> Missing:
    """Write FILE. Raises OutputError: a run file that cannot be read (unless `missing_ok`), no space."""
    from mpifarm.runfile.exported import job_values
    from mpifarm.runfile.merge import Merge

    job = client.find(selector)
    runs = [run._replace(live=False) for run in client.runs(job.id)]
    with draft_of(path, force=force) as draft:
        merge = Merge(draft, job.id, every_attempt=every_attempt, missing_ok=missing_ok)
        try:
            files = {run.id: run.file for run in runs if run.file is not None}
            missed = merge.tasks(client.tasks(job.id), files)
            merge.copy()
            job = client.find(str(job.id))
            known = accounts(client, [run.id for run in runs])
            about = {
                "job": {**job_values(job), **merge.counts, "total": sum(merge.counts.values())},
                "runs": [run._asdict() for run in runs],
                "attributes": merge.attributes,
                "failures": client.failures(job.id),
                "durations": client.durations(job.id),
                "accounts": [(run, list(account)) for run, account in known.items()],
            }
            merge.close(about, client.shapes(job.id))
        except OSError as error:
            raise OutputError(f"cannot write {path}: {error.strerror or error}") from error
        finally:
            merge.discard()
    told = [f"{path} lacks the outputs of {counted(tasks, 'task')}: {name}: {why}" for name, why, tasks in missed]
    return Missing(told, OutputError.exit_code if missed else 0)
