"""When it is said how attempts ended: not before a stop from outside, which may have ended them, was looked for.

Batch systems signal all processes of a step, one after the other, and a task may be dead before its launcher has heard
of it. So every end waits for `Limits.settle_s`, and one by a signal that means a stop for `Limits.stop_wait_s`, unless
somebody said that the run stops: then it is returned. Slots do not wait, and neither does output. Imports nothing
heavy.
"""

from __future__ import annotations

import resource
from collections import deque
from collections.abc import Callable
from math import inf

from mpifarm.core.launcher.launching import Running
from mpifarm.core.launcher.verdict import may_be_a_stop, returned
from mpifarm.core.model import Limits
from mpifarm.launch.seat import Said

EndedProcess = tuple[Running, float, float, int, resource.struct_rusage, Said, Said]
"""Attempt, start, end, wait status, usage, what it said on stdout and on stderr."""
Fields = tuple[object, ...]
"""Of an EndedAttempt."""

SETTLE_S = Limits().settle_s
STOP_WAIT_S = Limits().stop_wait_s
_STATE, _FAILURE, _EXIT_CODE, _SIGNAL, _TAIL = 4, 5, 6, 7, 21


class Judging:
    """The attempts of a node that have ended, until it is certain how."""

    def __init__(self, conclude: Callable[[EndedProcess], Fields]) -> None:
        """conclude: what a wait status means. Asked for many at once: in a loop that costs half."""
        self._conclude = conclude
        self._ended: deque[tuple[float, EndedProcess]] = deque()
        self._concluded: deque[tuple[float, Fields]] = deque()
        self._suspects: deque[tuple[float, Fields]] = deque()
        """They may have ended by a stop that we have not heard of."""
        self._stopping = False

    @property
    def due_at(self) -> float:
        """When `judge` has something to say; inf: nothing waits."""
        settled = min((queue[0][0] for queue in (self._ended, self._concluded) if queue), default=inf) + SETTLE_S
        return min(settled, self._suspects[0][0] + STOP_WAIT_S) if self._suspects else settled

    def add(self, process: EndedProcess, now: float) -> None:
        self._ended.append((now, process))

    def add_concluded(self, fields: Fields, now: float) -> None:
        """One of which it is known already what its wait status means."""
        self._concluded.append((now, fields))

    def drain(self) -> None:
        """The run stops: who ended by a signal that means a stop did not end by himself."""
        self._stopping = True

    def stop(self) -> None:
        """A stop from outside has reached this node's processes: nobody here has ended by himself."""
        self.drain()
        for _, process in self._ended:
            process[0].cut_short()
        self._concluded = deque((at, _returned(fields)) for at, fields in self._concluded)

    def judge(self, now: float) -> list[Fields]:
        """The attempts of which it is certain how they ended."""
        settled = now - SETTLE_S
        certain: list[Fields] = []
        while self._ended and self._ended[0][0] <= settled:
            at, process = self._ended.popleft()
            self._weigh(at, self._conclude(process), certain)
        while self._concluded and self._concluded[0][0] <= settled:
            self._weigh(*self._concluded.popleft(), certain)
        while self._suspects and (self._stopping or self._suspects[0][0] <= now - STOP_WAIT_S):
            fields = self._suspects.popleft()[1]
            certain.append(_returned(fields) if self._stopping else fields)
        return certain

    def _weigh(self, at: float, fields: Fields, certain: list[Fields]) -> None:
        if fields[_FAILURE] and may_be_a_stop(*fields[_FAILURE : _SIGNAL + 1]):  # type: ignore[arg-type]
            self._suspects.append((at, fields))
        else:
            certain.append(fields)


def _returned(fields: Fields) -> Fields:
    verdict = returned(fields[_STATE : _SIGNAL + 1])  # type: ignore[arg-type]
    if verdict == fields[_STATE : _SIGNAL + 1]:
        return fields
    # The last of stderr is told of those that failed.
    return (*fields[:_STATE], *verdict, *fields[_SIGNAL + 1 : _TAIL], b"", *fields[_TAIL + 1 :])
