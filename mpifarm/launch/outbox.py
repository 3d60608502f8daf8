"""What the launcher has to tell its rank, gathered so that not every task wakes the rank. Imports nothing heavy.

Output goes from the pipes into the arena; told is where it lies. Cells are closed (the rank may send them on) when
enough of them are full, when the oldest byte has waited long enough, or when the node has nothing more to do; not by
time while cells are low, for then the rank is behind anyway, and cells closed half empty would be wasted.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from math import inf

from mpifarm.core.chunks import Cells
from mpifarm.core.model import AttemptKey, LeaseId, Limits
from mpifarm.core.protocol.messages import Closed, Ended, LauncherLog, Pieces
from mpifarm.core.row import EXTENT
from mpifarm.launch.arena import CELL_BYTES, Arena
from mpifarm.launch.judging import SETTLE_S, Conclude, Concluded, EndedProcess, Judging
from mpifarm.launch.link import Link
from mpifarm.launch.seat import Stream

FULL_CELLS_MAX = Limits().message_bytes_max // CELL_BYTES
ENDED_WAIT_S = 0.02
PIECES_WAIT_S = Limits().output_every_s


def make_cells() -> Cells:
    """The cells of a node's arena."""
    limits = Limits()
    cells = limits.arena_bytes // CELL_BYTES
    return Cells(cells, CELL_BYTES, cells - limits.in_flight_bytes_max // CELL_BYTES)


class Outbox:
    """Gathers output pieces and ended attempts; an attempt's pieces always leave before its end does."""

    def __init__(self, link: Link, arena: Arena, cells: Cells, conclude: Conclude) -> None:
        self._link = link
        self._arena = arena
        self._cells = cells
        self._judging = Judging(conclude)
        self._pieces = bytearray()
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
        self._judging.add(process, now)
        if self.due_at > now + SETTLE_S:
            self.due_at = now + SETTLE_S

    def add_concluded(self, concluded: Concluded, now: float) -> None:
        self._judging.add_concluded(concluded, now)
        if self.due_at > now + SETTLE_S:
            self.due_at = now + SETTLE_S

    def drain(self, now: float) -> None:
        """The run stops."""
        self._judging.drain()
        self.due_at = now

    def stop(self, now: float) -> None:
        """A stop from outside has reached this node's processes."""
        self._judging.stop()
        self.due_at = now

    def add_log(self, text: str, now: float) -> None:
        self._log.append(text)
        self.due_at = now

    def read(self, attempt: AttemptKey, stream: Stream, now: float) -> int:
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

    def write(self, attempt: AttemptKey, stream: int, text: bytes, now: float) -> None:
        """Put bytes that came otherwise into an attempt's output."""
        start = 0
        while start < len(text):
            self._cells.open()
            filled = self._cells.filled
            piece = text[start : start + CELL_BYTES - filled]
            self._arena.cell(self._cells.cell)[filled : filled + len(piece)] = piece
            self._add_piece(attempt, stream, len(piece), now)
            start += len(piece)

    def _add_piece(self, attempt: AttemptKey, stream: int, size: int, now: float) -> None:
        cells = self._cells
        self._pieces += EXTENT.pack(*attempt, stream, size, cells.cell * CELL_BYTES + cells.filled)
        cells.fill(size)
        if self._close_at == inf:
            self._close_at = now + PIECES_WAIT_S
            self.due_at = min(self.due_at, self._close_at)
        if cells.cell < 0 and cells.full >= FULL_CELLS_MAX:
            self._close_at = now
            self.flush(now)

    def flush(self, now: float, *, idle: bool = False) -> None:
        """Send everything gathered. `idle`: the node has nothing more to do."""
        if self._pieces:
            self._link.send(Pieces(bytes(self._pieces)))
            self._pieces.clear()
        ended = self._judging.judge(now)
        if ended:
            self._link.send(_told(ended))
        judged_at = self._judging.due_at
        self.due_at = max(judged_at, now + ENDED_WAIT_S)
        if idle and judged_at == inf and self._close_at < inf:
            self._close_at = now
        if now >= self._close_at:
            if self._cells.low and self._cells.full < FULL_CELLS_MAX:
                self._close_at = now + PIECES_WAIT_S
                self.due_at = min(self.due_at, self._close_at)
            else:
                self._cells.close()
                self._close_at = inf
                self._link.send(Closed())
        elif self._close_at < inf:
            self.due_at = min(self.due_at, self._close_at)
        for text in self._log:
            self._link.send(LauncherLog(text))
        self._log.clear()


def _told(ended: Sequence[Concluded]) -> Ended:
    """The message that says so."""
    tails = {(LeaseId(row.lease), row.task): tail for row, tail in ended if tail}
    return Ended(b"".join([row.packed() for row, _ in ended]), tails)
