"""What programs get: whole objects, numbers as numbers, bytes that survive."""

from __future__ import annotations

import json

import pytest

from mpifarm.show.objects import array, report_object, task_object
from mpifarm.show.text import JobReport
from tests.reporting.rows import NOW, a_failure, a_job, a_run, a_task


def test_a_job() -> None:
    job = a_job(state="failed", succeeded=98, failed=2)
    report = JobReport(job, [a_failure("exit", 2, 17, exit_code=1)], (0.1, 0.2, 0.3), [a_run(failed=2)], "go on")
    seen = json.loads(json.dumps(report_object(report, NOW)))
    assert seen["tasks"] == {
        "total": 100, "waiting": 0, "pending": 0, "running": 0, "succeeded": 98, "failed": 2, "cancelled": 0
    }  # fmt: skip
    assert seen["failures"] == {"exit": 2}
    assert seen["seconds"] == {"p50": 0.1, "p95": 0.2, "max": 0.3}
    assert (seen["name"], seen["id"], seen["state"], seen["next"]) == ("scan", 12, "failed", "go on")
    (run,) = seen["runs"]
    assert (run["id"], run["state"], run["failed"], run["utilisation"], run["seconds"]) == (3, "live", 2, 0.5, 600)


def test_a_task() -> None:
    line = a_task(4, state="failed", failure="signal", signal=9, seconds=1.5, node="n1", attempts=2)
    assert task_object(line) == {
        "task": 4,
        "state": "failed",
        "class": "signal",
        "exit_code": None,
        "signal": 9,
        "seconds": 1.5,
        "started": None,
        "node": "n1",
        "attempts": 2,
        "left": None,
        "command": "./simulate 4",
        "entry": None,
    }
    assert task_object(a_task(5))["class"] is None


def test_any_command_comes_back_byte_for_byte() -> None:
    command = bytes(range(1, 256)) + "größe".encode()
    text = json.dumps(task_object(a_task(1, command=command)))
    assert text.isascii()
    assert json.loads(text)["command"].encode("utf-8", "surrogateescape") == command


@pytest.mark.parametrize("count", [0, 1, 3])
def test_an_array_of_any_length(count: int) -> None:
    text = "".join(array({"n": number} for number in range(count)))
    assert json.loads(text) == [{"n": number} for number in range(count)]
    assert text.endswith("]\n")


def test_an_array_is_made_while_it_is_read() -> None:
    endless = ({"n": number} for number in iter(int, 1))
    assert next(array(endless)) == '[\n{"n": 0}'
