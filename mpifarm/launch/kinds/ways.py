"""Which way a kind of task runs: the registry. A further kind is a module beside `command` and a line here.

The ways of a node are called through one object of this class: an attempt goes to the way of its kind, and one of a
kind that this mpifarm does not know is not launched, with a reason, whoever wrote it into the queue. What all ways have
in common stands here: waiting for processes, and the end of what attempts left behind. Imports nothing heavy.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping

from mpifarm.core.launcher.launching import Running
from mpifarm.core.model import Kind
from mpifarm.launch.kinds.command import Commands
from mpifarm.launch.kinds.function import Functions
from mpifarm.launch.kinds.way import Dead, End, Handle, Site, Way
from mpifarm.launch.orphans import NOBODY, Orphans
from mpifarm.launch.seat import Seat
from mpifarm.launch.spawning import NotLaunchedError

WAYS: Mapping[Kind, Callable[[Site], Way]] = {
    Kind.COMMAND: Commands,
    Kind.FUNCTION: Functions,
}


class Ways:
    """All ways of one node."""

    def __init__(self, site: Site) -> None:
        self._spawner = site.spawner
        self._ways = {kind: make(site) for kind, make in WAYS.items()}
        self._running: dict[Handle, tuple[Way, Running]] = {}
        self._orphans = Orphans()

    def start(self, attempt: Running, seat: Seat) -> Handle:
        """Starts an attempt in the way of its kind; see `Way.start`."""
        way = self._ways.get(attempt.block.kind)
        if way is None:
            raise NotLaunchedError(
                f"this mpifarm cannot run tasks of kind {attempt.block.kind.word}: a newer one has submitted it"
            )
        for other in self._ways.values():
            if other is not way:
                other.leave(seat)
        handle = way.start(attempt, seat)
        self._running[handle] = way, attempt
        return handle

    def signal(self, handle: Handle, number: int) -> None:
        """Signals through the way that started it; see `Way.signal`."""
        self._running[handle][0].signal(handle, number)

    def ready(self, descriptor: int, now: float) -> bool:
        """Asks each way whether the descriptor is its own; see `Way.ready`."""
        return any(way.ready(descriptor, now) for way in self._ways.values())

    def resume(self) -> None:
        """Tells all ways; see `Way.resume`."""
        for way in self._ways.values():
            way.resume()

    def leave(self, seat: Seat) -> None:
        """Tells all ways; see `Way.leave`."""
        for way in self._ways.values():
            way.leave(seat)

    def reap(self) -> tuple[list[tuple[Handle, End]], list[str]]:
        """What has ended since, each handle once; and lines for people about what it left behind, now killed."""
        dead: dict[int, Dead] = {}
        while True:
            try:
                pid, status, usage = os.wait4(-1, os.WNOHANG)
            except ChildProcessError:
                break
            if not pid:
                break
            dead[pid] = Dead(status, usage)
        ends = [end for way in self._ways.values() for end in way.reap(dead)]
        for pid in dead:
            self._orphans.forget(pid)
        ended = {handle: self._running.pop(handle)[1] for handle, _ in ends}
        idle = [pid for way in self._ways.values() for pid in way.idle]
        if self._orphans.none_beside(len(self._running) + len(idle)):
            return ends, []
        marks = self._spawner.marks
        alive = {pid: NOBODY for pid in idle if pid not in ended}
        alive |= {pid: marks(attempt) for pid, (_, attempt) in self._running.items()}
        left, log = self._orphans.sweep(alive, {pid: marks(attempt) for pid, attempt in ended.items()})
        return [(handle, end._replace(left=end.left + left.get(handle, 0))) for handle, end in ends], log
