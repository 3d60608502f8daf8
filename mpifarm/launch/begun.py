"""Which attempts of a node have begun, and which of them have not ended, where its rank sees it even when the launcher
is gone.

In memory that both share, since a launcher that is killed tells nothing any more: only what had not ended may have been
what took it down, and only what had not begun may begin under the same number; what had ended it may not have told.
Costs a task a microsecond. Imports nothing heavy.
"""

from __future__ import annotations

import struct

_MARK = struct.Struct("<QI")
SLOTS_MAX = 4096
"""A slot beyond has no mark: what runs there is never blamed."""
RECENT = 16_384
"""So many are remembered beyond their end."""
_COUNT = struct.Struct("<Q")
_RECENT_AT = SLOTS_MAX * _MARK.size
_COUNT_AT = _RECENT_AT + RECENT * _MARK.size
SIZE = _COUNT_AT + _COUNT.size


class Begun:
    """Lease and task by slot."""

    def __init__(self, memory: memoryview) -> None:
        self._memory = memory
        self._count = 0

    def begin(self, slot: int, lease: int, task: int) -> None:
        """It is about to be started."""
        _MARK.pack_into(self._memory, _RECENT_AT + self._count % RECENT * _MARK.size, lease, task)
        self._count += 1
        _COUNT.pack_into(self._memory, _COUNT_AT, self._count)
        if slot < SLOTS_MAX:
            _MARK.pack_into(self._memory, slot * _MARK.size, lease, task)

    def end(self, slot: int) -> None:
        """It has ended."""
        if slot < SLOTS_MAX:
            _MARK.pack_into(self._memory, slot * _MARK.size, 0, 0)

    def all(self) -> tuple[tuple[int, int], ...]:
        """(lease, task) of those that run."""
        return tuple((lease, task) for lease, task in _MARK.iter_unpack(self._memory[:_RECENT_AT]) if lease)

    def recent(self) -> tuple[int, tuple[tuple[int, int], ...]]:
        """How many have begun, and (lease, task) of the last of them."""
        (count,) = _COUNT.unpack_from(self._memory, _COUNT_AT)
        end = _RECENT_AT + min(count, RECENT) * _MARK.size
        return count, tuple(_MARK.iter_unpack(self._memory[_RECENT_AT:end]))
