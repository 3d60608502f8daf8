"""`mpifarm wait`: until the tasks that are meant have ended. Must never import click or mpi4py."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from mpifarm.commands.answer import tell
from mpifarm.commands.meant import choose, counts_of
from mpifarm.core.lifecycle import STATES
from mpifarm.core.model import Limits
from mpifarm.errors import QueueUnreachable
from mpifarm.selection.report_options import Ranges

if TYPE_CHECKING:
    from mpifarm.queue.client import Client, JobSummary

POLL_S = (0.5, 5.0)
"""First and longest pause between two looks."""
SUCCEEDED, FAILED, CANCELLED, TIMED_OUT = 0, 1, 2, 124
"""What `wait` exits with."""

_UNENDED = ("waiting", "pending", "running")

Chosen = Sequence[tuple["JobSummary", "Ranges | None"]]


def wait(client: Client, selector: str, timeout_s: float | None, *, as_json: bool) -> int:
    """Until no task that is meant is waiting, pending or running. Returns the exit code. Raises QueueUnreachable when
    the database was away for `Limits.queue_timeout_s`."""
    totals = until_ended(client, choose(client, selector), timeout_s, tell)
    if as_json:
        print(json.dumps({"exit_code": exit_code(totals), "tasks": totals}))
    else:
        print(", ".join(f"{count:,} {state}" for state, count in totals.items() if count) or "no tasks")
    return exit_code(totals)


def until_ended(client: Client, chosen: Chosen, timeout_s: float | None, say: Callable[[str], None]) -> dict[str, int]:
    """How many tasks are in which state, once none is left that has not ended, or after so many seconds. `say` is told
    when nobody works on them. Raises QueueUnreachable as `wait` does."""
    started = heard = time.monotonic()
    pause_s = POLL_S[0]
    totals = _totals(client, chosen)
    if not any(run.live for run in client.runs()) and exit_code(totals) == TIMED_OUT:
        say("no run is live now; waiting all the same")
    held = set[str]()
    while True:
        try:
            totals = _totals(client, chosen)
            for name in _held(client, chosen) - held:
                held.add(name)
                say(f"{name} is held, no more of it begins: mpifarm set {name} --release; waiting all the same")
            heard = time.monotonic()
        except QueueUnreachable:
            if time.monotonic() - heard > Limits().queue_timeout_s:
                raise
        else:
            if exit_code(totals) != TIMED_OUT:
                return totals
        left_s = float("inf") if timeout_s is None else started + timeout_s - time.monotonic()
        if left_s <= 0:
            return totals
        time.sleep(min(pause_s, left_s))
        pause_s = min(1.5 * pause_s, POLL_S[1])


def _held(client: Client, chosen: Chosen) -> set[str]:
    """Names of jobs with tasks that nobody may begin."""
    known = [client.find(str(chosen[0][0].id))] if len(chosen) == 1 else client.jobs()
    wanted = {job.id for job, _ in chosen}
    return {job.name for job in known if job.id in wanted and job.held and job.pending + job.waiting}


def exit_code(totals: dict[str, int]) -> int:
    """What became of tasks that are in these states."""
    if any(totals[state] for state in _UNENDED):
        return TIMED_OUT
    return FAILED if totals["failed"] else CANCELLED if totals["cancelled"] else SUCCEEDED


def _totals(client: Client, chosen: Chosen) -> dict[str, int]:
    totals = dict.fromkeys(STATES, 0)
    if len(chosen) == 1:
        return totals | counts_of(client, *chosen[0])
    wanted = {job.id for job, _ in chosen}
    for job in client.jobs():
        if job.id in wanted:
            for state in totals:
                totals[state] += getattr(job, state)
    return totals
