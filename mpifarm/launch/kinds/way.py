"""What a way of running attempts offers its launcher: start, signal, reap; and what it tells of an end.

An attempt is started in a seat, whose pipes its output goes to, and named by a handle from then on, until `reap` has
given that handle back with its end. Imports nothing heavy.
"""

from __future__ import annotations

import select
from collections.abc import Collection
from typing import NamedTuple, Protocol

from mpifarm.core.launcher.launching import Running
from mpifarm.core.model import AttemptKey
from mpifarm.launch.seat import Seat
from mpifarm.launch.spawning import Spawner

Handle = int
"""The pid of the process that the attempt runs in; no other attempt runs in it at the same time."""


class Output(Protocol):
    """Where goes what an attempt gives otherwise than by its pipes."""

    @property
    def low(self) -> bool:
        """There is no room: give nothing that can wait."""

    def write(self, attempt: AttemptKey, stream: int, text: bytes, now: float) -> None:
        """Append to a stream of the attempt."""


class Site(NamedTuple):
    """Where attempts run: what a way is made from."""

    spawner: Spawner
    epoll: select.epoll
    """A way may register descriptors of its own: see `Way.ready`."""
    output: Output


class Usage(Protocol):
    """What wait4 tells, or an interpreter of a call."""

    @property
    def ru_utime(self) -> float: ...
    @property
    def ru_stime(self) -> float: ...
    @property
    def ru_maxrss(self) -> int: ...
    @property
    def ru_inblock(self) -> int: ...
    @property
    def ru_oublock(self) -> int: ...


class Dead(NamedTuple):
    """How a process ended."""

    status: int
    """As of wait."""
    usage: Usage


class End(NamedTuple):
    """How a handle ended."""

    at: float
    """Unix seconds."""
    status: int
    """As of wait, or of `core.launcher.verdict` where that says nothing."""
    usage: Usage
    left: int = 0
    """Processes it left behind, killed. Whoever it was that wrote to the seat's pipes is gone."""
    flags: int = 0
    """As in its row."""
    stays: bool = False
    """Its process does, with the seat's pipes."""


class Way(Protocol):
    """One kind of task, on one node."""

    @property
    def idle(self) -> Collection[int]:
        """Pids of processes that run no attempt now, and are to stay."""

    def start(self, attempt: Running, seat: Seat) -> Handle:
        """Raises NotLaunchedError, or BlockingIOError when the node has no process or memory to spare at the moment."""

    def signal(self, handle: Handle, number: int) -> None:
        """To all that runs under the handle. Nothing happens when it has ended."""

    def reap(self, dead: dict[int, Dead]) -> list[tuple[Handle, End]]:
        """What has ended since, each handle once. `dead`: processes by pid; its own are taken out."""

    def ready(self, descriptor: int, now: float) -> bool:
        """Whether the descriptor is its own; then what is ready there has been dealt with."""

    def resume(self) -> None:
        """There may be room again for what waits for it."""

    def leave(self, seat: Seat) -> None:
        """Something else is to run in the seat, or its pipes are not as they were made: nothing that stays may."""
