"""A leader's door that makes chunks of cells of the arena."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from dataclasses import replace

from mpifarm.core.chunks import Squeeze
from mpifarm.core.protocol.actions import Pack, Packed
from mpifarm.core.protocol.messages import Role
from mpifarm.launch.arena import CELL_BYTES, Arena
from mpifarm.rank.queue_door import Door, Inbox
from mpifarm.runfile.codec import compressor

NICE = 10
"""Of the thread that compresses: a tenth of a core where tasks keep all of them busy, and all it can use elsewhere."""


class PackDoor(Door):
    """Makes chunks of cells. To a recorder that sees the arena they stay in it, to others they go as bytes."""

    def __init__(
        self, arena: Arena, shared: bool, compress: str, inbox: Inbox, on_bug: Callable[[BaseException], None]
    ) -> None:
        super().__init__("pack", inbox, on_bug)
        self._arena = arena
        self._shared = shared
        self._compress = compressor(compress)
        self._squeeze = Squeeze(CELL_BYTES)

    def _work(self) -> None:
        os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), NICE)
        while True:
            ask: Pack | None = self._asks.get()
            if ask is None:
                return
            packed = [self._pack(cell, filled) for cell, filled in ask.cells]
            if self._shared:
                output = replace(ask.output, cells=tuple((squeezed, cell, size) for squeezed, cell, size, _ in packed))
            else:
                output = replace(ask.output, chunks=tuple((squeezed, content) for squeezed, *_, content in packed))
            self._inbox.post(Role.LEADER, Packed(output))

    def _pack(self, cell: int, filled: int) -> tuple[bool, int, int, bytes]:
        """(compressed?, cell, length, content if it must leave the arena) of one chunk."""
        memory = self._arena.cell(cell)
        if filled < CELL_BYTES:
            memory[filled:] = bytes(CELL_BYTES - filled)
        if self._compress is not None and self._squeeze.wants(filled, self._asks.qsize()):
            content = self._compress(memory)
            if self._squeeze.keeps(len(content)):
                if self._shared:
                    memory[: len(content)] = content
                return True, cell, len(content), content
        return False, cell, CELL_BYTES, b"" if self._shared else bytes(memory)
