"""When it is said how attempts ended: not before a stop from outside, which may have ended them, was looked for.

Batch systems signal all processes of a step, one after the other, and a task may be dead before its launcher has heard
of it. So every end waits for `Limits.settle_s`, and one by a signal that means a stop for `Limits.stop_wait_s`, unless
somebody said that the run stops: then it is returned. Slots do not wait, and neither does output. Imports nothing
heavy.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Sequence
from math import inf
from typing import NamedTuple

from mpifarm.core.launcher.launching import Running
from mpifarm.core.launcher.verdict import may_be_a_stop, returned
from mpifarm.core.model import Limits
from mpifarm.core.row import AttemptRow
from mpifarm.launch.kinds.way import End
from mpifarm.launch.seat import Said


class EndedProcess(NamedTuple):
    """What is known of the process of an attempt when it has ended and all it wrote was read."""

    running: Running
    started: float
    end: End
    out: Said
    err: Said


Concluded = tuple[AttemptRow, bytes]
"""How an attempt ended; the last of its stderr when it failed."""
Conclude = Callable[[Sequence[EndedProcess]], Iterable[Concluded]]
"""What wait statuses mean. Asked for many at once: one by one costs twice as much."""

SETTLE_S = Limits().settle_s
STOP_WAIT_S = Limits().stop_wait_s


class Judging:
    """The attempts of a node that have ended, until it is certain how."""

    def __init__(self, conclude: Conclude) -> None:
        self._conclude = conclude
        self._ended: deque[tuple[float, EndedProcess]] = deque()
        self._concluded: deque[tuple[float, Concluded]] = deque()
        self._suspects: deque[tuple[float, Concluded]] = deque()
        """They may have ended by a stop that we have not heard of."""
        self._stopping = False

    @property
    def due_at(self) -> float:
        """When `judge` has something to say; inf: nothing waits."""
        settled = min((queue[0][0] for queue in (self._ended, self._concluded) if queue), default=inf) + SETTLE_S
        return min(settled, self._suspects[0][0] + STOP_WAIT_S) if self._suspects else settled

    def add(self, process: EndedProcess, now: float) -> None:
        self._ended.append((now, process))

    def add_concluded(self, concluded: Concluded, now: float) -> None:
        """One of which it is known already what its wait status means."""
        self._concluded.append((now, concluded))

    def drain(self) -> None:
        """The run stops: who ended by a signal that means a stop did not end by himself."""
        self._stopping = True

    def stop(self) -> None:
        """A stop from outside has reached this node's processes: nobody here has ended by himself."""
        self.drain()
        for _, process in self._ended:
            process.running.cut_short()
        self._concluded = deque((at, _returned(concluded)) for at, concluded in self._concluded)

    def judge(self, now: float) -> list[Concluded]:
        """The attempts of which it is certain how they ended."""
        settled = now - SETTLE_S
        certain: list[Concluded] = []
        ended: list[tuple[float, EndedProcess]] = []
        while self._ended and self._ended[0][0] <= settled:
            ended.append(self._ended.popleft())
        for (at, _), concluded in zip(ended, self._conclude([process for _, process in ended])):
            self._weigh(at, concluded, certain)
        while self._concluded and self._concluded[0][0] <= settled:
            self._weigh(*self._concluded.popleft(), certain)
        while self._suspects and (self._stopping or self._suspects[0][0] <= now - STOP_WAIT_S):
            concluded = self._suspects.popleft()[1]
            certain.append(_returned(concluded) if self._stopping else concluded)
        return certain

    def _weigh(self, at: float, concluded: Concluded, certain: list[Concluded]) -> None:
        row = concluded[0]
        if row.failure and may_be_a_stop(row.failure, row.exit_code, row.signal):
            self._suspects.append((at, concluded))
        else:
            certain.append(concluded)


def _returned(concluded: Concluded) -> Concluded:
    row = concluded[0]
    told = row.state, row.failure, row.exit_code, row.signal
    state, failure, exit_code, signal = verdict = returned(told)
    if verdict == told:
        return concluded
    # The last of stderr is told of those that failed.
    return row._replace(state=state, failure=failure, exit_code=exit_code, signal=signal), b""
