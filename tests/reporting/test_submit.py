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

from mpifarm.core.job.policy import Policy, RetryRule
from mpifarm.core.model import FailureClass, JobId, Parent, TaskText
from mpifarm.core.needs import Needs
from mpifarm.intake.attempt_options import shared_capture
from mpifarm.queue.client import Client, JobSummary
from tests.reporting.conftest import Said
from tests.reporting.rows import FakeClient, a_job

Typed = Callable[..., Said]


@pytest.fixture(autouse=True)
def _in_a_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def test_a_file(typed: Typed, client: FakeClient, tmp_path: Path) -> None:
    Path("tasks.txt").write_text("echo 1\n# no task\necho 2\n")
    said = typed("submit", "tasks.txt", "--cpus", "4", "--time-limit", "10m", "--name", "scan")
    assert said.code == 0
    assert client.names == ("scan", "tasks.txt", os.fsencode(tmp_path))
    assert client.parts[0][0] == Needs(4, time_limit_s=600.0)
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
        parts: Iterable[tuple[Needs, list[TaskText]]],
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
    monkeypatch.setattr(Client, "connect", lambda *_: nullcontext(Interrupting(before_the_end, times)))
    Path("tasks.txt").write_text("echo 1\n")
    before = signal.getsignal(signal.SIGINT)
    answer = typed("submit", "tasks.txt")
    assert (answer.code, answer.err.endswith(said)) == (code, True), answer
    assert ("queued in" in answer.out) == (code == 0)
    assert signal.getsignal(signal.SIGINT) is before


def test_what_is_wanted_of_a_job(typed: Typed, client: FakeClient) -> None:
    client.all_jobs = [a_job("prep", id=JobId(3), total=40)]
    Path("tasks.txt").write_text("echo 1\n")
    words = "--retries 2 --retry-on exit:137,timeout=4 --crash-limit never --max-fails 0 --keep tail:64K"
    words += " --capture *.log --capture out/* --tag gpu --tag owner=ann --after prep --after prep.3,7-9 --afterany all"
    said = typed("submit", "tasks.txt", *words.split())
    assert said.code == 0, said.err
    rules = (RetryRule(FailureClass.EXIT, 137, 2), RetryRule(FailureClass.TIMEOUT, None, 4))
    assert client.terms.policy == Policy(2, rules, 0, "tail:65536", ("*.log", "out/*"))
    assert client.terms.max_fails == 0
    assert client.terms.tags == {"gpu": "", "owner": "ann"}
    job = JobId(3)
    assert client.terms.after == (
        Parent(1, 41, False, job),
        Parent(3, 4, False, job),
        Parent(7, 10, False, job),
        Parent(1, 41, True, job),
    )


@pytest.mark.parametrize(
    ("patterns", "shared"),
    [
        (["*.npy"], "*.npy"),
        (["out.npy"], "out.npy"),
        (["out/**/x", "{task}.log"], "out/**/x"),
        (["{job}-{attempt}.npy"], "{job}-{attempt}.npy"),
        (["{task}/*.npy", "out-{task:06}.npy", "{}.*"], None),
    ],
)
def test_files_that_other_tasks_leave_are_told_at_submit(typed: Typed, patterns: list[str], shared: str | None) -> None:
    Path("tasks.txt").write_text("echo 1\necho 2\n")
    words = [word for pattern in patterns for word in ("--capture", pattern)]
    said = typed("submit", "tasks.txt", *words)
    assert said.code == 0
    assert (f"warning: --capture {shared!r} holds nothing of the task's own" in said.err) == (shared is not None)
    assert shared_capture(patterns, 1) is None, "a single task has the directory to itself"


@pytest.mark.parametrize(
    ("words", "reason"),
    [
        (["--retry-on", "exit:x"], "'x' is not an exit code from 1 to 255\n    exit:x\n    ^"),
        (["--retry-on", "lost=2", "--crash-limit", "3"], "leave one out"),
        (["--crash-limit", "0"], "nodes lost: '0' is not a whole number from 1"),
        (["--retries", "-1"], "-1 is not in the range 0<=x<=1000"),
        (["--keep", "some"], "'some' is not all, failed, none or tail:SIZE"),
        (["--capture", "../x"], "it leads out of the directory of the task"),
        (["--tag", "=x"], "'=x' is not NAME or NAME=VALUE"),
        (["--tag", "*"], "mean something to run --tags"),
        (["--tag", "x" * 10_000], "is longer than 200 characters"),
        (["--tag", "a\udcff"], "cannot be shown"),
        (["--after", "nobody"], "no job is called nobody"),
        (["--after", "prep.41"], "job prep has no task 41: it has tasks 1 to 40"),
        (["--job", "prep", "--max-fails", "3"], "--keep and --capture are for new ones"),
        (["--job", "prep", "--retries", "3"], "--keep and --capture are for new ones"),
    ],
)
def test_what_cannot_be_wanted(typed: Typed, client: FakeClient, words: list[str], reason: str) -> None:
    client.all_jobs = [a_job("prep", id=JobId(3), total=40)]
    Path("tasks.txt").write_text("echo 1\n")
    said = typed("submit", "tasks.txt", *words)
    assert said.code == 2
    assert reason in said.err
    assert len(said.err) < 500
    assert client.names is None


def test_a_ring_is_refused(typed: Typed) -> None:
    Path("tasks.txt").write_text("[# 2 #] a\n[# 1 #] b\n")
    said = typed("submit", "tasks.txt")
    assert said.code == 2
    assert "tasks.txt:1:4: tasks wait for each other, so none can begin: 1 (line 1) -> 2 (line 2) -> 1" in said.err
