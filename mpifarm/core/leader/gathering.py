"""The output half of a node leader: says which output goes into the next message to the recorder, and which rows.

The bytes stay in the node's arena; here are only their places. A message goes out when the launcher closes the cells it
has filled (they are many, or the oldest byte in them is `Limits.output_every_s` old, or the node is idle), so it holds
whole cells and the rows of all attempts that ended until then. Its cells are free again when the recorder has them in
the file. Rows have no cells: for them the leader stops listening to its launcher while too many are on their way.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable

from mpifarm.core.chunks import Layout
from mpifarm.core.model import LeaseId, Limits
from mpifarm.core.protocol.actions import Action, HoldLauncher, Pack, ToLauncher
from mpifarm.core.protocol.messages import Ended, Free, Output, Written
from mpifarm.core.row import EXTENT, ROW, Glance, set_extents


class Gathering:
    """Pure: what the leader on `rank` has gathered and not sent, and what is not in the file yet."""

    def __init__(self, rank: int, limits: Limits) -> None:
        self._rank = rank
        self._limits = limits
        self._layout = Layout(limits.chunk_bytes)
        self._closed = False
        self._rows = bytearray()
        self._tails: dict[tuple[LeaseId, int], bytes] = {}
        self._begun: dict[tuple[int, ...], int] = {}
        """Of attempts with output that have not ended: extent_lo, as in a row. By AttemptKey, or a plain tuple that
        is equal to it and costs a tenth."""
        self._extents_known = 0  # rows of `extents` in the file at least
        self._on_their_way: deque[tuple[tuple[int, ...], int]] = deque()
        """Of each message sent and not written: its cells, the bytes of its rows."""
        self._unwritten = 0
        self._held = False
        self._sent_at = 0.0

    @property
    def empty(self) -> bool:
        """No output and no row waits to be sent."""
        return not (self._rows or self._layout.cells)

    def add_pieces(self, extents: bytes) -> None:
        """Where output of attempts lies, as in Pieces."""
        begun, layout = self._begun, self._layout
        for piece in EXTENT.iter_unpack(extents):
            key, (stream, length, position) = piece[:3], piece[3:]
            if key not in begun:
                begun[key] = layout.extent_count
            layout.add(key, stream, length, position)

    def end(self, ended: Ended, glances: Iterable[Glance]) -> None:
        """Attempts ended, and all their pieces are known. `glances`: of their rows."""
        at, begun, extents = len(self._rows), self._begun, self._layout.extent_count
        self._rows += ended.rows
        self._tails |= ended.tails
        for row in glances:
            lo = begun.pop((row.lease, row.task, row.attempt), extents) if begun else extents
            set_extents(self._rows, at, lo, extents)
            at += ROW.size

    def close(self) -> None:
        """Nothing will be added to the cells known so far."""
        self._closed = True

    def written(self, event: Written) -> list[Action]:
        """The oldest message on its way is in the file."""
        cells, size = self._on_their_way.popleft()
        self._unwritten -= size
        self._extents_known = event.extents
        return [ToLauncher(Free(cells))] if cells else []

    def send(self, now: float, *, last: bool) -> list[Action]:
        """What to do with what is gathered. `last`: nothing of this node is under way, more will not come soon."""
        return self._ship(now, last) + self._hold()

    def _ship(self, now: float, last: bool) -> list[Action]:
        """Send what was gathered when its cells are closed; rows without output when they are old or the last."""
        if self._layout.cells:
            due = self._closed
        else:
            due = bool(self._rows) and (last or now - self._sent_at >= self._limits.output_every_s)
        self._closed = False
        if not due:
            return []
        extents, cells = self._layout.take()
        for key, lo in self._begun.items():
            if lo >= 0:  # its first bytes are in this message: at least this far into the file
                self._begun[key] = -(self._extents_known + 1)
        output = Output(self._rank, bytes(self._rows), extents, (), self._tails)
        self._rows, self._tails = bytearray(), {}
        self._sent_at = now
        size = len(output.rows)
        self._unwritten += size
        self._on_their_way.append((tuple(cell for cell, _ in cells), size))
        return [Pack(output, cells)]

    def _hold(self) -> list[Action]:
        hold = self._unwritten > self._limits.unwritten_rows_bytes_max
        if hold == self._held:
            return []
        self._held = hold
        return [HoldLauncher(hold)]
