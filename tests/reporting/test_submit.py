"""Where the tasks of a submit come from, what is said about it, and what an interruption leaves."""

from __future__ import annotations

import io
import json
import os
import re
import signal
import sys
from collections.abc import Callable, Iterable
from contextlib import nullcontext
from pathlib import Path

import pytest

from mpifarm.core.model import Shape, TaskText
from mpifarm.queue.client import Client, JobSummary
from tests.reporting.conftest import Said
from tests.reporting.rows import FakeClient

Typed = Callable[..., Said]


@pytest.fixture(autouse=True)
def _in_a_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def test_a_file(typed: Typed, client: FakeClient, tmp_path: Path) -> None:
    Path("tasks.txt").write_text("echo 1\n# no task\necho 2\n")
    said = typed("submit", "tasks.txt", "--cpus", "4", "--time-limit", "10m", "--name", "scan")
    assert said.code == 0
    assert client.names == ("scan", "tasks.txt", os.fsencode(tmp_path))
    assert client.parts[0][0] == Shape(4, 600.0)
    assert client.commands == [b"echo 1", b"echo 2"]
    first, second = said.out.splitlines()
    assert re.fullmatch(r"job scan: 2 tasks queued in \d+\.\d\d s \([\d,]+ tasks/s\)", first)
    assert second == "next: mpiexec -n 4 mpifarm run"


def test_as_json(typed: Typed) -> None:
    Path("tasks.txt").write_text("echo 1\n")
    seen = json.loads(typed("submit", "tasks.txt", "--json").out)
    assert (seen["name"], seen["id"], seen["tasks"]) == ("scan", 12, 1)
    assert seen["next"] == "mpiexec -n 4 mpifarm run"


def test_stdin(typed: Typed, client: FakeClient, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b"echo \xff\n")))
    assert typed("submit", "-").code == 0
    assert client.commands == [b"echo \xff"]
    assert client.names is not None
    assert client.names[1] == "stdin"


@pytest.mark.parametrize(
    ("argv", "commands"),
    [
        (["--", "echo", "{}", ":::", "a", "b"], [b"echo a", b"echo b"]),
        (["--array", "1-3", "--", "./sim", "--seed", "{}"], [b"./sim --seed 1", b"./sim --seed 2", b"./sim --seed 3"]),
        (["--each-line", "list", "--", "dock", "{}"], [b"dock x", b"dock y"]),
        (["--", "prog", "-h", "--name", "x"], [b"prog -h --name x"]),
        (["--cpus", "2", "--", "a", "--", "b", ":::", "1"], [b"a -- b 1"]),
    ],
)
def test_one_command_many_times(typed: Typed, client: FakeClient, argv: list[str], commands: list[bytes]) -> None:
    Path("list").write_text("x\ny\n")
    assert typed("submit", *argv).code == 0
    assert client.commands == commands
    assert client.names is not None
    assert client.names[1] == commands[0].split()[0].decode()


def test_bytes_of_arguments_survive(typed: Typed, client: FakeClient) -> None:
    assert typed("submit", "--", "echo", "{}", ":::", os.fsdecode(b"\xff")).code == 0
    assert client.commands == [b"echo '\xff'"]


def test_a_bad_line_is_shown_and_nothing_is_queued(typed: Typed) -> None:
    Path("tasks.txt").write_text("echo 1\necho 'open\n")
    said = typed("submit", "tasks.txt")
    assert said.code == 2
    assert said.err.startswith("mpifarm: tasks.txt:2:6: ")
    assert "    echo 'open\n         ^" in said.err
    assert said.out == ""


class Interrupting(FakeClient):
    """Somebody types Ctrl-C while this submit is under way: before the last task, or while it is being committed."""

    def __init__(self, before_the_end: bool, times: int) -> None:
        super().__init__()
        self.before_the_end, self.times = before_the_end, times

    def submit(
        self,
        name: str | None,
        source: str,
        cwd: bytes,
        parts: Iterable[tuple[Shape, list[TaskText]]],
        progress: Callable[[int], None] | None = None,
    ) -> JobSummary:
        if self.before_the_end:
            signal.raise_signal(signal.SIGINT)
        job = super().submit(name, source, cwd, parts, progress)
        for _ in range(self.times):
            signal.raise_signal(signal.SIGINT)
        return job


@pytest.mark.parametrize(
    ("before_the_end", "times", "code", "said"),
    [
        (True, 0, 130, "mpifarm: interrupted: nothing was queued\n"),
        (False, 1, 0, "mpifarm: too late to stop: all tasks are with the database\n"),
        (False, 2, 130, "interrupted: whether there is a job now, mpifarm report shows\n"),
    ],
)
def test_who_interrupts_learns_what_became_of_it(
    typed: Typed, monkeypatch: pytest.MonkeyPatch, before_the_end: bool, times: int, code: int, said: str
) -> None:
    monkeypatch.setattr(Client, "connect", lambda _dsn: nullcontext(Interrupting(before_the_end, times)))
    Path("tasks.txt").write_text("echo 1\n")
    before = signal.getsignal(signal.SIGINT)
    answer = typed("submit", "tasks.txt")
    assert (answer.code, answer.err.endswith(said)) == (code, True), answer
    assert ("queued in" in answer.out) == (code == 0)
    assert signal.getsignal(signal.SIGINT) is before
