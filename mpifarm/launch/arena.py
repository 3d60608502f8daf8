"""Memory that a launcher shares with the ranks of its node, so that output is copied once: from the task's pipe.

The launcher reads pipes straight into cells of the arena, each of the size of a chunk of the run file; what crosses
sockets and MPI are their numbers. It is made before the launcher is forked. The recorder of the same node attaches
to it by way of /proc; where that is not possible (or not the same node) the leader copies cells into messages. Pages
that were never used cost nothing. Imports nothing heavy.
"""

from __future__ import annotations

import ctypes
import mmap
import os

from mpifarm.core.model import Limits
from mpifarm.launch import begun

CELL_BYTES = Limits().chunk_bytes
CELLS_BYTES = Limits().arena_bytes
ARENA_BYTES = CELLS_BYTES + begun.SIZE
_MFD_CLOEXEC = 1


class Arena:
    """Cells by number, and the marks of what has begun."""

    def __init__(self, memory: mmap.mmap, path: str) -> None:
        self._memory = memoryview(memory)
        self.path = path
        """Where another process of this user can open it; empty: nowhere."""
        self.begun = begun.Begun(self._memory[CELLS_BYTES:])

    def cell(self, number: int) -> memoryview:
        start = number * CELL_BYTES
        return self._memory[start : start + CELL_BYTES]


def create() -> Arena:
    """A new arena; processes forked from now on share it."""
    try:
        fd = ctypes.CDLL(None, use_errno=True).memfd_create(b"mpifarm", _MFD_CLOEXEC)  # os.memfd_create: not everywhere
        if fd >= 0:
            os.ftruncate(fd, ARENA_BYTES)
            return Arena(mmap.mmap(fd, ARENA_BYTES), f"/proc/{os.getpid()}/fd/{fd}")
    except (AttributeError, OSError):
        pass  # an old C library, a limit on the size of files
    return Arena(mmap.mmap(-1, ARENA_BYTES), "")


def attach(path: str) -> Arena | None:
    """The arena at `path` of another process; None where this process cannot see it."""
    if not path:
        return None
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        try:
            if os.fstat(fd).st_size != ARENA_BYTES:
                return None
            return Arena(mmap.mmap(fd, ARENA_BYTES, prot=mmap.PROT_READ), path)
        finally:
            os.close(fd)
    except (OSError, ValueError):
        return None
