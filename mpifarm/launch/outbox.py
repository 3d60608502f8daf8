"""What the launcher has to tell its rank, gathered so that not every task wakes the rank. Imports nothing heavy."""

from __future__ import annotations

import resource
from collections.abc import Callable
from math import inf

from mpifarm.core.launching import Running
from mpifarm.core.messages import Ended, LauncherLog, Pieces
from mpifarm.launch.link import Link

ENDED_MAX = 64
BYTES_MAX = 1 << 20
ENDED_WAIT_S = 0.02
PIECES_WAIT_S = 0.1

AttemptId = tuple[int, int, int]
"""Lease, task, attempt: as plain numbers, since it crosses the link."""
EndedProcess = tuple[Running, float, float, int, resource.struct_rusage, bytes, bytes]
"""Attempt, start, end, wait status, usage, last of stdout, last of stderr."""


class Outbox:
    """Gathers output pieces and ended attempts; an attempt's pieces always leave before its end does.

    What a wait status means is concluded for many at once, just before it is sent: in a loop that costs half.
    """

    def __init__(self, link: Link, conclude: Callable[[EndedProcess], tuple[object, ...]]) -> None:
        self._link = link
        self._conclude = conclude
        self._ended: list[EndedProcess] = []
        self._concluded: list[tuple[object, ...]] = []
        self._pieces: list[tuple[AttemptId, int, bytes]] = []
        self._log: list[str] = []
        self._bytes = 0
        self.due_at = inf
        """When `flush` is due."""

    def add_ended(self, process: EndedProcess, now: float) -> None:
        self._ended.append(process)
        self._bytes += len(process[-1]) + len(process[-2])
        if len(self._ended) >= ENDED_MAX or self._bytes >= BYTES_MAX:
            self.due_at = now
        elif self.due_at > now + ENDED_WAIT_S:
            self.due_at = now + ENDED_WAIT_S

    def add_concluded(self, attempt: tuple[object, ...], size: int, now: float) -> None:
        """`attempt`: the fields of an EndedAttempt, known already; `size`: of the output in it."""
        self._concluded.append(attempt)
        self._bytes += size
        if len(self._concluded) >= ENDED_MAX or self._bytes >= BYTES_MAX:
            self.due_at = now
        elif self.due_at > now + ENDED_WAIT_S:
            self.due_at = now + ENDED_WAIT_S

    def add_piece(self, attempt: AttemptId, stream: int, piece: bytes, now: float) -> None:
        self._pieces.append((attempt, stream, piece))
        self._bytes += len(piece)
        if self._bytes >= BYTES_MAX:
            self.due_at = now
        elif self.due_at > now + PIECES_WAIT_S:
            self.due_at = now + PIECES_WAIT_S

    def add_log(self, text: str, now: float) -> None:
        self._log.append(text)
        self.due_at = now

    def flush(self) -> None:
        """Send everything gathered."""
        if self._pieces:
            self._link.send(Pieces(tuple(self._pieces)))
            self._pieces = []
        if self._ended or self._concluded:
            ended = [*map(self._conclude, self._ended), *self._concluded]
            self._ended.clear()
            self._concluded.clear()
            self._link.send(Ended(tuple(ended)))
        for text in self._log:
            self._link.send(LauncherLog(text))
        self._log.clear()
        self._bytes = 0
        self.due_at = inf
