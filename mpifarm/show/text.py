"""What `report` and `tasks` show: rows of the queue in, text or plain objects for JSON out.

Pure: no queue, no file, no clock, no terminal is touched here (the caller says how wide it is and what time it is).
Bytes that came from tasks are made printable, so that nothing a task wrote can drive the reader's terminal.
Must never import psycopg, h5py or click.
"""

from __future__ import annotations

import signal
from collections.abc import Iterable, Sequence
from datetime import datetime, timezone
from typing import TYPE_CHECKING, NamedTuple

from mpifarm.core.lifecycle import STATES
from mpifarm.errors import UsageError
from mpifarm.units import format_seconds

if TYPE_CHECKING:
    from mpifarm.queue.client import FailureLine, JobSummary, RunLine, TaskLine

ENTRY_SHOWN = 30
"""Characters of an entry, beside the task that it is of."""
_COLOURS = {"succeeded": "\x1b[32m", "failed": "\x1b[31m", "running": "\x1b[36m", "lost": "\x1b[31m"}
_PLAIN = "\x1b[0m"
_SPELLINGS = {"done": "succeeded", "completed": "succeeded", "complete": "succeeded", "success": "succeeded"}
_SPELLINGS |= {"ready": "pending", "queued": "pending", "canceled": "cancelled", "leased": "running"}


class Look(NamedTuple):
    """How text may look where it goes. `width` None: not a terminal, nothing is cut."""

    width: int | None = None
    colour: bool = False


class JobReport(NamedTuple):
    """All that is known of one job; `seconds` are p50, p95 and max of its tasks' durations."""

    job: JobSummary
    failures: Sequence[FailureLine]
    seconds: tuple[float, float, float] | None
    runs: Sequence[RunLine]
    next: str
    accounts: Sequence[str] = ()
    """Lines of a table: what became of the core time of the runs that are over."""


def state_named(word: str) -> str:
    """The state that `word` means: `done`, `COMPLETED` and the like are understood. Raises UsageError."""
    name = _SPELLINGS.get(word.lower(), word.lower())
    if name not in STATES:
        raise UsageError(f"no state is called {word!r}; there are {', '.join(STATES)}")
    return name


def printable(text: bytes) -> str:
    """As text of one line: control characters as escapes, bytes that are no UTF-8 as `\\xNN`."""
    shown = text.decode("utf-8", "backslashreplace")
    return shown if shown.isprintable() else "".join(c if c.isprintable() else _escape(c) for c in shown)


def _escape(character: str) -> str:
    return character.encode("unicode_escape").decode("ascii")


def telling_line(tail: bytes | None) -> str:
    """The line of a stderr tail that says most: the first, or the last of a Python traceback."""
    lines = [line.strip() for line in (tail or b"").splitlines() if line.strip()]
    if not lines:
        return ""
    return printable(lines[-1] if any(line.startswith(b"Traceback (most recent") for line in lines) else lines[0])


