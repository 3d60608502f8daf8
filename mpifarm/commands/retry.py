"""`mpifarm retry`: tasks that ended wait again. Must never import click or mpi4py."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from mpifarm.commands.answer import listed, noun, say
from mpifarm.commands.meant import choose, counts_of
from mpifarm.core.model import FailureClass, State
from mpifarm.core.protocol.facts import EVERYTHING

if TYPE_CHECKING:
    from mpifarm.queue.client import Client


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
        sentences.append(f"{job.name}: {tasks:,} {noun(tasks)} {verb} again; now {listed(left)}")
    say(objects, sentences, as_json)
