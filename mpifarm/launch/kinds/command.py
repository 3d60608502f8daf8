"""Tasks that are command lines: each a process of its own, in a group of its own. Imports nothing heavy."""

from __future__ import annotations

import os
import time
from collections.abc import Collection

from mpifarm.core.launcher.launching import Running
from mpifarm.launch.kinds.way import Dead, End, Handle, Site
from mpifarm.launch.seat import Seat


class Commands:
    """A handle is the pid of an attempt's main process, and the number of its group."""

    idle: Collection[int] = ()

    def __init__(self, site: Site) -> None:
        self._spawner = site.spawner
        self._running: set[Handle] = set()

    def start(self, attempt: Running, seat: Seat) -> Handle:
        pid = self._spawner.spawn(attempt, seat)
        self._running.add(pid)
        return pid

    def signal(self, handle: Handle, number: int) -> None:
        signal_group(handle, number)

    def reap(self, dead: dict[int, Dead]) -> list[tuple[Handle, End]]:
        ended = [(pid, End(time.time(), *dead.pop(pid))) for pid in [*dead] if pid in self._running]
        for pid, _ in ended:
            self._running.discard(pid)
        return ended

    def ready(self, descriptor: int, now: float) -> bool:  # noqa: ARG002 - it has none
        return False

    def resume(self) -> None:
        pass

    def leave(self, seat: Seat) -> None:
        pass


def signal_group(pid: int, number: int) -> None:
    """To a process and its group, which it may have left."""
    for kill in (os.killpg, os.kill):
        try:
            kill(pid, number)
        except ProcessLookupError:
            pass
