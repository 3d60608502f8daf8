"""What the launcher has to tell its rank, gathered so that not every task wakes the rank. Imports nothing heavy."""

from __future__ import annotations

from math import inf

from mpifarm.core.messages import Ended, LauncherLog, Pieces
from mpifarm.link import Link

ENDED_MAX = 64
BYTES_MAX = 1 << 20
ENDED_WAIT_S = 0.02
PIECES_WAIT_S = 0.1

AttemptId = tuple[int, int, int]
"""Lease, task, attempt: as plain numbers, since it crosses the link."""


class Outbox:
    """Gathers output pieces and ended attempts; an attempt's pieces always leave before its end does."""

    def __init__(self, link: Link) -> None:
        self._link = link
        self._ended: list[tuple[object, ...]] = []
        self._pieces: list[tuple[AttemptId, int, bytes]] = []
        self._log: list[str] = []
        self._bytes = 0
        self.due_at = inf
        """When `flush` is due."""

    def add_ended(self, attempt: tuple[object, ...], size: int, now: float) -> None:
        """`attempt`: the fields of an EndedAttempt. `size`: bytes of output in it."""
        self._ended.append(attempt)
        self._bytes += size
        if len(self._ended) >= ENDED_MAX or self._bytes >= BYTES_MAX:
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
        if self._ended:
            self._link.send(Ended(tuple(self._ended)))
            self._ended = []
        for text in self._log:
            self._link.send(LauncherLog(text))
        self._log.clear()
        self._bytes = 0
        self.due_at = inf
