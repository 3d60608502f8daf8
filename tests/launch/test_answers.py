"""The answer of an interpreter, however it comes in pieces."""

from __future__ import annotations

import socket
from itertools import count

import pytest

from mpifarm.calls.frames import ANSWER, Answer
from mpifarm.launch.kinds.function import RECEIVED_AT_ONCE, _Interpreter
from mpifarm.launch.seat import Seat

HEADER = ANSWER.size


@pytest.mark.parametrize("contents", [1, 100, RECEIVED_AT_ONCE + 1])
@pytest.mark.parametrize("more", [-1, 0, 1])
@pytest.mark.parametrize("turns", [0, 1, 2])
def test_an_answer_is_whole_with_its_last_byte(contents: int, more: int, turns: int) -> None:
    """Kind: a turn that ends at its cap just where the answer ends; whoever waits for another byte waits for ever."""
    values = max(0, turns * RECEIVED_AT_ONCE - HEADER - contents + more)
    answer = Answer(0, 0, 1.0, 2.0, 0.0, 0.0, 0, 0, 0, contents, values)
    whole = ANSWER.pack(*answer) + b"c" * contents + b"v" * values
    ours, theirs = socket.socketpair()
    taken: list[bytes] = []
    with ours, theirs:
        ours.setblocking(False)
        theirs.setblocking(False)
        found = _Interpreter(0, (0, 0, (), 0), Seat(0, 1 << 16), ours)  # type: ignore[arg-type]
        sent = 0
        for turn in count():
            assert turn < 10_000
            if sent < len(whole):
                try:
                    sent += theirs.send(whole[sent:])
                except BlockingIOError:
                    pass
            done = found.receive(taken.append)
            if sent == len(whole):
                break
        while not done:
            before = sum(map(len, taken)), len(found.received)
            done = found.receive(taken.append)
            assert done or (sum(map(len, taken)), len(found.received)) != before, "nothing is left, and it is not whole"
        assert found.answer == answer and bytes(found.received) == b"c" * contents
        assert b"".join(taken) == b"v" * values
