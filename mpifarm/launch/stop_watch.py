"""A second stop signal ends a rank that does not hear: HDF5 or MPI may not come back and hold Python's lock, so that
neither a handler nor a thread of the rank comes to its turn. The C level of Python still writes each signal into a
pipe; what the loop does not take out of it the guardian sees, a process of its own.
"""

from __future__ import annotations

import fcntl
import mmap
import os
import select
import signal
import socket
import struct
import termios
import threading
import time

UNHEARD_S = 10.0
"""So long a rank may not take note of a signal; then the second one ends it."""
_LOOK_S = 0.25
_COUNT = struct.Struct("<Q")
_TAKEN_BYTES = 4096


class StopSignals:
    """Made before the fork. The rank takes signals out, the guardian watches whether it does."""

    def __init__(self) -> None:
        self._read, self.wakeup_fd = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        self._heard = mmap.mmap(-1, _COUNT.size)
        """How many, to see that there were more."""

    def fileno(self) -> int:
        """Readable when signals have come."""
        return self._read

    def take(self) -> None:
        """The rank has heard what came."""
        try:
            came = os.read(self._read, _TAKEN_BYTES)
        except BlockingIOError:
            return
        self._heard[:] = _COUNT.pack(_COUNT.unpack(self._heard[:])[0] + len(came))

    def guard(self, rank: int) -> None:
        """In the guardian: watch from now on."""
        said_fd = os.dup(2)
        threading.Thread(target=self._watch, args=(rank, said_fd), name="stops", daemon=True).start()

    def _watch(self, rank: int, said_fd: int) -> None:
        poll = select.poll()
        poll.register(self._read, select.POLLIN)
        while poll.poll()[0][1] & select.POLLIN:
            since, heard = time.monotonic(), self._heard[:]
            while (waiting := self._waiting()) and self._heard[:] == heard:
                if time.monotonic() - since > UNHEARD_S and _COUNT.unpack(heard)[0] + waiting > 1:
                    self._end(rank, said_fd)
                    return
                time.sleep(_LOOK_S)

    def _waiting(self) -> int:
        count: int = struct.unpack("i", fcntl.ioctl(self._read, termios.FIONREAD, bytes(4)))[0]
        return count

    def _end(self, rank: int, said_fd: int) -> None:
        if os.getppid() != rank:
            return  # it has ended
        text = (
            f"mpifarm: process {rank} on {socket.gethostname()} has not heard of a second stop signal for "
            f"{UNHEARD_S:.0f} s (HDF5 or MPI does not come back): it is killed; what was recorded is safe, the rest "
            "goes back to the queue\n"
        )
        try:
            os.write(said_fd, text.encode())
        finally:
            os.kill(rank, signal.SIGKILL)
