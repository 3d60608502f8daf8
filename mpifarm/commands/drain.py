"""`mpifarm drain`: a live run begins nothing more and ends. Must never import click or mpi4py."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from mpifarm.commands.answer import say
from mpifarm.core.plural import counted
from mpifarm.errors import UsageError

if TYPE_CHECKING:
    from mpifarm.queue.client import Client, RunLine


def drain(client: Client, selector: str, *, now: bool, as_json: bool) -> None:
    """Ask a run, the `last` one or `all` that are live to end. Raises UsageError when there is none that could."""
    objects, sentences = [], []
    for run in _chosen(client.runs(), selector):
        if not client.drain(run.id, now=now):
            if selector == "all":
                continue  # it has ended meanwhile
            raise UsageError(f"run {run.id} is not live: there is nothing to end (mpifarm runs)")
        objects.append({"run": run.id, "host": run.host, "now": now, "claimed": run.held})
        when_ended = "within its grace (run --grace)" if now else f"with the {counted(run.held, 'task')} that it holds"
        sentences.append(f"run {run.id} on {run.host} was asked to begin nothing more and to end {when_ended}")
    say(objects, sentences or ["no run is live"], as_json)


def _chosen(runs: Sequence[RunLine], selector: str) -> Sequence[RunLine]:
    if selector == "all":
        return [run for run in runs if run.live]
    found = runs[-1:] if selector == "last" else [run for run in runs if str(run.id) == selector]
    if not found:
        live = ", ".join(str(run.id) for run in runs if run.live)
        there = f"live: {live}" if live else "none is live"
        raise UsageError(f"there is no run {selector[:40]!r}: runs have numbers ({there}; mpifarm runs)")
    return found
