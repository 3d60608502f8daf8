"""What the launcher has to tell its rank, gathered so that not every task wakes the rank. Imports nothing heavy.

Output goes from the pipes into the arena; told is where it lies. Cells are closed (the rank may send them on) when
enough of them are full, when the oldest byte has waited long enough, or when the node has nothing more to do; not by
time while cells are low, for then the rank is behind anyway, and cells closed half empty would be wasted.
"""

from __future__ import annotations

import os
import resource
from collections.abc import Callable
from math import inf

from mpifarm.core.chunks import Cells
from mpifarm.core.launching import Running
from mpifarm.core.messages import Closed, Ended, LauncherLog, Pieces
from mpifarm.core.model import Limits
from mpifarm.launch.arena import CELL_BYTES, Arena
from mpifarm.launch.link import Link
from mpifarm.launch.seat import Said, Stream

ENDED_MAX = 64
FULL_CELLS_MAX = Limits().message_bytes_max // CELL_BYTES
ENDED_WAIT_S = 0.02
PIECES_WAIT_S = Limits().output_every_s

AttemptId = tuple[int, int, int]
"""Lease, task, attempt: as plain numbers, since it crosses the link."""
EndedProcess = tuple[Running, float, float, int, resource.struct_rusage, Said, Said]
"""Attempt, start, end, wait status, usage, what it said on stdout and on stderr."""


def make_cells() -> Cells:
    """The cells of a node's arena."""
    limits = Limits()
    cells = limits.arena_bytes // CELL_BYTES
    return Cells(cells, CELL_BYTES, cells - limits.in_flight_bytes_max // CELL_BYTES)


class Outbox:
    """Gathers output pieces and ended attempts; an attempt's pieces always leave before its end does.

    What a wait status means is concluded for many at once, just before it is sent: in a loop that costs half.
    """

    def __init__(
        self, link: Link, arena: Arena, cells: Cells, conclude: Callable[[EndedProcess], tuple[object, ...]]
    ) -> None:
        self._link = link
        self._arena = arena
        self._cells = cells
        self._conclude = conclude
        self._ended: list[EndedProcess] = []
        self._concluded: list[tuple[object, ...]] = []
        self._pieces: list[tuple[AttemptId, int, int, int, int]] = []
        self._log: list[str] = []
        self._close_at = inf
        """When cells used so far are to be closed; inf: none is used."""
        self.due_at = inf
        """When `flush` is due."""

    @property
    def low(self) -> bool:
        """Read nothing that can wait."""
        return self._cells.low

    def add_ended(self, process: EndedProcess, now: float) -> None:
        self._ended.append(process)
        if len(self._ended) >= ENDED_MAX:
            self.due_at = now
        elif self.due_at > now + ENDED_WAIT_S:
            self.due_at = now + ENDED_WAIT_S

    def add_concluded(self, attempt: tuple[object, ...], now: float) -> None:
        """`attempt`: the fields of an EndedAttempt, known already."""
        self._concluded.append(attempt)
        if len(self._concluded) >= ENDED_MAX:
            self.due_at = now
        elif self.due_at > now + ENDED_WAIT_S:
            self.due_at = now + ENDED_WAIT_S

    def add_log(self, text: str, now: float) -> None:
        self._log.append(text)
        self.due_at = now

    def read(self, attempt: AttemptId, stream: Stream, now: float) -> int:
        """Move what is in the pipe now into the arena, at most about one pipe full. Returns the bytes."""
        read, cells, most = 0, self._cells, stream.capacity
        while read < most:
            cells.open()
            view = self._arena.cell(cells.cell)[cells.filled :]
            try:
                size = os.readv(stream.read_fd, (view,))
            except BlockingIOError:
                break
            if not size:
                break
            stream.said.add(view[:size])
            self._add_piece(attempt, stream.number, size, now)
            read += size
            if size < len(view):
                break
        return read

    def write(self, attempt: AttemptId, stream: int, text: bytes, now: float) -> None:
        """Put bytes that came otherwise into an attempt's output."""
        start = 0
        while start < len(text):
            self._cells.open()
            filled = self._cells.filled
            piece = text[start : start + CELL_BYTES - filled]
            self._arena.cell(self._cells.cell)[filled : filled + len(piece)] = piece
            self._add_piece(attempt, stream, len(piece), now)
            start += len(piece)

    def _add_piece(self, attempt: AttemptId, stream: int, size: int, now: float) -> None:
        cells = self._cells
        self._pieces.append((attempt, stream, cells.cell, cells.filled, size))
        cells.fill(size)
        if self._close_at == inf:
            self._close_at = now + PIECES_WAIT_S
            self.due_at = min(self.due_at, self._close_at)
        if cells.cell < 0 and cells.full >= FULL_CELLS_MAX:
            self._close_at = now
            self.flush(now)

    def finish(self, now: float) -> None:
        """The node has nothing more to do: let the rank have everything soon."""
        if self._close_at < inf:
            self._close_at = now
        self.due_at = now

    def flush(self, now: float) -> None:
        """Send everything gathered."""
        if self._pieces:
            self._link.send(Pieces(tuple(self._pieces)))
            self._pieces = []
        if self._ended or self._concluded:
            ended = [*map(self._conclude, self._ended), *self._concluded]
            self._ended.clear()
            self._concluded.clear()
            self._link.send(Ended(tuple(ended)))
        self.due_at = inf
        if now >= self._close_at:
            if self._cells.low and self._cells.full < FULL_CELLS_MAX:
                self._close_at = now + PIECES_WAIT_S
                self.due_at = self._close_at
            else:
                self._cells.close()
                self._close_at = inf
                self._link.send(Closed())
        elif self._close_at < inf:
            self.due_at = self._close_at
        for text in self._log:
            self._link.send(LauncherLog(text))
        self._log.clear()
