"""`mpifarm explain`: why a job or a task is not running, who runs it, or what happened to it, attempt by attempt.

Why no run takes it is `commands.why_pending`. Must never import click or mpi4py.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Iterator
from typing import TYPE_CHECKING, cast

from mpifarm.commands.meant import choose
from mpifarm.commands.why_pending import why_pending
from mpifarm.core.job.retries import retries_after
from mpifarm.core.model import FailureClass
from mpifarm.core.plural import counted
from mpifarm.core.protocol.facts import EVERYTHING
from mpifarm.errors import UsageError
from mpifarm.show.objects import array, job_object, task_object
from mpifarm.show.text import ending, named, telling_line, when
from mpifarm.units import format_seconds

if TYPE_CHECKING:
    from mpifarm.core.protocol.facts import Needed, PastAttempt
    from mpifarm.queue.client import Client, JobSummary, TaskLine

NEEDS_SHOWN = 20
TASKS_AT_ONCE = 100


def explain(client: Client, selector: str, dsn: str | None, *, as_json: bool) -> None:
    """Print it; in JSON an object, or an array where several may be meant. Raises UsageError for too many tasks."""
    found = list(_each(client, selector, dsn))
    if as_json:
        several = selector == "all" or len(found) > 1
        sys.stdout.writelines(array(facts for _, facts in found) if several else [json.dumps(found[0][1]) + "\n"])
        return
    for title, facts in found:
        lines = cast("list[str]", facts["why"])
        print("\n".join([f"{title}: {facts['state']}", *(f"  {line}" for line in lines)]))


def _each(client: Client, selector: str, dsn: str | None) -> Iterator[tuple[str, dict[str, object]]]:
    """Every job or task that is meant: what it is called, and its facts with `why`."""
    for job, ranges in choose(client, selector):
        if ranges is None:
            yield job.name, job_object(job) | {"why": _of_job(client, job, dsn)}
            continue
        if sum(hi - lo for lo, hi in ranges) > TASKS_AT_ONCE:
            raise UsageError(f"{TASKS_AT_ONCE} tasks at a time: mpifarm explain {job.name}.{ranges[0][0]}")
        for task in list(client.tasks(job.id, ranges=ranges)):
            title = named(f"{job.name}.{task.task}", task.entry)
            yield title, task_object(task) | {"why": _of_task(client, job, task, dsn)}


def _of_job(client: Client, job: JobSummary, dsn: str | None) -> list[str]:
    lines = []
    if job.max_fails is not None and job.failed > job.max_fails:
        lines.append(
            f"stopped: {counted(job.failed, 'task has', 'tasks have')} failed, more than --max-fails {job.max_fails:,}"
            f" (mpifarm retry {job.name} revives what was cancelled)"
        )
    if job.pending:
        lines += why_pending(client, job, EVERYTHING[0], dsn)
    if job.waiting:
        first = next(iter(client.tasks(job.id, states=["waiting"])), None)
        such = f" (such as mpifarm explain {job.name}.{first.task})" if first else ""
        lines.append(f"{job.waiting:,} wait for other tasks{such}")
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
    lines = [_past_line(past, (job.name, task.task)) for past in client.attempts(job.id, task.task)]
    if task.state == "pending":
        ahead = sum(client.pending(job.id, 1, task.task).values())
        if ahead:
            lines.append(f"{counted(ahead, 'pending task')} of its own job {'goes' if ahead == 1 else 'go'} before it")
        lines += why_pending(client, job, (task.task, task.task + 1), dsn)
    elif task.state == "waiting":
        lines += _awaited(client, job, task)
    elif task.state == "running":
        lines += _under_way(client, task)
    elif task.run is None:
        lines += _never_began(client, job, task)
    else:
        lines.append(_outcome_line(task))
        lines += _why_not_again(job, task)
    return lines


def _past_line(past: PastAttempt, task: tuple[str, int]) -> str:
    then = when(past.ended)
    if past.state is None:
        if past.failure == "none":
            return f"attempt {past.attempt} never began in run {past.run}, which gave the task back at {then}"
        if past.failure == "cancelled":
            return f"attempt {past.attempt} was cancelled before it began in run {past.run}, at {then}"
        with_it = _beside(past.lost_with, task) if past.lost_with else ""
        return f"attempt {past.attempt} in run {past.run} was given back at {then}: {past.failure}{with_it}"
    how = ending(past.failure, past.exit_code, past.signal)
    return f"attempt {past.attempt} {past.state}{f' ({how})' if how else ''} in run {past.run}; taken back at {then}"


def _beside(lost: list[tuple[str, int, int]], task: tuple[str, int]) -> str:
    """Whom an attempt of `task` (job, number) was lost with: any of them may be what took their node down."""
    job, number = task
    others: list[str] = []
    for name, first, end in lost:
        itself = name == job and first <= number < end
        for lo, hi in ((first, number), (number + 1, end)) if itself else ((first, end),):
            if lo < hi:
                others.append(f"{name}.{lo}" if hi - lo == 1 else f"{name}.{lo}-{hi - 1}")
    if not others:
        return " with its node, on which nothing else ran"
    more = f" and {counted(len(others) - NEEDS_SHOWN, 'more range')}" if len(others) > NEEDS_SHOWN else ""
    return f" with its node, and with it {', '.join(others[:NEEDS_SHOWN])}{more}"


def _awaited(client: Client, job: JobSummary, task: TaskLine) -> list[str]:
    """What is missing before it can begin, and what is not."""
    needed = client.needed(job.id, task.task)
    lines = []
    for need in sorted(needed, key=lambda need: need.met)[:NEEDS_SHOWN]:
        which = f"{need.job}.{need.lo}" if need.hi - need.lo == 1 else f"{need.job}.{need.lo}-{need.hi - 1}"
        how = "ended" if need.any else "succeeded"
        has = "has" if need.hi - need.lo == 1 else "have"
        if need.met:
            lines.append(f"{which} {has} {how}: that is what it waited for")
            continue
        counts = client.counts(client.find(need.job).id, [(need.lo, need.hi)])
        there = ", ".join(f"{count:,} {state}" for state, count in counts.items() if count)
        lines.append(f"waits until {which} {has} {how}: {there} (mpifarm explain {_unended(client, need)})")
    if len(needed) > NEEDS_SHOWN:
        lines.append(f"and {counted(len(needed) - NEEDS_SHOWN, 'more range')} of tasks")
    if job.held:
        lines.append(f"the job is held, too (mpifarm set {job.name} --release)")
    return lines or ["what it waited for has ended: ask again"]


def _unended(client: Client, need: Needed) -> str:
    """The first task of these that has not ended."""
    parent = client.find(need.job).id
    states = ["waiting", "pending", "running"]
    line = next(iter(client.tasks(parent, ranges=[(need.lo, need.hi)], states=states)), None)
    return need.job if line is None else f"{need.job}.{line.task}"


def _never_began(client: Client, job: JobSummary, task: TaskLine) -> list[str]:
    what = f"attempt {task.attempts + 1} was cancelled before it began"
    if task.because is None:
        return [f"{what} (mpifarm retry revives it)"]
    if task.because == job.name:
        return [f"{what}, because more tasks of its job had failed than --max-fails {job.max_fails} (mpifarm retry)"]
    parent, _, number = task.because.rpartition(".")
    line = next(iter(client.tasks(client.find(parent).id, ranges=[(int(number), int(number) + 1)])), None)
    state = line.state if line else "is gone"
    how = ending(line.failure, line.exit_code, line.signal) if line and line.state == "failed" else ""
    return [
        f"{what}, because {task.because} {state}{f' ({how})' if how else ''}"
        f" (mpifarm retry {task.because} revives both; mpifarm explain {task.because})"
    ]


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
    left = f"; it left {counted(task.left, 'process', 'processes')}, killed" if task.left else ""
    return (
        f"attempt {task.attempt} {task.state}{f' ({how})' if how else ''} in run {task.run}{where}"
        f" after {format_seconds(task.seconds or 0.0)}{f': {said}' if said else ''}{left}"
    )


def _why_not_again(job: JobSummary, task: TaskLine) -> list[str]:
    """Why an attempt that failed was the last."""
    if task.state != "failed":
        return []
    if task.failure == "lost":
        return [f"it was lost with {counted(job.policy.crash_limit, 'node')}, its crash limit (submit --crash-limit)"]
    policy = job.policy
    retries = retries_after(policy, FailureClass[task.failure.upper()], task.exit_code or 0, task.signal or 0)
    if retries:
        return [f"such failures of its job run again {counted(retries, 'time')} at most (submit --retries)"]
    return ["such failures of its job do not run again (submit --retry-on)"] if policy.rules else []
