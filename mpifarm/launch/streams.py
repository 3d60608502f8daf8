"""The output of tasks that run for a while, read as it comes. Imports nothing heavy.

The pipes of short tasks are hardly watched; their output is read once, when they have ended. A watched pipe that gave
little rests a moment before it is watched again. So a short task costs no wake of its own, a talkative one twenty a
second, a silent one none, and a flood is read as fast as the rank takes it.
"""

from __future__ import annotations

import select
from collections.abc import Iterable
from math import inf

from mpifarm.launch.after_exit import Closing
from mpifarm.launch.seat import Seat, Stream

WATCH_AFTER_S = 0.02
LITTLE_BYTES = 64 << 10
REST_S = 0.05


class Reader:
    """Watches streams in the loop's epoll; what they give goes to the outbox as pieces."""

    def __init__(self, epoll: select.epoll, closing: Closing) -> None:
        self._epoll = epoll
        self._closing = closing
        self._watched: dict[int, tuple[Seat, Stream]] = {}
        self.held = False
        """While true nothing is read."""
        self.due_at = inf
        """When `watch` is due."""

    def expect(self, now: float) -> None:
        """A task has started."""
        if self.due_at == inf and not self.held:
            self.due_at = now + WATCH_AFTER_S

    def watch(self, seats: Iterable[Seat]) -> None:
        """Watch the pipes of all tasks that run now."""
        self.due_at = inf
        for seat in seats:
            if seat.running is not None:
                for stream in (seat.out, seat.err):
                    if not stream.watched:
                        stream.watched = True
                        self._watched[stream.read_fd] = seat, stream
                        self._epoll.register(stream.read_fd, select.EPOLLIN)

    def forget(self, seat: Seat) -> None:
        """The task has ended; its last output is not ours to read."""
        if seat.out.watched:
            self._unwatch(seat.out)
        if seat.err.watched:
            self._unwatch(seat.err)

    def _unwatch(self, stream: Stream) -> None:
        stream.watched = False
        del self._watched[stream.read_fd]
        self._epoll.unregister(stream.read_fd)

    def read(self, fd: int, now: float) -> None:
        """This descriptor has something, if it is still watched."""
        if fd not in self._watched:
            return
        seat, stream = self._watched[fd]
        assert seat.running is not None
        if self._closing.low:
            self.hold()
            return
        size = self._closing.read(seat.running.key, stream, now)
        if size < LITTLE_BYTES:
            self._unwatch(stream)
            self.due_at = min(self.due_at, now + REST_S)

    def hold(self) -> None:
        """Read nothing more until `release`: the rank has not taken what there is."""
        self.held = True
        self.due_at = inf
        for _, stream in list(self._watched.values()):
            self._unwatch(stream)

    def release(self, now: float) -> None:
        self.held = False
        self.due_at = now
