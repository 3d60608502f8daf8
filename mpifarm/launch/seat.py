"""A slot of a node, its pipes, and what the attempt in it says there.

The launcher holds the write ends of a slot's pipes: there is no end of file to wait for, and what is in them when the
main process has been waited for is all the task has written. Nothing that a task did to its slot reaches the next one:
after a task that left processes behind, so that no late byte can, and after one that ran for a while the pipes are new;
those of a short one are kept if all that can be changed about them is as it was. New pipes cost five times as much as
to look at the old ones, and a fortieth of /bin/true. Imports nothing heavy.
"""

from __future__ import annotations

import fcntl
import os
import select
import sys
import termios
import time
from collections.abc import Callable

from mpifarm.core.launcher.launching import Running
from mpifarm.core.model import Limits
from mpifarm.core.row import STDERR, STDOUT

try:
    from isal.isal_zlib import crc32
except ImportError:  # no wheel for this processor: ten times slower, still no bottleneck
    from zlib import crc32

PIPE_BYTES_MAX = 1 << 20
ALL_PIPES_BYTES_MAX = 16 << 20
"""Of all slots of a node together: a quarter of what an ordinary user may have before pipes shrink to a page."""
RENEW_AFTER_S = 0.02
"""What ran for longer leaves its slot new pipes."""
LAST_BYTES_WAIT_S = 0.05
LAST_READS_MAX = 2
"""Reads of at most a pipe full each, of a pipe whose writers are dead."""
STDERR_TAIL_BYTES = Limits().stderr_tail_bytes

Read = Callable[["Stream"], int]
"""Reads what is in a stream's pipe now; returns the bytes."""
FileActions = tuple[tuple[int, int, int] | tuple[int, int, str, int, int], ...]
"""As os.posix_spawn takes them. All descriptors of ours not named there are close-on-exec."""


class Said:
    """How much an attempt has written on a stream, with its checksum; of stderr the last bytes too."""

    __slots__ = ("crc32", "length", "tail", "tail_bytes")

    def __init__(self, tail_bytes: int = 0) -> None:
        self.length = self.crc32 = 0
        self.tail = b""
        self.tail_bytes = tail_bytes

    def add(self, piece: bytes | memoryview) -> None:
        self.length += len(piece)
        self.crc32 = crc32(piece, self.crc32)
        if self.tail_bytes:
            self.tail = (self.tail + bytes(piece[-self.tail_bytes :]))[-self.tail_bytes :]


NOTHING = Said()


def fresh(stream: int) -> Said:
    """For a new attempt."""
    return Said(STDERR_TAIL_BYTES if stream == STDERR else 0)


class Stream:
    """The pipe of one output stream of a slot, and what the present attempt has said on it."""

    __slots__ = ("_born", "_rest", "capacity", "number", "read_fd", "said", "watched", "write_fd")

    def __init__(self, number: int, capacity: int) -> None:
        self.number = number
        self.watched = False
        self.said = fresh(number)
        self._open(capacity)

    def _open(self, capacity: int) -> None:
        self.read_fd, self.write_fd = os.pipe()
        os.set_blocking(self.read_fd, False)
        try:
            fcntl.fcntl(self.write_fd, fcntl.F_SETPIPE_SZ, capacity)
        except OSError:
            pass  # the user's share of pipe memory is used up; it is smaller then
        self.capacity = capacity
        """What the pipe holds at most, unless the task makes it larger."""
        self._rest = -1
        """Bytes of an ended attempt that are still in the pipe; -1: not known."""
        self._born = self._state()

    def _state(self) -> tuple[int, ...]:
        """All that a task can change about its pipe, for good."""
        get, fd = fcntl.fcntl, self.write_fd
        pipe = os.fstat(fd)
        return (
            get(fd, fcntl.F_GETFL), get(fd, fcntl.F_GETPIPE_SZ), get(fd, fcntl.F_GETOWN), get(fd, fcntl.F_GETSIG),
            pipe.st_mode, pipe.st_uid, pipe.st_gid,
        )  # fmt: skip

    def unlock(self) -> bool:
        """Whether the pipe is as it was made; a lock on it is taken off."""
        fcntl.flock(self.write_fd, fcntl.LOCK_UN)
        return self._state() == self._born

    def read_rest(self, read: Read) -> bool:
        """Read what an attempt that has ended left in the pipe, or a part of it if that is much; whether it was all.

        How much it is, the kernel says: a short read is no end where each write is a packet (O_DIRECT).
        """
        if self._rest < 0:
            self._rest = _waiting(self.read_fd)
        enough = self._rest - PIPE_BYTES_MAX
        while self._rest > max(enough, 0):
            self._rest -= read(self) or self._rest
        return self._rest <= 0

    def take_said(self) -> Said:
        """The attempt has ended: what it said; the next one has said nothing."""
        self._rest = -1
        said = self.said
        if not said.length:
            return NOTHING
        self.said = fresh(self.number)
        return said

    def read_last(self, read: Read) -> None:
        """Close the pipe; read what its last writers, already killed, still wrote."""
        os.close(self.write_fd)
        poll = select.poll()
        poll.register(self.read_fd, select.POLLIN)
        deadline = time.monotonic() + LAST_BYTES_WAIT_S
        for _ in range(LAST_READS_MAX):
            left_s = deadline - time.monotonic()
            if left_s <= 0 or not poll.poll(left_s * 1000) or not read(self):
                break
        os.close(self.read_fd)


