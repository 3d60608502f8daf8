"""Where a report comes from: the queue, or the file that a job was exported to.

Both answer the same questions. Must never import click or mpi4py; psycopg or h5py only when something is opened.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from mpifarm.core.model import RunId
from mpifarm.errors import UsageError
from mpifarm.outputs.accounting import Account

if TYPE_CHECKING:
    from typing import TypeAlias

    from mpifarm.core.protocol.facts import JobSummary, RunLine
    from mpifarm.queue.client import Client
    from mpifarm.runfile.archive import Archive
    from mpifarm.runfile.reader import RunFile

    Source: TypeAlias = Client | Archive


def file_named(selector: str) -> Path | None:
    """The file that is meant by FILE.h5 or FILE.h5.3,7-9; None for a job. Raises UsageError for a path that is not
    there."""
    stem, dot, tasks = selector.rpartition(".h5.")
    path = Path(stem + ".h5") if dot and tasks[:1].isdigit() else Path(selector)
    if path.suffix != ".h5":
        return None
    if path.is_file():
        return path
    if os.sep in selector:
        raise UsageError(f"there is no file {path}")
    return None  # a job may be called so


def is_run_file(path: Path) -> bool:
    """Whether it is the file of a run, and no export. Raises OutputError."""
    from mpifarm.runfile.exported import EXPORT_ATTRIBUTE
    from mpifarm.runfile.reader import open_run

    with open_run(path) as run:
        return EXPORT_ATTRIBUTE not in run.attributes


@contextmanager
def open_source(selector: str | None, dsn: str | None) -> Iterator[Source]:
    """What knows the job that is meant. Raises FarmError."""
    path = None if selector is None else file_named(selector)
    if path is not None:
        from mpifarm.runfile.archive import Archive

        with Archive(path) as archive:
            yield archive
        return
    from mpifarm.queue.client import Client
    from mpifarm.server.dsn import find_dsn

    with Client.connect(find_dsn(dsn, os.environ, Path.cwd())) as client:
        yield client


def archive_of(source: Source) -> Archive | None:
    """None for the queue."""
    return None if not hasattr(source, "open_part") else source  # type: ignore[return-value]


def open_rows(source: Source, run: RunLine) -> RunFile:
    """The attempts of a run. Raises OutputError."""
    from mpifarm.runfile.reader import open_run

    archive = archive_of(source)
    if archive is not None:
        return archive.open_part(run.id)
    assert run.file is not None
    return open_run(run.file)


def exported_accounts(source: Source) -> dict[RunId, Account] | None:
    """What became of the core time, as it was found at the export; None for the queue, where it is to be found out."""
    archive = archive_of(source)
    return None if archive is None else {run: Account(*seconds) for run, seconds in archive.accounts().items()}


def files_of(source: Source, job: JobSummary) -> list[str]:
    """All files that hold attempts of a job."""
    archive = archive_of(source)
    if archive is not None:
        return [str(archive.path)]
    return [run.file for run in source.runs(job.id) if run.file is not None]


def paths_of(source: Source) -> dict[RunId, str]:
    """Where the outputs of each run are."""
    archive = archive_of(source)
    if archive is not None:
        return archive.paths
    return {run.id: run.file for run in source.runs() if run.file is not None}


def typed_name(source: Source, job: JobSummary) -> str:
    """What to type to mean this job."""
    archive = archive_of(source)
    return job.name if archive is None else str(archive.path)
