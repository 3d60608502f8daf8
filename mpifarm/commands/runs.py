"""`mpifarm runs`: who works on the queue, how fast, until when.

Must never import click or mpi4py.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING

from mpifarm.commands.answer import look_of, say
from mpifarm.show.objects import run_object
from mpifarm.show.text import lasted_s, run_state, table, when
from mpifarm.units import format_seconds

if TYPE_CHECKING:
    from mpifarm.queue.client import Client, RunLine

PAST_RUNS = 10
"""Ended ones that are shown unless all are wanted."""


def show_runs(client: Client, *, everything: bool, as_json: bool) -> None:
    runs, now = client.runs(), time.time()
    past = [run for run in runs if not run.live]
    shown = runs if everything else sorted(past[-PAST_RUNS:] + [run for run in runs if run.live])
    sentences = _table(shown, now) if shown else ["no runs yet"]
    if len(shown) < len(runs):
        sentences.append(f"{len(runs) - len(shown):,} older ones: mpifarm runs --all")
    say((_object(run, now) for run in shown), sentences, as_json)


def _object(run: RunLine, now: float) -> dict[str, object]:
    left_s = _left_s(run, now)
    return run_object(run, now) | {
        "tasks_per_s": round(_pace(run, now), 3),
        "beat_age_s": round(max(0.0, now - run.beat), 1) if run.ended is None else None,
        "seconds_left": None if left_s is None else round(left_s, 1),
        "claimed": run.held,
        "jobs": list(run.jobs),
        "tags": list(run.tags),
    }


def _table(runs: Sequence[RunLine], now: float) -> list[str]:
    lefts = [_left_s(run, now) for run in runs]
    columns = {
        "run": [str(run.id) for run in runs],
        "state": [run_state(run) for run in runs],
        "on": [f"{run.host} {run.allocation}".rstrip() for run in runs],
        "nodes": [f"{run.nodes:,}" for run in runs],
        "ranks": [f"{run.ranks:,}" for run in runs],
        "slots": [f"{run.slots:,}" for run in runs],
        "started": [when(run.started) for run in runs],
        "lasted": [format_seconds(lasted_s(run, now)) for run in runs],
        "left": ["" if left_s is None else format_seconds(left_s) for left_s in lefts],
        "tasks/s": [f"{_pace(run, now):,.1f}" for run in runs],
        "heard": [format_seconds(max(0.0, now - run.beat)) if run.ended is None else "" for run in runs],
        "claimed": [f"{run.held:,}" for run in runs],
        "succeeded": [f"{run.succeeded:,}" for run in runs],
        "failed": [f"{run.failed:,}" for run in runs],
        "returned": [f"{run.returned:,}" for run in runs],
        "takes": [takes(run) for run in runs],
        "file": [run.file or "" for run in runs],
    }
    for name in ("left", "takes"):
        if not any(columns[name]):
            del columns[name]
    return table(list(columns), list(zip(*columns.values())), "state on started takes file", look_of(sys.stdout))


def takes(run: RunLine) -> str:
    """What it works on, as `mpifarm run` was told; empty: everything."""
    options = (("--jobs", run.jobs), ("--tags", run.tags))
    return " ".join(f"{option} {','.join(words)}" for option, words in options if words)


def _left_s(run: RunLine, now: float) -> float | None:
    """Until its allocation ends; None: it has ended, or nobody knows."""
    return max(0.0, run.ends - now) if run.live and run.ends is not None else None


def _pace(run: RunLine, now: float) -> float:
    """Outcomes per second of its life."""
    lasted = lasted_s(run, now)
    return (run.succeeded + run.failed + run.cancelled) / lasted if lasted else 0.0
