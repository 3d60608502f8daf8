"""Tells a task that ran out of memory from one that somebody killed: the kernel counts its own kills."""

from __future__ import annotations

import re
from pathlib import Path

_KILLS = re.compile(rb"^oom_kill (\d+)$", re.MULTILINE)
_SAME_KILL_S = 1.0
"""Attempts that end this soon after a counted kill were part of it: the kernel may kill several at once."""


class MemoryKiller:
    """Watches the count, since Linux 4.13; knows of no kill on older ones."""

    def __init__(self, counters: Path = Path("/proc/vmstat")) -> None:
        self._counters = counters
        self._count = self._read()
        self._killed_at = float("-inf")

    def has_killed(self, now: float) -> bool:
        """Whether it has killed something on this node since it was asked last (or a moment before)."""
        count = self._read()
        if count > self._count:
            self._count = count
            self._killed_at = now
        return now - self._killed_at < _SAME_KILL_S

    def _read(self) -> int:
        try:
            found = _KILLS.search(self._counters.read_bytes())
        except OSError:
            return 0
        return int(found[1]) if found else 0
