"""The commands about files of outputs: `mpifarm export`, `verify`, `repair`. Must never import mpi4py."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import click

from mpifarm.cli.shared import client_of, dsn_option, json_option

if TYPE_CHECKING:
    from mpifarm.show.progress import Progress

_ATTEMPTS = {"all": True, "counting": False}


def _counted(progress: Progress) -> Callable[[int], None]:
    """Shows bytes as they are told."""
    done = 0

    def told(count: int) -> None:
        nonlocal done
        done += count
        progress.show(done // 1_000_000)

    return told


@click.command(short_help="A job with all its outputs as one file.")
@click.argument("job")
@click.argument("file", type=click.Path(dir_okay=False, path_type=Path))
@click.option(
    "--attempt",
    "attempts",
    type=click.Choice(list(_ATTEMPTS)),
    default="counting",
    help="all: superseded attempts too.",
)
@click.option("--missing-ok", is_flag=True, help="Leave out the outputs in run files that cannot be read.")
@click.option("--force", is_flag=True, help="Replace FILE.")
@dsn_option
def export(job: str, file: Path, attempts: str, missing_ok: bool, force: bool, dsn: str | None) -> int:
    """Merge all runs of JOB into FILE.h5, which `report` and `tasks` then read without a queue.

    It holds commands, states and outputs, and is plain HDF5 as a run's file is. It appears whole or not at all.

    \b
    Examples:
      mpifarm export scan scan.h5
      mpifarm report scan.h5 --tasks 17
      mpifarm tasks scan.h5 --state failed
    """
    from mpifarm.commands import export
    from mpifarm.commands.answer import tell
    from mpifarm.errors import UsageError

    if file.suffix != ".h5":
        raise UsageError(f"the name of an export ends in .h5, so that commands know it for one: {file}.h5")
    with client_of(dsn) as client:
        missing = export.export(
            client, job, file, every_attempt=_ATTEMPTS[attempts], missing_ok=missing_ok, force=force
        )
    sys.stdout.flush()
    for sentence in missing.sentences:
        tell(sentence)
    return missing.code


@click.command(short_help="Prove that nothing is missing or altered.")
@click.argument("job", required=False)
@click.option("-q", "--quiet", is_flag=True, help="No progress.")
@dsn_option
@json_option
def verify(job: str | None, quiet: bool, dsn: str | None, as_json: bool) -> int:
    """Prove that every task of JOB (else of all jobs) is in exactly one place, and that every recorded output is in its
    file with its length and checksum. Reads all bytes, each file once, also while runs are going on.

    JOB may also be a file: of `mpifarm export`, or of a run (then only the file itself is checked).

    \b
    Exit codes:
      0    all of it is proved
      6    something is missing or altered; what, and of which tasks, is told
      else not known: no such job, no queue

    \b
    Examples:
      mpifarm verify scan
      mpifarm verify
      mpifarm verify mpifarm-run-7.h5
    """
    from mpifarm.commands import verify
    from mpifarm.outputs.source import file_named, is_run_file, open_source
    from mpifarm.show.progress import Progress

    with Progress("MB") as progress:
        told = (lambda _: None) if quiet else _counted(progress)
        path = None if job is None else file_named(job)
        if path is not None and is_run_file(path):
            return verify.verify_file(path, told, as_json=as_json)
        with open_source(job, dsn) as source:
            jobs = source.jobs() if job is None else [source.find(job)]
            return verify.verify(source, jobs, told, as_json=as_json)


@click.command("repair", short_help="Bring back what a damaged run file still holds.")
@click.argument("file", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.option(
    "-o", "--output", type=click.Path(dir_okay=False, path_type=Path), metavar="OUT", help="Else FILE.repaired.h5."
)
@click.option("--force", is_flag=True, help="Replace OUT.")
def repair_(file: Path, output: Path | None, force: bool) -> int:
    """Write all that can be found of a damaged run file to a sound one, and say what could not, by task.

    Truncated, bits flipped, blocks never written, metadata that HDF5 refuses: what is left is found. FILE itself is not
    touched. Attempts keep their numbers, so that the repaired file can take the place of the other.

    \b
    Exit codes:
      0    nothing of what the file still names is lost
      6    something is; what, and of which tasks, is told

    \b
    Example:
      mpifarm repair mpifarm-run-7.h5
    """
    from mpifarm.commands.repair import repair_file
    from mpifarm.show.progress import Progress

    with Progress("MB") as progress:
        return repair_file(file, output, _counted(progress), force=force)


FILES = (export, verify, repair_)
