"""`mpifarm set`, `retry`, `cancel`, `recover` and `drop`: calls the queue's verbs and says what they did.

With `--json` each prints an array with an object per job or run. Must never import click or mpi4py.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING

from mpifarm.commands.report import check_ranges, find
from mpifarm.core.model import FailureClass, State
from mpifarm.core.protocol.facts import EVERYTHING
from mpifarm.errors import UsageError
from mpifarm.selection.report_options import Ranges
from mpifarm.show.objects import array, job_object
from mpifarm.show.text import STATES, when
from mpifarm.units import format_seconds

if TYPE_CHECKING:
    from mpifarm.queue.client import Client, JobSummary

POLL_S = (0.2, 2.0)
"""First and longest pause between two looks."""


def choose(client: Client, selector: str) -> list[tuple[JobSummary, Ranges | None]]:
    """The jobs that are meant, and of each the tasks (None: all). Raises UsageError."""
    if selector == "all":
        return [(job, None) for job in client.jobs()]
    job, ranges = find(client, selector, None)
    check_ranges(job, ranges or [])
    return [(job, ranges)]


def say(objects: Iterable[Mapping[str, object]], sentences: Iterable[str], as_json: bool) -> None:
    """One of the two."""
    if as_json:
        sys.stdout.writelines(array(map(dict, objects)))
    else:
        for sentence in sentences:
            print(sentence)


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
    running = f"; {job.running:,} tasks that runs hold go on" if job.held and job.running else ""
    return f"{job.name}: priority {job.priority}, {'held' if job.held else 'not held'}{tags}{running}"


def retry(
    client: Client, selector: str, states: Sequence[State], classes: Sequence[FailureClass] | None, *, as_json: bool
) -> None:
    objects, sentences = [], []
    for job, ranges in choose(client, selector):
        failures = tuple(FailureClass) if classes is None else tuple(classes)
        tasks = client.retry(job.id, ranges=ranges or EVERYTHING, states=states, failures=failures)
        left = counts_of(client, job, ranges)
        objects.append({"name": job.name, "id": job.id, "retried": tasks, "now": left})
        verb = "waits" if tasks == 1 else "wait"
        sentences.append(f"{job.name}: {tasks:,} {_noun(tasks)} {verb} again; now {_listed(left)}")
    say(objects, sentences, as_json)


def cancel(client: Client, selector: str, *, wait: bool, as_json: bool) -> None:
    """`wait`: until the runs that were asked have ended what they held, or are dead."""
    objects, sentences = [], []
    for job, ranges in choose(client, selector):
        done = client.cancel(job.id, ranges=ranges or EVERYTHING)
        if wait and done.asked:
            _until_ended(client, job, ranges)
        now = counts_of(client, job, ranges)
        facts = {"name": job.name, "id": job.id, "cancelled": done.tasks, "asked": done.asked, "runs": done.runs}
        objects.append(facts | {"now": now})
        sentences.append(f"{job.name}: {done.tasks:,} {_noun(done.tasks)} cancelled")
        if done.asked:
            asked = ", ".join(f"run {run}" for run in done.runs)
            told = f"{asked} {'was' if len(done.runs) == 1 else 'were'} asked to end {done.asked:,} more"
            after = f"now {_listed(now)}" if wait else f"it takes seconds (mpifarm wait {selector})"
            sentences.append(f"  {told}: SIGTERM, then SIGKILL; {after}")
            dead = [str(holding.run) for holding in client.holdings(job.id) if holding.dead]
            if dead:
                sentences.append(f"  dead: run {', '.join(dead)} (mpifarm recover cancels what it holds)")
    say(objects, sentences, as_json)


def _until_ended(client: Client, job: JobSummary, ranges: Ranges | None) -> None:
    pause_s = POLL_S[0]
    while counts_of(client, job, ranges)["running"]:
        if all(holding.dead for holding in client.holdings(job.id)):
            return
        time.sleep(pause_s)
        pause_s = min(1.5 * pause_s, POLL_S[1])


def recover(client: Client, *, dry_run: bool, as_json: bool) -> None:
    taken = client.recover(dry_run=dry_run)
    objects = [
        {"run": one.run, "host": one.host, "tasks": one.tasks, "beat_age_s": round(one.beat_age_s, 1)} for one in taken
    ]
    verb = "would wait" if dry_run else "wait"
    sentences = [
        f"run {one.run} on {one.host}, last heard of {format_seconds(one.beat_age_s)} ago: {one.tasks:,}"
        f" {_noun(one.tasks)} {verb} again"
        for one in taken
    ]
    say(objects, sentences or ["no dead run holds anything"], as_json)


def doomed(job: JobSummary) -> str:
    """What dropping a job deletes."""
    counts = ", ".join(f"{getattr(job, state):,} {state}" for state in STATES if state != "waiting" or job.waiting)
    return f"job {job.name} (id {job.id}, submitted {when(job.submitted)}): {job.total:,} tasks: {counts}"


def drop(client: Client, job: JobSummary, *, as_json: bool) -> None:
    client.drop(job.id)
    say([job_object(job)], [f"deleted {doomed(job)}; run files stay"], as_json)


def counts_of(client: Client, job: JobSummary, ranges: Ranges | None) -> dict[str, int]:
    """How many of the tasks that are meant are in which state, as of now."""
    if ranges is not None:
        return client.counts(job.id, ranges)
    found = client.find(str(job.id))
    return {state: getattr(found, state) for state in STATES}


def _listed(counts: Mapping[str, int]) -> str:
    return ", ".join(f"{count:,} {state}" for state, count in counts.items() if count) or "no tasks"


def _noun(tasks: int) -> str:
    return "task" if tasks == 1 else "tasks"
