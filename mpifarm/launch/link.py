"""The socket between a rank and its launcher: whole messages, never a wait. Used by both ends.

A frame is 4 bytes of length (little endian) and an encoded message. What the socket does not take at once is kept, and
`pending` says how much that is: who produces more than the other end reads must look at it and stop. Imports nothing
heavy.
"""

from __future__ import annotations

import socket
from collections import deque
from typing import cast

from mpifarm.core.protocol.messages import LinkMessage
from mpifarm.core.protocol.wire import decode, encode

_READ_BYTES = 64 << 10  # a larger buffer would be mapped and unmapped with every call
_HEADER_BYTES = 4


class Link:
    """One end. `open` turns false when the other end is gone; what it had sent before is still received."""

    def __init__(self, sock: socket.socket) -> None:
        sock.setblocking(False)
        self._socket = sock
        self._out: deque[memoryview] = deque()
        self._in = bytearray()
        self.pending = 0
        """Bytes accepted by `send` that the socket has not taken yet."""
        self.open = True

    def fileno(self) -> int:
        return self._socket.fileno()

    def send(self, message: LinkMessage) -> None:
        """Send now what the socket takes, keep the rest for `flush`. Without effect when the other end is gone."""
        body = encode(message)
        frame = len(body).to_bytes(_HEADER_BYTES, "little") + body
        self._out.append(memoryview(frame))
        self.pending += len(frame)
        self.flush()

    def flush(self) -> None:
        """Send what is pending, as far as the socket takes it."""
        try:
            while self._out:
                sent = self._socket.send(self._out[0])
                self.pending -= sent
                if sent < len(self._out[0]):
                    self._out[0] = self._out[0][sent:]
                    return
                self._out.popleft()
        except BlockingIOError:
            pass
        except OSError:
            self._out.clear()  # `open` is for `receive` to say, after the last message
            self.pending = 0

    def receive(self) -> list[LinkMessage]:
        """The messages that have arrived whole."""
        while self.open:
            try:
                piece = self._socket.recv(_READ_BYTES)
            except BlockingIOError:
                break
            except OSError:
                piece = b""
            if not piece:
                self.open = False
            self._in += piece
            if len(piece) < _READ_BYTES:
                break
        return self._unpack()

    def _unpack(self) -> list[LinkMessage]:
        messages: list[LinkMessage] = []
        start = 0
        with memoryview(self._in) as view:
            while len(view) - start >= _HEADER_BYTES:
                body = start + _HEADER_BYTES
                end = body + int.from_bytes(view[start:body], "little")
                if end > len(view):
                    break
                messages.append(cast("LinkMessage", decode(view[body:end])))
                start = end
        del self._in[:start]
        return messages

    def hang_up(self) -> None:
        """Say nothing more. The other end sees it at once; its last messages can still be received."""
        try:
            self._socket.shutdown(socket.SHUT_WR)
        except OSError:
            pass

    def close(self) -> None:
        self._socket.close()
        self.open = False
