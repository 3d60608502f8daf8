"""`mpifarm report`: asks the queue, hands the rows to the formatting, prints.

Everything comes from the queue except outputs, so a report is right while runs are going on and when their files are
elsewhere. Must never import click or mpi4py.
"""

from __future__ import annotations

import json
import sys
import time
from contextlib import nullcontext
from dataclasses import replace
from typing import TYPE_CHECKING, BinaryIO

from mpifarm.commands.answer import look_of, run_command_here, tell
from mpifarm.commands.meant import check_ranges, find
from mpifarm.core.plural import counted
from mpifarm.core.row import STDOUT
from mpifarm.errors import OutputError, UsageError
from mpifarm.outputs.captured import give_captured
from mpifarm.outputs.extract import Folder, extract
from mpifarm.outputs.grep import Searching, grep
from mpifarm.outputs.source import archive_of, files_of, typed_name
from mpifarm.outputs.streams_of_tasks import FINAL, Choice, Missing, Outputs, Pouring, write_outputs
from mpifarm.selection.report_options import Wanted
from mpifarm.selection.where import select
from mpifarm.show.next_command import dsn_words, next_step
from mpifarm.show.objects import array, report_object
from mpifarm.show.text import JobReport, job_text, jobs_text

if TYPE_CHECKING:
    from mpifarm.outputs.source import Source
    from mpifarm.queue.client import JobSummary


def report(client: Source, selector: str | None, wanted: Wanted) -> Missing:
    """Print what is wanted."""
    if selector is None:
        _print_jobs(client, wanted)
        return Missing([], 0)
    job, ranges = find(client, selector, wanted.ranges)
    wanted = replace(wanted, ranges=ranges)
    if ranges is None and wanted.extract is None and wanted.pattern is None and not (wanted.captured or wanted.values):
        if wanted.streams != (STDOUT,) or wanted.follow or wanted.where or wanted.attempt is not None:
            raise UsageError(f"{job.name} is a whole job: say which tasks with --tasks")
        _print_job(client, job, wanted)
        return Missing([], 0)
    check_ranges(job, wanted.ranges or [])
    sys.stdout.flush()
    if wanted.follow:
        from mpifarm.outputs.follow import Follower

        if archive_of(client) is not None:
            raise UsageError("an exported job does not go on: leave out --follow")
        tasks = (task for lo, hi in wanted.ranges or [] for task in range(lo, hi))
        return Follower(client, job, wanted.streams, sys.stdout.buffer, tell).follow(tasks)
    return _give(client, job, wanted)


def _give(client: Source, job: JobSummary, wanted: Wanted) -> Missing:
    """Outputs of the tasks asked for, or of all that have an outcome: searched, extracted, or as they are."""
    out, announce = sys.stdout.buffer, None
    choice: Choice = Outputs.recorded
    some = wanted.attempt is not None or wanted.ranges is not None
    lines = select(client.tasks(job.id, ranges=wanted.ranges, states=None if some else FINAL), wanted.where)
    unreadable: dict[str, OutputError] = {}
    if wanted.attempt is not None:
        from mpifarm.outputs.attempts import Attempts, announcer

        needed = wanted.ranges is not None
        choice = attempts = Attempts(files_of(client, job), job.id, wanted.attempt or None, needed=needed)
        announce, unreadable = announcer(job.name, tell), attempts.unreadable
    if wanted.values:
        from mpifarm.outputs.values import give_values

        missing = give_values(lines, out, choice, as_json=wanted.as_json)
    elif wanted.where is None and wanted.attempt is None and not wanted.captured and wanted.extract is None:
        missing = _stream(client, job, wanted, out)
    elif wanted.captured:
        with nullcontext() if wanted.extract is None else Folder(wanted.extract, force=wanted.force) as to:
            missing = give_captured(lines, out, to, choice)
    elif wanted.pattern is not None:
        missing = grep(lines, wanted.pattern, wanted.streams, out, choice)
    elif wanted.extract is not None:
        with Folder(wanted.extract, force=wanted.force) as folder:
            folder.refuse_existing(wanted.names, wanted.ranges)
            missing = extract(lines, folder, job.name, wanted.names, choice)
    else:
        missing = write_outputs(lines, wanted.streams, out, choice, announce)
    sentences, code = missing
    if unreadable:
        sentences, code = [*sentences, *map(str, unreadable.values())], OutputError.exit_code
    unfinished = job.waiting + job.pending + job.running
    if unfinished and not some:
        tasks = counted(unfinished, f"task of {job.name} has", f"tasks of {job.name} have")
        sentences.append(f"{tasks} no outcome yet")
        code = code or int(wanted.pattern is None)
    return Missing(sentences, code)


def _stream(client: Source, job: JobSummary, wanted: Wanted, out: BinaryIO) -> Missing:
    """Whole outputs, or lines of them, of tasks that nothing else is asked of."""
    from mpifarm.outputs.bulk import Streaming, Way

    if wanted.pattern is None:
        pouring = Pouring(wanted.streams, out)
        return Streaming(client, job, Way(pouring.plain, pouring.careful, wanted.streams)).go(wanted.ranges)
    searching = Searching(wanted.pattern, wanted.streams, out)
    missing = Streaming(client, job, Way(searching.plain, searching.careful, wanted.streams)).go(wanted.ranges)
    return searching.judged(missing)


def report_of(client: Source, job: JobSummary, dsn: str | None) -> JobReport:
    runs = client.runs(job.id)
    failures = client.failures(job.id) if job.failed or job.cancelled else []
    seconds = client.durations(job.id) if job.succeeded or job.failed else None
    named = job._replace(name=typed_name(client, job))
    following = next_step(named, runs, run_command_here(dsn), dsn_words(dsn))
    return JobReport(job, failures, seconds, runs, following)


def _print_jobs(client: Source, wanted: Wanted) -> None:
    jobs, now = client.jobs(), time.time()
    if wanted.as_json:
        sys.stdout.writelines(array(report_object(report_of(client, job, wanted.dsn), now) for job in jobs))
    elif jobs:
        print(jobs_text(jobs, look_of(sys.stdout)))
    else:
        print("no jobs yet\nnext: mpifarm submit tasks.txt")


def _print_job(client: Source, job: JobSummary, wanted: Wanted) -> None:
    from mpifarm.outputs.history import accounts, accounts_objects, accounts_text

    answer, now = report_of(client, job, wanted.dsn), time.time()
    if wanted.html is not None:
        from mpifarm.page.html import write_page

        write_page(client, answer, wanted.html, now, force=wanted.force)
        return
    found = accounts(client, [run.id for run in answer.runs])
    if wanted.as_json:
        print(json.dumps(report_object(answer, now) | {"accounting": accounts_objects(found)}))
    else:
        print(job_text(answer._replace(accounts=accounts_text(found)), now, look_of(sys.stdout)))
