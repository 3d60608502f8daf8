"""Which attempts of a node have begun and not ended, where its rank sees it even when the launcher is gone.

In memory that both share, since a launcher that is killed tells nothing any more: only what had begun may have been
what took it down. Costs a task half a microsecond. Imports nothing heavy.
"""

from __future__ import annotations

import struct

_MARK = struct.Struct("<QI")
SLOTS_MAX = 4096
"""A slot beyond has no mark: what runs there is never blamed."""
SIZE = SLOTS_MAX * _MARK.size


class Begun:
    """Lease and task by slot."""

    def __init__(self, memory: memoryview) -> None:
        self._memory = memory

    def begin(self, slot: int, lease: int, task: int) -> None:
        """It is about to be started."""
        if slot < SLOTS_MAX:
            _MARK.pack_into(self._memory, slot * _MARK.size, lease, task)

    def end(self, slot: int) -> None:
        """It has ended."""
        if slot < SLOTS_MAX:
            _MARK.pack_into(self._memory, slot * _MARK.size, 0, 0)

    def all(self) -> tuple[tuple[int, int], ...]:
        """(lease, task) of those that run."""
        return tuple((lease, task) for lease, task in _MARK.iter_unpack(self._memory) if lease)
