"""`mpifarm recover`: what dead runs hold waits again. Must never import click or mpi4py."""

from __future__ import annotations

from typing import TYPE_CHECKING

from mpifarm.commands.answer import noun, say
from mpifarm.units import format_seconds

if TYPE_CHECKING:
    from mpifarm.queue.client import Client


def recover(client: Client, *, dry_run: bool, as_json: bool) -> None:
    taken = client.recover(dry_run=dry_run)
    objects = [
        {"run": one.run, "host": one.host, "tasks": one.tasks, "beat_age_s": round(one.beat_age_s, 1)} for one in taken
    ]
    verb = "would wait" if dry_run else "wait"
    sentences = [
        f"run {one.run} on {one.host}, last heard of {format_seconds(one.beat_age_s)} ago: {one.tasks:,}"
        f" {noun(one.tasks)} {verb} again"
        for one in taken
    ]
    say(objects, sentences or ["no dead run holds anything"], as_json)
