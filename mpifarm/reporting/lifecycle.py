"""`mpifarm set`, `retry`, `cancel`, `wait`, `runs` and the like: calls the queue's verbs and says what they did.

With `--json` each prints an array with an object per job or run. Must never import click or mpi4py.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING

from mpifarm.core.model import FailureClass, Limits, State
from mpifarm.errors import QueueUnreachable, UsageError
from mpifarm.queue.lines import EVERYTHING
from mpifarm.reporting.objects import array, job_object, run_object
from mpifarm.reporting.report import check_ranges, find, look_of, tell
from mpifarm.reporting.text import lasted_s, run_state, table, when
from mpifarm.reporting.wanted import Ranges
from mpifarm.units import format_seconds

if TYPE_CHECKING:
    from mpifarm.queue.client import Client, JobSummary, RunLine

PAST_RUNS = 10
"""Ended ones that are shown unless all are wanted."""
POLL_S = (0.5, 5.0)
"""First and longest pause between two looks of `wait`."""
SUCCEEDED, FAILED, CANCELLED, TIMED_OUT = 0, 1, 2, 124
"""What `wait` exits with."""

_ENDED = ("succeeded", "failed", "cancelled")


def choose(client: Client, selector: str) -> list[tuple[JobSummary, Ranges | None]]:
    """The jobs that are meant, and of each the tasks (None: all). Raises UsageError."""
    if selector == "all":
        return [(job, None) for job in client.jobs()]
    job, ranges = find(client, selector, None)
    check_ranges(job, ranges or [])
    return [(job, ranges)]


def _say(objects: Iterable[dict[str, object]], sentences: Iterable[str], as_json: bool) -> None:
    if as_json:
        sys.stdout.writelines(array(objects))
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
    _say(map(job_object, jobs), map(_settings, jobs), as_json)


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
        left = _counts(client, job, ranges)
        objects.append({"name": job.name, "id": job.id, "retried": tasks, "now": left})
        there = ", ".join(f"{count:,} {state}" for state, count in left.items() if count)
        verb = "waits" if tasks == 1 else "wait"
        sentences.append(f"{job.name}: {tasks:,} {_noun(tasks)} {verb} again; now {there}")
    _say(objects, sentences, as_json)


def cancel(client: Client, selector: str, *, as_json: bool) -> None:
    objects, sentences = [], []
    for job, ranges in choose(client, selector):
        tasks = client.cancel(job.id, ranges=ranges or EVERYTHING).tasks
        left = _counts(client, job, ranges)
        running = left["running"]
        runs = [holding.run for holding in client.holdings(job.id) if running]
        objects.append({"name": job.name, "id": job.id, "cancelled": tasks, "running": running, "runs": runs})
        sentences.append(f"{job.name}: {tasks:,} {_noun(tasks)} cancelled")
        if running:
            held_by = ", ".join(f"run {run}" for run in runs)
            sentences.append(
                f"  still running: {running:,} that {held_by} began or holds; they are not stopped but end with their"
                " run, and what it gives back waits again (then cancel once more)"
            )
    _say(objects, sentences, as_json)


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
    _say(objects, sentences or ["no dead run holds anything"], as_json)


def doomed(job: JobSummary) -> str:
    """What dropping a job deletes."""
    counts = ", ".join(f"{getattr(job, state):,} {state}" for state in ("pending", "running", *_ENDED))
    return f"job {job.name} (id {job.id}, submitted {when(job.submitted)}): {job.total:,} tasks: {counts}"


def drop(client: Client, job: JobSummary, *, as_json: bool) -> None:
    client.drop(job.id)
    _say([job_object(job)], [f"deleted {doomed(job)}; run files stay"], as_json)


def wait(client: Client, selector: str, timeout_s: float | None, *, as_json: bool) -> int:
    """Until no task that is meant is pending or running. Returns the exit code. Raises QueueUnreachable when the
    database was away for `Limits.queue_timeout_s`."""
    chosen = choose(client, selector)
    started = heard = time.monotonic()
    pause_s = POLL_S[0]
    if not any(run.live for run in client.runs()) and not _over(_totals(client, chosen)):
        tell("no run is live now; waiting all the same")
    while True:
        try:
            totals = _totals(client, chosen)
            heard = time.monotonic()
        except QueueUnreachable:
            if time.monotonic() - heard > Limits().queue_timeout_s:
                raise
        else:
            if _over(totals):
                code = FAILED if totals["failed"] else CANCELLED if totals["cancelled"] else SUCCEEDED
                return _waited(totals, code, as_json)
        left_s = float("inf") if timeout_s is None else started + timeout_s - time.monotonic()
        if left_s <= 0:
            return _waited(totals, TIMED_OUT, as_json)
        time.sleep(min(pause_s, left_s))
        pause_s = min(1.5 * pause_s, POLL_S[1])


def _totals(client: Client, chosen: Sequence[tuple[JobSummary, Ranges | None]]) -> dict[str, int]:
    totals = dict.fromkeys(("pending", "running", *_ENDED), 0)
    if len(chosen) == 1:
        return _counts(client, *chosen[0])
    wanted = {job.id for job, _ in chosen}
    for job in client.jobs():
        if job.id in wanted:
            for state in totals:
                totals[state] += getattr(job, state)
    return totals


def _over(totals: Mapping[str, int]) -> bool:
    return not totals.get("pending") and not totals.get("running")


def _waited(totals: Mapping[str, int], code: int, as_json: bool) -> int:
    if as_json:
        print(json.dumps({"exit_code": code, "tasks": totals}))
    else:
        print(", ".join(f"{count:,} {state}" for state, count in totals.items() if count) or "no tasks")
    return code


def show_runs(client: Client, *, everything: bool, as_json: bool) -> None:
    runs, now = client.runs(), time.time()
    past = [run for run in runs if not run.live]
    shown = runs if everything else sorted(past[-PAST_RUNS:] + [run for run in runs if run.live])
    objects = (run_object(run, now) | {"tasks_per_s": round(_pace(run, now), 3)} | _beat(run, now) for run in shown)
    sentences = _runs_table(shown, now) if shown else ["no runs yet"]
    if len(shown) < len(runs):
        sentences.append(f"{len(runs) - len(shown):,} older ones: mpifarm runs --all")
    _say(objects, sentences, as_json)


def _runs_table(runs: Sequence[RunLine], now: float) -> list[str]:
    columns = {
        "run": [str(run.id) for run in runs],
        "state": [run_state(run) for run in runs],
        "on": [f"{run.host} {run.allocation}".rstrip() for run in runs],
        "nodes": [f"{run.nodes:,}" for run in runs],
        "ranks": [f"{run.ranks:,}" for run in runs],
        "slots": [f"{run.slots:,}" for run in runs],
        "started": [when(run.started) for run in runs],
        "lasted": [format_seconds(lasted_s(run, now)) for run in runs],
        "tasks/s": [f"{_pace(run, now):,.1f}" for run in runs],
        "heard": [format_seconds(max(0.0, now - run.beat)) if run.ended is None else "" for run in runs],
        "succeeded": [f"{run.succeeded:,}" for run in runs],
        "failed": [f"{run.failed:,}" for run in runs],
        "returned": [f"{run.returned:,}" for run in runs],
        "file": [run.file or "" for run in runs],
    }
    return table(list(columns), list(zip(*columns.values())), "state on started file", look_of(sys.stdout))


def _pace(run: RunLine, now: float) -> float:
    """Outcomes per second of its life."""
    lasted = lasted_s(run, now)
    return (run.succeeded + run.failed + run.cancelled) / lasted if lasted else 0.0


def _beat(run: RunLine, now: float) -> dict[str, object]:
    return {"beat_age_s": round(max(0.0, now - run.beat), 1) if run.ended is None else None}


def _counts(client: Client, job: JobSummary, ranges: Ranges | None) -> dict[str, int]:
    if ranges is not None:
        return client.counts(job.id, ranges)
    found = client.find(str(job.id))
    return {state: getattr(found, state) for state in ("pending", "running", *_ENDED)}


def _noun(tasks: int) -> str:
    return "task" if tasks == 1 else "tasks"
