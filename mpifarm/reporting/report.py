"""`mpifarm report` and `mpifarm tasks`: asks the queue, hands the rows to the formatting, prints.

Everything comes from the queue except outputs, so a report is right while runs are going on and when their files are
elsewhere. Must never import click or mpi4py.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import sys
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, TextIO

from mpifarm.core.row import STDERR, STDOUT
from mpifarm.errors import UsageError
from mpifarm.reporting.advice import dsn_words, next_step, run_command
from mpifarm.reporting.extract import FINAL, Missing, extract, prepare_directory, write_outputs
from mpifarm.reporting.objects import array, report_object, task_object
from mpifarm.reporting.text import STATES, JobReport, Look, job_text, jobs_text, task_head, task_text
from mpifarm.units import parse_ranges

if TYPE_CHECKING:
    from mpifarm.queue.client import Client, JobSummary

Ranges = Sequence[tuple[int, int]]
"""Task numbers, half-open."""

_SPELLINGS = {"done": "succeeded", "completed": "succeeded", "complete": "succeeded", "success": "succeeded"}
_SPELLINGS |= {"ready": "pending", "queued": "pending", "canceled": "cancelled", "leased": "running"}


def look_of(stream: TextIO) -> Look:
    """A terminal has a width and, unless NO_COLOR is set, colours."""
    if not stream.isatty():
        return Look()
    return Look(shutil.get_terminal_size().columns, colour="NO_COLOR" not in os.environ)


def run_command_here(dsn: str | None) -> str:
    """How a run is started from this machine."""
    return run_command(
        os.environ,
        mpiexec=shutil.which("mpiexec") is not None,
        srun=shutil.which("srun") is not None,
        cores=len(os.sched_getaffinity(0)),
        dsn=dsn_words(dsn),
    )


def state_named(word: str) -> str:
    """The state that `word` means: `done`, `COMPLETED` and the like are understood. Raises UsageError."""
    name = _SPELLINGS.get(word.lower(), word.lower())
    if name not in STATES:
        raise UsageError(f"no state is called {word!r}; there are {', '.join(STATES)}")
    return name


@dataclass(frozen=True, slots=True)
class Wanted:
    """What `mpifarm report` was asked for besides the job."""

    ranges: Ranges | None = None
    only_stderr: bool = False
    both: bool = False
    extract: Path | None = None
    force: bool = False
    dsn: str | None = None
    """As it was typed, for the next command to type."""
    as_json: bool = False


_OF_TASKS = re.compile(r"(.+)\.(\d[\d,:_-]*)")
"""JOB.17, JOB.3,7-9."""


def find(client: Client, selector: str, ranges: Ranges | None) -> tuple[JobSummary, Ranges | None]:
    """The job that is meant, and its tasks: those asked for, or those of JOB.17 unless a whole job is called so."""
    named = _OF_TASKS.fullmatch(selector)
    if ranges is not None or named is None:
        return client.find(selector), ranges
    try:
        return client.find(selector), None
    except UsageError:
        return client.find(named[1]), parse_ranges(named[2])


def check(job: str | None, wanted: Wanted) -> None:
    """Raises UsageError for options that make no sense together, before the queue is asked."""
    outputs = wanted.ranges is not None or wanted.extract is not None
    if outputs and job is None:
        raise UsageError("of which job? mpifarm report JOB --tasks ... (mpifarm report lists the jobs)")
    if outputs and wanted.as_json:
        raise UsageError("outputs are bytes, not JSON: leave out --json (mpifarm tasks JOB --json has the rest)")
    tasks = wanted.ranges is not None or (job is not None and _OF_TASKS.fullmatch(job) is not None)
    if (wanted.only_stderr or wanted.both) and (not tasks or wanted.extract is not None):
        raise UsageError("--stderr and --both go with --tasks; --extract writes both streams anyway")
    if wanted.only_stderr and wanted.both:
        raise UsageError("--stderr or --both, not the two of them")
    if wanted.force and wanted.extract is None:
        raise UsageError("--force goes with --extract")


def report(client: Client, selector: str | None, wanted: Wanted) -> Missing:
    """Print what is wanted."""
    if selector is None:
        _print_jobs(client, wanted)
        return Missing([], 0)
    job, ranges = find(client, selector, wanted.ranges)
    wanted = replace(wanted, ranges=ranges)
    if ranges is None and wanted.extract is None:
        _print_job(client, job, wanted)
        return Missing([], 0)
    check_ranges(job, wanted.ranges or [])
    if wanted.extract is not None:
        return _extract(client, job, wanted.extract, wanted)
    streams = (STDOUT, STDERR) if wanted.both else (STDERR,) if wanted.only_stderr else (STDOUT,)
    sys.stdout.flush()
    return write_outputs(client.tasks(job.id, ranges=wanted.ranges), streams, sys.stdout.buffer)


def _extract(client: Client, job: JobSummary, directory: Path, wanted: Wanted) -> Missing:
    """All tasks with an outcome, or those asked for."""
    prepare_directory(directory, wanted.ranges, force=wanted.force)
    if wanted.ranges is not None:
        return extract(client.tasks(job.id, ranges=wanted.ranges), directory, force=wanted.force)
    sentences, code = extract(client.tasks(job.id, states=FINAL), directory, force=wanted.force)
    unfinished = job.waiting + job.pending + job.running
    if unfinished:
        sentences.append(f"{unfinished:,} tasks of {job.name} have no outcome yet")
    return Missing(sentences, code or int(unfinished > 0))


def report_of(client: Client, job: JobSummary, dsn: str | None) -> JobReport:
    runs = client.runs(job.id)
    failures = client.failures(job.id) if job.failed or job.cancelled else []
    seconds = client.durations(job.id) if job.succeeded or job.failed else None
    return JobReport(job, failures, seconds, runs, next_step(job, runs, run_command_here(dsn), dsn_words(dsn)))


def _print_jobs(client: Client, wanted: Wanted) -> None:
    jobs, now = client.jobs(), time.time()
    if wanted.as_json:
        _write(array(report_object(report_of(client, job, wanted.dsn), now) for job in jobs))
    elif jobs:
        print(jobs_text(jobs, look_of(sys.stdout)))
    else:
        print("no jobs yet\nnext: mpifarm submit tasks.txt")


def _print_job(client: Client, job: JobSummary, wanted: Wanted) -> None:
    answer, now = report_of(client, job, wanted.dsn), time.time()
    print(json.dumps(report_object(answer, now)) if wanted.as_json else job_text(answer, now, look_of(sys.stdout)))


def print_tasks(client: Client, selector: str, ranges: Ranges | None, states: Sequence[str], *, as_json: bool) -> None:
    """A line per task, or a JSON array of objects; written as the rows arrive, so memory stays flat."""
    job, ranges = find(client, selector, ranges)
    check_ranges(job, ranges or [])
    lines = client.tasks(job.id, ranges=ranges, states=states or None)
    if as_json:
        _write(array(map(task_object, lines)))
        return
    look, digits = look_of(sys.stdout), max(4, len(str(job.total)))
    if look.width is not None:
        print(task_head(digits))
    _write(task_text(line, digits, look) + "\n" for line in lines)


def check_ranges(job: JobSummary, ranges: Ranges) -> None:
    """Raises UsageError for a task number the job does not have."""
    for lo, hi in ranges:
        if hi > job.total + 1:
            raise UsageError(f"job {job.name} has no task {max(lo, job.total + 1)}: it has tasks 1 to {job.total}")


def _write(pieces: Iterable[str]) -> None:
    for piece in pieces:
        sys.stdout.write(piece)
