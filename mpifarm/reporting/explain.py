"""`mpifarm explain`: why a job or a task is not running, who runs it, or what happened to it, attempt by attempt.

Must never import click or mpi4py.
"""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING

from mpifarm.errors import UsageError
from mpifarm.reporting.objects import job_object, task_object
from mpifarm.reporting.report import check_ranges, find, run_command_here
from mpifarm.reporting.text import ending, telling_line, when
from mpifarm.units import format_seconds

if TYPE_CHECKING:
    from mpifarm.queue.client import Client, JobSummary, RunLine, TaskLine
    from mpifarm.queue.lines import PastAttempt


def explain(client: Client, selector: str, dsn: str | None, *, as_json: bool) -> None:
    """Print it. Raises UsageError for more than one task."""
    job, ranges = find(client, selector, None)
    check_ranges(job, ranges or [])
    if ranges is None:
        title, found, lines = job.name, job_object(job), _of_job(client, job, dsn)
    else:
        (lo, hi), *more = ranges
        if more or hi - lo > 1:
            raise UsageError(f"one task at a time: mpifarm explain {job.name}.{lo}")
        (task,) = client.tasks(job.id, ranges=[(lo, hi)])
        title, found, lines = f"{job.name}.{lo}", task_object(task), _of_task(client, job, task, dsn)
    if as_json:
        print(json.dumps(found | {"why": lines}))
    else:
        state = found["state"]
        print("\n".join([f"{title}: {state}", *(f"  {line}" for line in lines)]))


def _of_job(client: Client, job: JobSummary, dsn: str | None) -> list[str]:
    lines = []
    if job.pending:
        lines += _why_pending(client, job, client.pending_cpus(job.id), dsn)
    for holding in client.holdings(job.id):
        state = "is dead (mpifarm recover takes them back)" if holding.dead else "is live"
        age = format_seconds(max(0.0, holding.beat_age_s))
        lines.append(f"run {holding.run} on {holding.host} holds {holding.tasks:,} and {state}, heard of {age} ago")
    if job.failed or job.cancelled:
        lines += [
            f"{line.count:,} ended with {line.failure}, such as {job.name}.{line.example_task}"
            for line in client.failures(job.id)
        ]
    return lines


def _of_task(client: Client, job: JobSummary, task: TaskLine, dsn: str | None) -> list[str]:
    lines = [_past_line(past) for past in client.attempts(job.id, task.task)]
    if task.state == "pending":
        ahead = sum(client.pending_cpus(job.id, 1, task.task).values())
        if ahead:
            lines.append(f"{ahead:,} pending tasks of its own job go before it")
        lines += _why_pending(client, job, client.pending_cpus(job.id, task.task, task.task + 1), dsn)
    elif task.state == "running":
        lines += _under_way(client, task)
    elif task.run is None:
        lines.append(f"attempt {task.attempts + 1} was cancelled before it began (mpifarm retry revives it)")
    else:
        lines.append(_outcome_line(task))
    return lines


def _past_line(past: PastAttempt) -> str:
    then = when(past.ended)
    if past.state is None:
        if past.failure == "none":
            return f"attempt {past.attempt} never began in run {past.run}, which gave the task back at {then}"
        return f"attempt {past.attempt} in run {past.run} was given back at {then}: {past.failure}"
    how = ending(past.failure, past.exit_code, past.signal)
    return f"attempt {past.attempt} {past.state}{f' ({how})' if how else ''} in run {past.run}; taken back at {then}"


def _under_way(client: Client, task: TaskLine) -> list[str]:
    since = None if task.lease is None else client.leased_when(task.lease)
    run = next((run for run in client.runs() if run.id == task.run), None)
    if since is None or run is None:
        return ["it has just changed hands: ask again"]
    now = time.time()
    heard = format_seconds(max(0.0, now - run.beat))
    held = f"attempt {task.attempt} is with run {run.id} on {run.host}, leased at {when(since)}"
    lines = [f"{held} ({format_seconds(max(0.0, now - since))} ago), heard of {heard} ago"]
    if not run.live:
        lines.append("that run is dead: mpifarm recover takes the task back")
    return lines


def _outcome_line(task: TaskLine) -> str:
    how = ending(task.failure, task.exit_code, task.signal)
    said = telling_line(task.stderr_tail)
    where = f" on {task.node}" if task.node else ""
    return (
        f"attempt {task.attempt} {task.state}{f' ({how})' if how else ''} in run {task.run}{where}"
        f" after {format_seconds(task.seconds or 0.0)}{f': {said}' if said else ''}"
    )


def _why_pending(client: Client, job: JobSummary, cpus: dict[int, int], dsn: str | None) -> list[str]:
    """What stands between pending tasks and a run; `cpus`: how many of them need how many cores."""
    lines = []
    if job.held:
        lines.append(f"the job is held (mpifarm set {job.name} --release)")
    live = [run for run in client.runs() if run.live]
    if not live:
        lines.append(f"no run is live (start one: {run_command_here(dsn)})")
    else:
        lines += _too_wide(cpus, live)
    before = [
        other
        for other in client.jobs()
        if other.pending and not other.held and (-other.priority, other.id) < (-job.priority, job.id)
    ]
    if before:
        first = ", ".join(f"{other.name} (priority {other.priority})" for other in before[:3])
        more = f" and {len(before) - 3:,} more jobs" if len(before) > 3 else ""
        lines.append(f"{sum(other.pending for other in before):,} pending tasks go first: of {first}{more}")
    return lines or [f"nothing stands in the way: the next lease of {_named(live)} may bring it"]


def _too_wide(cpus: dict[int, int], live: Sequence[RunLine]) -> list[str]:
    widest = max(run.slots // max(1, run.nodes) for run in live)
    tasks = sum(count for width, count in cpus.items() if width > widest)
    if not tasks:
        return []
    return [f"{tasks:,} need up to {max(cpus)} cores, and a node of the live runs has about {widest}"]


def _named(runs: Sequence[RunLine]) -> str:
    return "run " + ", ".join(str(run.id) for run in runs)
