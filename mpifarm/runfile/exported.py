"""What an exported job holds beside the tables of a run file: the job itself, so that nothing else is needed.

    job     JSON as bytes: the job, its runs, failures, durations, accounts
    tasks   one row per task, in order; what a task does not have is -1 or NaN, as its `failure` 255
    texts   the bytes of each task's command, entry, tail of stderr and what cancelled it, one after the other
    shapes  what the tasks [lo, hi) need

All of these, and the two tables, carry Fletcher-32 checksums: who reads a damaged one gets an error and no wrong rows.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from mpifarm.core.job.policy import Policy
from mpifarm.core.model import FailureClass, RunId
from mpifarm.core.protocol.facts import JobSummary, TaskLine

JOB, TASKS, TEXTS, SHAPES = "job", "tasks", "texts", "shapes"
EXPORT_VERSION = 1
EXPORT_ATTRIBUTE = "mpifarm_export"

STATES = ("waiting", "pending", "running", "succeeded", "failed", "cancelled")
_FAILURES = {failure.name.lower(): failure.value for failure in FailureClass} | {"": 255}
_FAILURE_NAMES = {number: name for name, number in _FAILURES.items()}
_NONE, NO_CHECKSUM = -1, 1 << 40
_TEXTS = ("command", "entry", "tail", "because")

TASK_TYPE = np.dtype(
    [
        ("task", "<u4"),
        ("state", "u1"),  # its place in STATES
        ("failure", "u1"),
        ("exit_code", "<i4"),
        ("signal", "<i4"),
        ("seconds", "<f8"),
        ("started", "<f8"),
        ("node", "<i4"),  # its place among the node names in `job`
        ("attempts", "<u4"),
        ("run", "<i4"),
        ("row", "<i8"),  # in `attempts`
        ("lease", "<i8"),
        ("attempt", "<i4"),
        ("text", "<u8"),
        ("command", "<u4"),
        ("entry", "<i4"),
        ("tail", "<i4"),
        ("because", "<i4"),
        ("checksum", "<i8"),  # 2 ** 40 when there is none
    ]
)
SHAPE_TYPE = np.dtype([("lo", "<u4"), ("hi", "<u4"), ("cpus", "<u4"), ("time_limit_s", "<f8")])
Rows = np.ndarray[Any, Any]


class Names:
    """Numbers for names of nodes, in the order in which they come."""

    def __init__(self) -> None:
        self._numbers: dict[str, int] = {}

    def number(self, name: str | None) -> int:
        return _NONE if name is None else self._numbers.setdefault(name, len(self._numbers))

    def all(self) -> list[str]:
        return list(self._numbers)


def packed(lines: Sequence[TaskLine], text_at: int, nodes: Names) -> tuple[Rows, bytes]:
    """Rows of `tasks`, and their texts, which will stand at `text_at`. `row` is that of the run's own file."""
    rows, texts = [], []
    for line in lines:
        because = None if line.because is None else line.because.encode()
        its_texts = (line.command, line.entry, line.stderr_tail, because)
        lengths = [_NONE if text is None else len(text) for text in its_texts]
        rows.append(
            (
                line.task,
                STATES.index(line.state),
                _FAILURES[line.failure],
                *map(_number, (line.exit_code, line.signal)),
                *(math.nan if value is None else value for value in (line.seconds, line.started)),
                nodes.number(line.node),
                line.attempts,
                *map(_number, (line.run, line.file_row, line.lease, line.attempt)),
                text_at,
                *lengths,
                NO_CHECKSUM if line.checksum is None else line.checksum,
            )
        )
        texts += [text for text in its_texts if text is not None]
        text_at += sum(max(0, length) for length in lengths)
    return np.array(rows, TASK_TYPE), b"".join(texts)


def lines_of(rows: Rows, texts: bytes, nodes: Sequence[str], files: Mapping[RunId, str]) -> Iterator[TaskLine]:
    """The tasks of consecutive rows. `files`: where the outputs of a run are."""
    first = int(rows["text"][0]) if len(rows) else 0
    for task, state, failure, code, signal, seconds, started, node, attempts, run, row, *rest in rows.tolist():
        lease, attempt, at, *lengths, checksum = rest
        at -= first
        parts: list[bytes | None] = []
        for length in lengths:
            parts.append(None if length == _NONE else texts[at : at + length])
            at += max(0, length)
        command, entry, tail, because = parts
        assert command is not None
        yield TaskLine(
            task=task,
            state=STATES[state],
            failure=_FAILURE_NAMES[failure],
            exit_code=_maybe(code),
            signal=_maybe(signal),
            seconds=None if math.isnan(seconds) else seconds,
            started=None if math.isnan(started) else started,
            node=None if node == _NONE else nodes[node],
            attempts=attempts,
            command=command,
            entry=entry,
            run=_maybe(run),  # type: ignore[arg-type]
            file=None if row == _NONE else files[run],
            file_row=_maybe(row),
            lease=_maybe(lease),
            attempt=_maybe(attempt),
            stderr_tail=tail,
            because=None if because is None else because.decode(),
            checksum=None if checksum == NO_CHECKSUM else checksum,
        )


def text_end(row: Any) -> int:
    """One past the last byte in `texts` of the task of a row."""
    return int(row["text"]) + sum(max(0, int(row[name])) for name in _TEXTS)


def _number(value: int | None) -> int:
    return _NONE if value is None else value


def _maybe(value: int) -> int | None:
    return None if value == _NONE else value


def to_json(values: object) -> bytes:
    """Bytes in it become text as Python does it for file names."""
    return json.dumps(values, default=lambda raw: raw.decode("utf-8", "surrogateescape")).encode()


def job_values(job: JobSummary) -> dict[str, object]:
    """What `job_of` makes a job of, once it has been through JSON."""
    return {**job._asdict(), "policy": job.policy.to_json()}


def job_of(values: dict[str, Any]) -> JobSummary:
    """The job of `job_values`."""
    tags = tuple((name, value) for name, value in values["tags"])
    cwd = values["cwd"].encode("utf-8", "surrogateescape")
    known = {name: value for name, value in values.items() if name in JobSummary._fields}
    return JobSummary(**(known | {"cwd": cwd, "tags": tags, "policy": Policy.from_json(values["policy"])}))
