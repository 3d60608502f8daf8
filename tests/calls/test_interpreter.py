"""The warm interpreter, spoken to as a launcher does."""

from __future__ import annotations

import json
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

from mpifarm.calls import interpreter
from mpifarm.calls.call import Sender, by_path
from mpifarm.calls.frames import ANSWER, Answer, request
from mpifarm.core.left_behind import parse_contents

pytestmark = pytest.mark.slow

USERS = """
import os, sys, time
calls = 0
def add(a, b=0): return a + b
def count():
    global calls
    calls += 1
    return calls
def where(): return os.getcwd()
def leave(): os.chdir("/"); return 1
def say(text): print(text); print("err", file=sys.stderr)
def shell(text): os.system("echo " + text)
def fail(): raise ValueError("no such thing")
def leave_early(): sys.exit(3)
def named(): return [os.environ[n] for n in ("MPIFARM_TASK", "MPIFARM_ATTEMPT", "MPIFARM_ENTRY")]
def close(): sys.stdout.close()
"""


class Told(NamedTuple):
    raised: bool
    seconds: float
    contents: bytes
    values: bytes

    @property
    def tree(self) -> object:
        (entry, *_) = [e for e in parse_contents(self.contents).entries if e.name == ""]
        return json.loads(self.values[entry.offset : entry.offset + entry.length])


class Warm:
    """An interpreter in a directory with the user's module `users`."""

    def __init__(self, folder: Path) -> None:
        (folder / "users.py").write_text(USERS)
        (folder / "json.py").write_text("raise SystemExit('the user has one, too')")
        ours, theirs = socket.socketpair()
        self._socket = ours
        ours.settimeout(60)
        words = [sys.executable, interpreter.__file__, str(theirs.fileno())]
        self.out, self.process = folder / "out", None
        with open(self.out, "wb") as out:
            self.process = subprocess.Popen(
                words, cwd=folder, pass_fds=[theirs.fileno()], stdout=out, stderr=out, stdin=subprocess.DEVNULL
            )
        theirs.close()

    def ask(self, body: bytes, task: int = 1, entry: bytes | None = None) -> Told:
        self._socket.sendall(request(task, 2, body, entry))
        answer = Answer._make(ANSWER.unpack(self._read(ANSWER.size)))
        contents, values = self._read(answer.contents_bytes), self._read(answer.values_bytes)
        return Told(bool(answer.raised), answer.ended - answer.started, contents, values)

    def _read(self, size: int) -> bytes:
        got = b""
        while len(got) < size and (piece := self._socket.recv(size - len(got))):
            got += piece
        return got

    def close(self) -> int:
        self._socket.close()
        return self.process.wait(60)


@pytest.fixture
def warm(tmp_path: Path) -> Iterator[Warm]:
    found = Warm(tmp_path)
    yield found
    assert found.close() == 0


def test_calls_are_made_one_after_the_other_in_one_process(warm: Warm) -> None:
    assert warm.ask(by_path("users:add", [1], {"b": 2})).tree == 3
    assert [warm.ask(by_path("users:count")).tree for _ in range(3)] == [1, 2, 3]


def test_each_call_knows_its_task_and_begins_in_the_directory_of_the_job(warm: Warm, tmp_path: Path) -> None:
    assert warm.ask(by_path("users:named"), 17, b"x y").tree == ["17", "2", "x y"]
    assert warm.ask(by_path("users:leave")).tree == 1
    assert warm.ask(by_path("users:where")).tree == str(tmp_path)


def test_all_that_a_call_has_said_is_there_before_its_answer(warm: Warm) -> None:
    warm.ask(by_path("users:say", ["hello"]))
    assert warm.out.read_bytes() == b"hello\nerr\n"
    warm.ask(by_path("users:shell", ["again"]))
    assert warm.out.read_bytes().endswith(b"again\n")


def test_an_exception_is_told_with_type_message_and_the_users_part_of_the_traceback(warm: Warm) -> None:
    answer = warm.ask(by_path("users:fail"))
    assert answer.raised
    told = answer.tree["$exception"]
    assert (told["type"], told["message"]) == ("ValueError", "no such thing")
    assert told["bases"] == ["ValueError", "Exception"]
    assert "users.py" in told["traceback"] and "interpreter.py" not in told["traceback"]
    assert told["traceback"].encode() in warm.out.read_bytes()


@pytest.mark.parametrize(
    ("body", "kind"),
    [
        (by_path("users:leave_early"), "SystemExit"),
        (by_path("users:nothing"), "AttributeError"),
        (by_path("nowhere:f"), "ModuleNotFoundError"),
        (b"no call at all", "mpifarm.calls.call.NotACallError"),
        (by_path("users:add", [1, 2, 3]), "TypeError"),
    ],
)
def test_what_goes_wrong_in_a_call_ends_the_call_alone(warm: Warm, body: bytes, kind: str) -> None:
    answer = warm.ask(body)
    assert answer.raised and answer.tree["$exception"]["type"] == kind
    assert warm.ask(by_path("users:count")).tree == 1


def test_a_call_that_closes_stdout_takes_nothing_from_the_next(warm: Warm) -> None:
    warm.ask(by_path("users:close"))
    assert warm.ask(by_path("users:add", [1])).tree == 1


def test_by_value(warm: Warm) -> None:
    pytest.importorskip("cloudpickle")
    base = 10
    assert warm.ask(Sender(lambda x, y=0: base + x + y).body([1], {"y": 2})).tree == 13
    assert warm.ask(Sender(str).body([Path("a")])).tree == "a"
