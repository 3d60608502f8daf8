"""What `--json` prints: rows of the queue as plain objects, numbers as numbers, times in Unix seconds. Pure.

Bytes become text as Python does it for file names: UTF-8, and each byte that is none as a lone surrogate (`\\udc80`
stands for 0x80), so that `text.encode("utf-8", "surrogateescape")` gives back exactly what was submitted. The JSON
itself is ASCII. Must never import psycopg, h5py or click.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING

from mpifarm.core.lifecycle import STATES
from mpifarm.show.text import JobReport, busy_share, lasted_s, run_state

if TYPE_CHECKING:
    from mpifarm.queue.client import JobSummary, RunLine, TaskLine


def text_of(raw: bytes) -> str:
    return raw.decode("utf-8", "surrogateescape")


def job_object(job: JobSummary) -> dict[str, object]:
    """What the queue knows of a job without looking at its tasks."""
    return {
        "name": job.name,
        "id": job.id,
        "state": job.state,
        "held": job.held,
        "priority": job.priority,
        "tags": dict(job.tags),
        "submitted": job.submitted,
        "source": job.source,
        "cwd": text_of(job.cwd),
        "tasks": {"total": job.total} | {state: getattr(job, state) for state in STATES},
    }


def report_object(report: JobReport, now: float) -> dict[str, object]:
    """A job with its failures, durations and runs. `now` in Unix seconds."""
    names = ("p50", "p95", "max")
    return job_object(report.job) | {
        "failures": {line.failure: line.count for line in report.failures},
        "seconds": dict(zip(names, report.seconds)) if report.seconds else None,
        "runs": [run_object(run, now) for run in report.runs],
        "next": report.next,
    }


def run_object(run: RunLine, now: float) -> dict[str, object]:
    return {
        "id": run.id,
        "state": run_state(run),
        "host": run.host,
        "pid": run.pid,
        "allocation": run.allocation,
        "nodes": run.nodes,
        "ranks": run.ranks,
        "slots": run.slots,
        "started": run.started,
        "ended": run.ended,
        "seconds": round(lasted_s(run, now), 3),
        "succeeded": run.succeeded,
        "failed": run.failed,
        "cancelled": run.cancelled,
        "returned": run.returned,
        "utilisation": round(busy_share(run, now), 4),
        "file": run.file,
    }


def task_object(line: TaskLine) -> dict[str, object]:
    return {
        "task": line.task,
        "state": line.state,
        "class": line.failure if line.failure and line.failure != "none" else None,
        "exit_code": line.exit_code,
        "signal": line.signal,
        "seconds": line.seconds,
        "started": line.started,
        "node": line.node,
        "attempts": line.attempts,
        "left": line.left,
        "command": text_of(line.command),
        "entry": None if line.entry is None else text_of(line.entry),
    }


def array(objects: Iterable[dict[str, object]]) -> Iterator[str]:
    """The pieces of a JSON array with an object on each line, made as they are asked for."""
    before = "[\n"
    for item in objects:
        yield before + json.dumps(item)
        before = ",\n"
    yield "[]\n" if before == "[\n" else "\n]\n"