def signal_text(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"


def ending(failure: str, exit_code: int | None, signal_number: int | None) -> str:
    """How a failed attempt ended, in two words: `exit 3`, `SIGSEGV`, `timeout`."""
    if failure == "exit" and exit_code is not None:
        return f"exit {exit_code}"
    if failure == "signal" and signal_number:
        return signal_text(signal_number)
    return "" if failure == "none" else failure


def when(unix_s: float) -> str:
    """Local time, to the minute."""
    return datetime.fromtimestamp(unix_s, tz=timezone.utc).astimezone().strftime("%Y-%m-%d %H:%M")


def table(head: Sequence[str], rows: Sequence[Sequence[str]], left: str, look: Look) -> list[str]:
    """Lines of aligned columns; those named in `left` (space-separated) are text, the others numbers."""
    texts = set(left.split())
    widths = [max(map(len, column)) for column in zip(head, *rows)]
    lines = []
    for row in (head, *rows):
        cells = []
        for name, cell, width in zip(head, row, widths):
            padded = cell.ljust(width) if name in texts else cell.rjust(width)
            cells.append(_COLOURS[cell] + padded + _PLAIN if look.colour and cell in _COLOURS else padded)
        lines.append("  ".join(cells).rstrip())
    return lines


def jobs_text(jobs: Sequence[JobSummary], look: Look) -> str:
    """One line per job; counts that are zero everywhere get no column."""
    counts = [state for state in STATES if any(getattr(job, state) for job in jobs)]
    rows = [
        [str(job.id), job.name, _state(job), f"{job.total:,}"]
        + [f"{getattr(job, state):,}" for state in counts]
        + [when(job.submitted)]
        for job in jobs
    ]
    return "\n".join(table(["id", "job", "state", "tasks", *counts, "submitted"], rows, "job state submitted", look))


def _state(job: JobSummary) -> str:
    return f"{job.state} (held)" if job.held else job.state


def job_text(report: JobReport, now: float, look: Look) -> str:
    """One screen about one job, ending in the next command to type. `now` in Unix seconds."""
    job = report.job
    state = _COLOURS[job.state] + _state(job) + _PLAIN if look.colour and job.state in _COLOURS else _state(job)
    counts = ", ".join(f"{getattr(job, name):,} {name}" for name in STATES if getattr(job, name))
    lines = [
        f"job {job.name} (id {job.id}): {state}",
        f"submitted {when(job.submitted)} from {job.source or 'a program'} in {printable(job.cwd)}",
        *(
            [f"tags      {', '.join(f'{name}={value}' if value else name for name, value in job.tags)}"]
            if job.tags
            else []
        ),
        "",
        f"tasks     {job.total:,}" + (f": {counts}" if counts else ""),
    ]
    if report.seconds:
        p50, p95, longest = map(format_seconds, report.seconds)
        lines.append(f"duration  p50 {p50}, p95 {p95}, max {longest}")
    if report.failures:
        lines += ["", *failures_text(report.job.name, report.failures, look)]
    if report.runs:
        lines += ["", *runs_text(report.runs, now, look)]
    if report.accounts:
        lines += ["", *report.accounts]
    return "\n".join([*lines, "", f"next: {report.next}"])


def failures_text(name: str, failures: Sequence[FailureLine], look: Look) -> list[str]:
    rows = [
        [
            line.failure,
            f"{line.count:,}",
            named(f"{name}.{line.example_task}", line.entry),
            ending(line.failure, line.exit_code, line.signal),
            telling_line(line.stderr_tail),
        ]
        for line in failures
    ]
    head = ["failure", "tasks", "example", "ended", "stderr"]
    return [cut(line, look) for line in table(head, rows, "failure example ended stderr", Look())]


def named(task: str, entry: bytes | None) -> str:
    """The task, and what it was made from."""
    if entry is None:
        return task
    value = printable(entry)
    return f"{task} ({value if len(value) <= ENTRY_SHOWN else f'{value[:ENTRY_SHOWN]}…'})"


def runs_text(runs: Sequence[RunLine], now: float, look: Look) -> list[str]:
    columns = {
        "run": [str(run.id) for run in runs],
        "state": [run_state(run) for run in runs],
        "on": [f"{run.host} {run.allocation}".rstrip() for run in runs],
        "nodes": [f"{run.nodes:,}" for run in runs],
        "slots": [f"{run.slots:,}" for run in runs],
        "started": [when(run.started) for run in runs],
        "lasted": [format_seconds(lasted_s(run, now)) for run in runs],
        "succeeded": [f"{run.succeeded:,}" for run in runs],
        "failed": [f"{run.failed:,}" for run in runs],
        "returned": [f"{run.returned:,}" for run in runs],
        "busy": [f"{100 * busy_share(run, now):.0f} %" for run in runs],
        "file": [run.file or "" for run in runs],
    }
    return table(list(columns), list(zip(*columns.values())), "state on started file", look)


def run_state(run: RunLine) -> str:
    """`live`, `ended`, or `lost`: it stopped renewing without a word."""
    return "live" if run.live else "ended" if run.ended is not None else "lost"


def lasted_s(run: RunLine, now: float) -> float:
    """Seconds from its start to its end, to its last sign of life when it is lost, or until `now`."""
    end = now if run.live else run.ended if run.ended is not None else run.beat
    return max(0.0, end - run.started)


def busy_share(run: RunLine, now: float) -> float:
    """Share of the run's slot-seconds that tasks used; those still running are not counted yet."""
    offered_s = run.slots * lasted_s(run, now)
    return float(min(1.0, run.busy_s / offered_s)) if offered_s else 0.0


def cut(line: str, look: Look) -> str:
    """The line as the terminal can show it."""
    if look.width is None or len(line) <= look.width:
        return line
    return line[: max(0, look.width - 1)] + "…"


def task_head(digits: int) -> str:
    return f"{'task':>{digits}}  {'state':<9}  {'ended':<9}  {'seconds':>9}  {'node':<10}  attempts  command"


def task_text(line: TaskLine, digits: int, look: Look) -> str:
    """One task on a terminal: aligned, cut to its width. Elsewhere: whole, fields separated by tabs."""
    how = ending(line.failure, line.exit_code, line.signal)
    seconds = "" if line.seconds is None else f"{line.seconds:.3f}"
    node, command = line.node or "", printable(line.command)
    if look.width is None:
        return "\t".join([str(line.task), line.state, how, seconds, node, str(line.attempts), command])
    text = f"{line.task:>{digits}}  {line.state:<9}  {how:<9}  {seconds:>9}  {node:<10}  {line.attempts:>8}  {command}"
    text = cut(text, look)
    return text.replace(line.state, _COLOURS[line.state] + line.state + _PLAIN, 1) if _painted(line, look) else text


def _painted(line: TaskLine, look: Look) -> bool:
    return look.colour and line.state in _COLOURS


def ranges_text(ranges: Iterable[tuple[int, int]]) -> str:
    """Ranges as `--tasks` takes them: `3,7-9`."""
    return ",".join(str(lo) if hi - lo == 1 else f"{lo}-{hi - 1}" for lo, hi in ranges)
