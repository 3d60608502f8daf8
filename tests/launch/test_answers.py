"""The answer of an interpreter, however it comes in pieces."""

from __future__ import annotations

import select
import socket

import pytest

from mpifarm.calls.frames import ANSWER, Answer
from mpifarm.launch.kinds import function
from mpifarm.launch.kinds.function import _Interpreter
from mpifarm.launch.seat import Seat

AT_ONCE = 1000


@pytest.mark.parametrize("contents", [1, 100, AT_ONCE + 1])
@pytest.mark.parametrize("more", [-1, 0, 1])
@pytest.mark.parametrize("turns", [0, 1, 2, 5])
def test_an_answer_is_whole_with_its_last_byte(
    monkeypatch: pytest.MonkeyPatch, contents: int, more: int, turns: int
) -> None:
    """Kind: a turn that ends at its cap just where the answer ends. Who waits for another byte then is never woken."""
    monkeypatch.setattr(function, "RECEIVED_AT_ONCE", AT_ONCE)
    values = max(0, turns * AT_ONCE - ANSWER.size - contents + more)
    answer = Answer(0, 0, 1.0, 2.0, 0.0, 0.0, 0, 0, 0, contents, values)
    taken: list[bytes] = []
    ours, theirs = socket.socketpair()
    with ours, theirs:
        ours.setblocking(False)
        theirs.sendall(ANSWER.pack(*answer) + b"c" * contents + b"v" * values)
        found = _Interpreter(0, (0, 0, (), 0), Seat(0, 1 << 16), ours)  # type: ignore[arg-type]
        while not found.receive(taken.append):
            assert select.select([ours], [], [], 0)[0], "not whole, and nothing is left to come"
        assert found.answer == answer and bytes(found.received) == b"c" * contents
        assert b"".join(taken) == b"v" * values
