"""What becomes of a running attempt's output where its job does not keep all of it. Imports nothing heavy.

    none     counted, and gone
    tail     the last bytes of each stream are held until the end
    failed   held until it is known how the attempt ended: SPOOL_MEMORY_BYTES of a stream in memory, then in a nameless
             file in the node's temporary directory, up to SPOOL_BYTES_MAX

An attempt under `failed` that writes more than that, or finds no room there, sends on what was held and the rest as it
comes, like one of which all is kept, and is kept whole however it ends: those bytes are in the run file by then, and a
node's memory (its temporary directory may be memory, too) is not ours to fill.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Iterator
from typing import NamedTuple, Protocol

from mpifarm.core.job.keep import FAILED, NONE, TAIL, Keep
from mpifarm.core.row import STDERR, STDOUT

SPOOL_MEMORY_BYTES = 64 << 10
SPOOL_BYTES_MAX = 4 << 20
"""Of a stream. All of it may be sent on at once, so it is memory of the launcher, too, for one attempt at a time."""
_READ_BYTES = 256 << 10

Send = Callable[[int, bytes], None]
"""Pass a piece of a stream on to the rank."""
Last = tuple[bytes, bytes]
"""The last of stdout and stderr."""


class Cut(NamedTuple):
    """Bytes that an attempt wrote and its job does not keep."""

    stdout: int = 0
    stderr: int = 0


class Holding(Protocol):
    """Of one attempt."""

    def add(self, stream: int, piece: bytes, send: Send) -> None:
        """It has written this and goes on."""

    def end(self, last: Last, succeeded: bool, send: Send) -> tuple[Last, Cut]:
        """It has ended after writing `last`. Returns what is to be kept of what was not sent, and what is not."""


def hold(keep: Keep) -> Holding:
    """For a new attempt."""
    if keep.what == NONE:
        return _Nothing()
    if keep.what == TAIL:
        return _Tails(keep.tail_bytes)
    return _UntilFailed() if keep.what == FAILED else _All()


class _All:
    def add(self, stream: int, piece: bytes, send: Send) -> None:
        send(stream, piece)

    def end(self, last: Last, succeeded: bool, send: Send) -> tuple[Last, Cut]:
        del succeeded, send
        return last, Cut()


class _Nothing:
    def __init__(self) -> None:
        self._left = {STDOUT: 0, STDERR: 0}

    def add(self, stream: int, piece: bytes, send: Send) -> None:
        del send
        self._left[stream] += len(piece)

    def end(self, last: Last, succeeded: bool, send: Send) -> tuple[Last, Cut]:
        del succeeded, send
        return (b"", b""), Cut(self._left[STDOUT] + len(last[0]), self._left[STDERR] + len(last[1]))


class _Tails:
    def __init__(self, size: int) -> None:
        self._size = size
        self._held = {STDOUT: bytearray(), STDERR: bytearray()}
        self._left = {STDOUT: 0, STDERR: 0}

    def add(self, stream: int, piece: bytes, send: Send) -> None:
        del send
        self._held[stream] += piece
        if len(self._held[stream]) > 2 * self._size:
            self._cut(stream)

    def _cut(self, stream: int) -> bytes:
        held = self._held[stream]
        excess = max(0, len(held) - self._size)
        self._left[stream] += excess
        del held[:excess]
        return bytes(held)

    def end(self, last: Last, succeeded: bool, send: Send) -> tuple[Last, Cut]:
        del succeeded, send
        self._held[STDOUT] += last[0]
        self._held[STDERR] += last[1]
        tails = self._cut(STDOUT), self._cut(STDERR)
        return tails, Cut(self._left[STDOUT], self._left[STDERR])


class _UntilFailed:
    def __init__(self) -> None:
        self._spools: dict[int, Spool] | None = {STDOUT: Spool(), STDERR: Spool()}
        """None: given up, what comes is sent on."""

    def add(self, stream: int, piece: bytes, send: Send) -> None:
        if self._spools is None:
            send(stream, piece)
        elif not self._spools[stream].add(piece):
            self._release(self._spools, send)
            send(stream, piece)

    def _release(self, spools: dict[int, Spool], send: Send) -> None:
        for stream, spool in spools.items():
            for piece in spool.pieces():
                send(stream, piece)
            spool.close()
        self._spools = None

    def end(self, last: Last, succeeded: bool, send: Send) -> tuple[Last, Cut]:
        if self._spools is None:
            return last, Cut()
        if not succeeded:
            self._release(self._spools, send)
            return last, Cut()
        out, err = (spool.size for spool in self._spools.values())
        for spool in self._spools.values():
            spool.close()
        return (b"", b""), Cut(out + len(last[0]), err + len(last[1]))


class Spool:
    """Bytes put aside: a little in memory, more in a file without a name."""

    def __init__(self) -> None:
        self._memory = bytearray()
        self._file = -1
        self._in_file = 0

    @property
    def size(self) -> int:
        return self._in_file + len(self._memory)

    def add(self, piece: bytes) -> bool:
        """False: no room; nothing of the piece was taken, and what was taken before is there."""
        if self.size + len(piece) > SPOOL_BYTES_MAX:
            return False
        self._memory += piece
        if len(self._memory) <= SPOOL_MEMORY_BYTES or self._write():
            return True
        del self._memory[-len(piece) :]
        return False

    def _write(self) -> bool:
        """Move the memory to the file, all of it or nothing."""
        try:
            if self._file < 0:
                with tempfile.TemporaryFile(buffering=0) as file:
                    self._file = os.dup(file.fileno())
            done = 0
            while done < len(self._memory):
                done += os.pwrite(self._file, memoryview(self._memory)[done:], self._in_file + done)
        except OSError:
            return False
        self._in_file += len(self._memory)
        self._memory.clear()
        return True

    def pieces(self) -> Iterator[bytes]:
        """All that was added, in order."""
        at = 0
        while at < self._in_file:
            piece = os.pread(self._file, min(_READ_BYTES, self._in_file - at), at)
            at += len(piece)
            yield piece
        if self._memory:
            yield bytes(self._memory)

    def close(self) -> None:
        if self._file >= 0:
            os.close(self._file)
            self._file = -1
