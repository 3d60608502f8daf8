"""`mpifarm cancel`: tasks that shall not run, or not go on. Must never import click or mpi4py."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from mpifarm.commands.answer import listed, noun, say
from mpifarm.commands.meant import choose, counts_of
from mpifarm.core.protocol.facts import EVERYTHING
from mpifarm.selection.report_options import Ranges

if TYPE_CHECKING:
    from mpifarm.queue.client import Client, JobSummary

POLL_S = (0.2, 2.0)
"""First and longest pause between two looks."""


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
        sentences.append(f"{job.name}: {done.tasks:,} {noun(done.tasks)} cancelled")
        if done.asked:
            asked = ", ".join(f"run {run}" for run in done.runs)
            told = f"{asked} {'was' if len(done.runs) == 1 else 'were'} asked to end {done.asked:,} more"
            after = f"now {listed(now)}" if wait else f"it takes seconds (mpifarm wait {selector})"
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
