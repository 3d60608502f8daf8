"""Why pending tasks are not running: held, no live run, none that may or can take them, or others that go first.

Part of `commands.explain`. Must never import click or mpi4py.
"""

from __future__ import annotations

import time
from collections.abc import Collection, Mapping
from typing import TYPE_CHECKING

from mpifarm.commands.answer import run_command_here
from mpifarm.core.job.routing import route
from mpifarm.core.needs import Needs
from mpifarm.core.plural import counted
from mpifarm.units import format_seconds

if TYPE_CHECKING:
    from mpifarm.queue.client import Client, JobSummary, RunLine

RUNS_SHOWN = 5


def why_pending(client: Client, job: JobSummary, tasks: tuple[int, int], dsn: str | None) -> list[str]:
    """What stands between pending tasks in this range and a run, a sentence each."""
    lines = []
    if job.held:
        lines.append(f"the job is held (mpifarm set {job.name} --release)")
    live = [run for run in client.runs() if run.live]
    if not live:
        return [*lines, f"no run is live (start one: {run_command_here(dsn)})"]
    pending = client.pending(job.id, *tasks)
    reasons = {run.id: _why_not(run, job, pending) for run in live}
    able = [run for run in live if reasons[run.id] is None]
    if not able:
        lines.append(f"no live run takes {'it' if tasks[1] - tasks[0] == 1 else 'them'}:")
        lines += [f"  run {run.id} on {run.host} {reasons[run.id]}" for run in live[:RUNS_SHOWN]]
        if len(live) > RUNS_SHOWN:
            lines.append(f"  and {len(live) - RUNS_SHOWN:,} more")
        return lines
    too_wide = {its: tasks for its, tasks in pending.items() if not any(its.fits(_room(run)) for run in able)}
    if too_wide:
        largest = max(map(_room, able))
        wide = counted(sum(too_wide.values()), "needs", "need")
        lines.append(f"{wide} more than a live run has in a node: {_lacks(too_wide, largest)}")
    before = [
        other
        for other in client.jobs()
        if other.pending and not other.held and (-other.priority, other.id) < (-job.priority, job.id)
        if any(chosen(run, other.name, dict(other.tags)) for run in able)
    ]
    if before:
        first = ", ".join(f"{other.name} (priority {other.priority})" for other in before[:3])
        more = f" and {counted(len(before) - 3, 'more job')}" if len(before) > 3 else ""
        ahead = counted(sum(other.pending for other in before), "pending task goes", "pending tasks go")
        lines.append(f"{ahead} first: of {first}{more}")
    named = ", ".join(str(run.id) for run in able)
    return lines or [f"nothing stands in the way: the next lease of run {named} may bring it"]


def never_held(client: Client, job: JobSummary) -> list[str]:
    """What no node of a live run has for pending tasks of a job; nothing is said where no run is live."""
    live = [run.room for run in client.runs() if run.live and run.room is not None]
    if not live:
        return []
    never = {its: tasks for its, tasks in client.pending(job.id).items() if not any(its.fits(room) for room in live)}
    if not never:
        return []
    wide = counted(sum(never.values()), "task needs", "tasks need")
    return [f"{wide} more than a node of any live run has: {_lacks(never, max(live))}"]


def _why_not(run: RunLine, job: JobSummary, pending: Collection[Needs]) -> str | None:
    """Why a live run takes none of the tasks that need this; None: it may."""
    if run.jobs and job.name not in run.jobs:
        return f"works on --jobs {','.join(run.jobs)}"
    if not chosen(run, job.name, dict(job.tags)):
        has = ", ".join(f"{name}={value}" if value else name for name, value in job.tags) or "no tag"
        return f"works on --tags {','.join(run.tags)}, and the job has {has}"
    room = _room(run)
    if pending and not any(its.fits(room) for its in pending):
        return f"has too little in a node: {_lacks(pending, room)}"
    time_limit_s = min((its.begins_with_s for its in pending if its.fits(room)), default=0.0)
    left_s = None if run.ends is None else max(0.0, run.ends - time.time())
    if left_s is not None and time_limit_s > left_s:
        limit = format_seconds(time_limit_s)
        return f"has {format_seconds(left_s)} of walltime left, less than the time limit of {limit}"
    return None


def chosen(run: RunLine, name: str, tags: Mapping[str, str]) -> bool:
    """Whether a run's --jobs and --tags let it work on a job, as a lease has it (see sql/queries.sql)."""
    return (not run.jobs or name in run.jobs) and route(run.tags, tags) is not None


def _lacks(pending: Collection[Needs], room: Needs) -> str:
    """What of a room is not enough for those that need least."""
    least = min(pending, key=lambda its: (len(its.lacking(room)), its))
    return "wanted are " + ", ".join(least.lacking(room))


def _room(run: RunLine) -> Needs:
    """What a node of the run has; of a run before schema version 4 about how many cores."""
    return run.room or Needs(cpus=run.slots // max(1, run.nodes))
