"""`tasks --format`: what other programs read."""

from __future__ import annotations

import csv
import io
import json
import re
import sys
from collections.abc import Callable
from importlib.util import find_spec
from typing import Any

import pytest

from mpifarm.cli import main
from mpifarm.queue.client import TaskLine
from mpifarm.show.formats import FORMATS, JOBLOG_COLUMNS
from tests.reporting.conftest import Said
from tests.reporting.rows import FakeClient, a_job, a_task

RAN: dict[str, Any] = {"file_row": 0, "started": 1_800_000_000.25}
LINES = [
    a_task(1, state="succeeded", failure="none", exit_code=0, seconds=0.5, node="n1", attempts=1, **RAN),
    a_task(2, state="failed", failure="exit", exit_code=3, seconds=1234.5678, node="n1", attempts=2, **RAN),
    a_task(3, state="failed", failure="signal", signal=11, seconds=1, node="n2", command=b'say "a,\xff"\n\tb', **RAN),
    a_task(4, state="failed", failure="timeout", seconds=10, node="n2", **RAN),
    a_task(5, entry=b"x,\t\xff"),
    a_task(6, state="cancelled", failure="cancelled"),
]


def made(form: str, lines: list[TaskLine] = LINES) -> bytes:
    out = io.BytesIO()
    FORMATS[form](iter(lines), out)
    return out.getvalue()


def test_json_and_jsonl_are_the_same_objects() -> None:
    objects = [json.loads(line) for line in made("jsonl").splitlines()]
    assert objects == json.loads(made("json"))
    assert [each["task"] for each in objects] == [1, 2, 3, 4, 5, 6]
    assert objects[0]["started"] == 1_800_000_000.25
    assert made("jsonl", []) == b""


def test_csv_comes_back_whole() -> None:
    text = made("csv").decode("utf-8", "surrogateescape")
    rows = list(csv.DictReader(io.StringIO(text, newline="")))
    objects = [json.loads(line) for line in made("jsonl").splitlines()]
    for row, each in zip(rows, objects, strict=True):
        assert row == {name: "" if value is None else str(value) for name, value in each.items()}
    assert rows[2]["command"].encode("utf-8", "surrogateescape") == LINES[2].command
    assert rows[4]["entry"].encode("utf-8", "surrogateescape") == LINES[4].entry
    assert made("csv", []).count(b"\n") == 1


def test_joblog_is_that_of_gnu_parallel() -> None:
    """Columns and widths as parallel prints them; pending tasks and those that never ran are not in it."""
    head, *lines = made("joblog").split(b"\n")[:-1]
    assert head == b"Seq\tHost\tStarttime\tJobRuntime\tSend\tReceive\tExitval\tSignal\tCommand"
    assert lines == [
        b"1\tn1\t1800000000.250\t     0.500\t0\t0\t0\t0\t./simulate 1",
        b"2\tn1\t1800000000.250\t  1234.568\t0\t0\t3\t0\t./simulate 2",
        b'3\tn2\t1800000000.250\t     1.000\t0\t0\t0\t11\tsay "a,\xff"\0\tb',
        b"4\tn2\t1800000000.250\t    10.000\t0\t0\t-1\t0\t./simulate 4",
    ]
    for line in lines:
        assert re.match(rb"[0-9]+(?:\t[^\t]+){5}\t-?[0-9]+\t[0-9]+\t", line), "what --resume looks for"
    assert len(head.split(b"\t")) == len(JOBLOG_COLUMNS)


def test_parquet_or_how_to_get_it() -> None:
    if find_spec("pyarrow") is None:
        with pytest.raises(Exception, match="pip install pyarrow"):
            made("parquet")
        return
    from importlib import import_module

    table = import_module("pyarrow.parquet").read_table(io.BytesIO(made("parquet")))
    columns = table.to_pydict()
    assert columns["task"] == [1, 2, 3, 4, 5, 6]
    assert columns["seconds"] == [0.5, 1234.5678, 1.0, 10.0, None, None]
    assert columns["entry"] == [None] * 4 + ["x,\t\\xff", None]
    assert columns["command"][2] == 'say "a,\\xff"\n\tb'


def test_parquet_without_pyarrow(
    typed: Callable[..., Said], client: FakeClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    client.all_jobs = [a_job()]
    said = typed("tasks", "scan", "--format", "parquet")
    assert said.code == 2
    assert "pip install pyarrow" in said.err


def test_on_the_command_line(client: FakeClient, capfdbinary: pytest.CaptureFixture[bytes]) -> None:
    client.all_jobs = [a_job()]
    client.lines = list(LINES)
    for form in ("json", "jsonl", "csv", "joblog"):
        assert main.main(["tasks", "scan", "--format", form]) == 0
        assert capfdbinary.readouterr().out == made(form)
    assert main.main(["tasks", "scan", "--json"]) == 0
    assert capfdbinary.readouterr().out == made("json")
    assert main.main(["tasks", "scan", "--format", "jsonl", "--where", "node = n2"]) == 0
    assert [json.loads(line)["task"] for line in capfdbinary.readouterr().out.splitlines()] == [3, 4]
    assert main.main(["tasks", "scan", "--json", "--format", "csv"]) == 2
    assert b"not the two of them" in capfdbinary.readouterr().err


def test_lines_are_written_as_they_come() -> None:
    """Of an endless job something is written at once, whatever the format."""

    class Enough(Exception):
        pass

    class Out(io.BytesIO):
        def write(self, content: Any) -> int:
            if self.tell() > 10_000:
                raise Enough
            return super().write(content)

    for form in ("json", "jsonl", "csv", "joblog"):
        with pytest.raises(Enough):
            FORMATS[form](iter(lambda: LINES[0], None), Out())
