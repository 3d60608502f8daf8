"""`tasks --format`: lines of tasks as JSON lines, CSV, GNU parallel's joblog or Parquet, made as they are asked for.

CSV and joblog hold commands byte for byte, as they were submitted; JSON says them as `objects` does; Parquet has text
only, so a byte that is no UTF-8 stands there as `\\xNN`. Must never import psycopg, h5py or click.
"""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable, Iterable, Iterator
from importlib import import_module
from itertools import islice
from typing import TYPE_CHECKING, BinaryIO

from mpifarm.errors import UsageError
from mpifarm.show.objects import array, task_object

if TYPE_CHECKING:
    from mpifarm.queue.client import TaskLine

JOBLOG_COLUMNS = ("Seq", "Host", "Starttime", "JobRuntime", "Send", "Receive", "Exitval", "Signal", "Command")
PARQUET_ROWS = 1 << 16
"""Tasks in one row group, which is what is in memory at once."""

_TASKS_AT_ONCE = 1000


def write_json(lines: Iterable[TaskLine], out: BinaryIO) -> None:
    """One array, an object per task."""
    for piece in array(map(task_object, lines)):
        out.write(piece.encode())


def write_jsonl(lines: Iterable[TaskLine], out: BinaryIO) -> None:
    """An object per task and line."""
    for line in lines:
        out.write(json.dumps(task_object(line)).encode() + b"\n")


def write_csv(lines: Iterable[TaskLine], out: BinaryIO) -> None:
    """With a header; what a task does not have is empty. Lines end in a newline alone."""
    text = io.StringIO(newline="")
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(_COLUMNS)
    for block in _blocks(lines, _TASKS_AT_ONCE):
        writer.writerows(task_object(line).values() for line in block)
        _pour(text, out)
    _pour(text, out)


def write_joblog(lines: Iterable[TaskLine], out: BinaryIO) -> None:
    """As `parallel --joblog` writes it, one line per task that ran and has an outcome.

    Bytes sent and received are 0, as for parallel's own local jobs. Exitval is -1 for a task that was ended without an
    exit code and not by a signal of its own: out of time or memory, not launched.
    """
    out.write("\t".join(JOBLOG_COLUMNS).encode() + b"\n")
    for line in lines:
        if line.file_row is not None and line.started is not None and line.seconds is not None:
            number = line.signal or 0
            code = line.exit_code if line.exit_code is not None else 0 if line.failure in ("", "none", "signal") else -1
            facts = (
                f"{line.task}\t{line.node or ':'}\t{line.started:.3f}\t{line.seconds:10.3f}\t0\t0\t{code}\t{number}\t"
            )
            out.write(facts.encode() + line.command.replace(b"\n", b"\0") + b"\n")


def write_parquet(lines: Iterable[TaskLine], out: BinaryIO) -> None:
    """Raises UsageError without pyarrow, and for a terminal."""
    try:
        arrow, parquet = import_module("pyarrow"), import_module("pyarrow.parquet")
    except ImportError:
        raise UsageError("Parquet needs pyarrow: pip install pyarrow (--format csv needs nothing)") from None
    if out.isatty():
        raise UsageError("Parquet is nothing to look at: > tasks.parquet")
    texts = ("state", "class", "node", "command", "entry")
    whole = ("task", "exit_code", "signal", "attempts", "left")
    types = {
        name: arrow.string() if name in texts else arrow.int32() if name in whole else arrow.float64()
        for name in _COLUMNS
    }
    schema = arrow.schema(types.items())
    with parquet.ParquetWriter(out, schema) as writer:
        for block in _blocks(lines, PARQUET_ROWS):
            rows = [task_object(line) | _readable(line) for line in block]
            writer.write_table(arrow.Table.from_pylist(rows, schema))


def _readable(line: TaskLine) -> dict[str, str | None]:
    """What is bytes, as text that any reader takes."""
    entry = None if line.entry is None else line.entry.decode("utf-8", "backslashreplace")
    return {"command": line.command.decode("utf-8", "backslashreplace"), "entry": entry}


FORMATS: dict[str, Callable[[Iterable[TaskLine], BinaryIO], None]] = {
    "json": write_json,
    "jsonl": write_jsonl,
    "csv": write_csv,
    "joblog": write_joblog,
    "parquet": write_parquet,
}
_COLUMNS = (
    "task",
    "state",
    "class",
    "exit_code",
    "signal",
    "seconds",
    "started",
    "node",
    "attempts",
    "left",
    "command",
    "entry",
)


def _blocks(lines: Iterable[TaskLine], size: int) -> Iterator[list[TaskLine]]:
    ahead = iter(lines)
    while block := list(islice(ahead, size)):
        yield block


def _pour(text: io.StringIO, out: BinaryIO) -> None:
    out.write(text.getvalue().encode("utf-8", "surrogateescape"))
    text.seek(0)
    text.truncate()