class Seat:
    """A slot of the node with its pipes, and the process in it."""

    def __init__(self, slot: int, capacity: int) -> None:
        self.slot = slot
        self.running: Running | None = None
        self.handle = 0
        """See `mpifarm.launch.kinds.way`; 0: nothing runs in it."""
        self.started = 0.0
        self.brief = False
        """What was in it last had ended in a moment."""
        self._capacity = capacity
        self._open()

    def _open(self) -> None:
        self.out = Stream(STDOUT, self._capacity)
        self.err = Stream(STDERR, self._capacity)
        self.file_actions: FileActions = (
            (os.POSIX_SPAWN_OPEN, 0, "/dev/null", os.O_RDONLY, 0),
            (os.POSIX_SPAWN_DUP2, self.out.write_fd, 1),
            (os.POSIX_SPAWN_DUP2, self.err.write_fd, 2),
        )
        self._poll = select.poll()
        self._poll.register(self.out.read_fd, select.POLLIN)
        self._poll.register(self.err.read_fd, select.POLLIN)

    def read(self, read: Read) -> bool:
        """The attempt has ended: read what is in the pipes, or a part of it if that is much; whether it was all."""
        if not self._poll.poll(0):  # a third of the cost of two reads that fail
            return True
        return self.out.read_rest(read) and self.err.read_rest(read)

    def read_last(self, read: Read) -> None:
        """Read what comes until all writers are gone, and close the pipes. They must not be watched any more."""
        self.out.read_last(read)
        self.err.read_last(read)

    def take_said(self) -> tuple[Said, Said]:
        """What the attempt that has ended said on stdout and stderr."""
        return self.out.take_said(), self.err.take_said()

    def renew(self) -> None:
        """After `read_last`: give the slot new pipes."""
        self._open()

    def refresh(self, ended: float) -> None:
        """The attempt has ended and left nobody: whatever it did to its pipes, the next one shall not see it."""
        self.brief = ended - self.started < RENEW_AFTER_S
        if not self.brief or not self.as_made():
            self.replace()

    def as_made(self) -> bool:
        """Whether nothing was changed about the pipes; a lock on them is taken off."""
        return self.out.unlock() and self.err.unlock()

    def replace(self) -> None:
        """Give the slot new pipes; nobody reads what is still in the old ones."""
        for fd in (self.out.read_fd, self.out.write_fd, self.err.read_fd, self.err.write_fd):
            os.close(fd)
        self._open()


def _waiting(fd: int) -> int:
    """The bytes in a pipe."""
    return int.from_bytes(fcntl.ioctl(fd, termios.FIONREAD, bytes(4)), sys.byteorder)


def make_seats(slots: int) -> list[Seat]:
    """All seats of a node."""
    share = min(ALL_PIPES_BYTES_MAX // (2 * slots), PIPE_BYTES_MAX)
    capacity = max(1 << (share.bit_length() - 1), 64 << 10)
    return [Seat(slot, capacity) for slot in range(slots)]
