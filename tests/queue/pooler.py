"""A connection pooler in transaction mode, as pgbouncer is one: every connection of a client has two sessions of the
server, and each of its transactions is in another one than that before."""

from __future__ import annotations

import selectors
import socket
import struct

from tests.queue.proxy import Proxy

_KEY = b"K" + struct.pack(">iii", 12, 1, 0)
"""What a client needs to cancel something: a pooler makes it up."""


class Pooler(Proxy):
    """Forwards to the server in turns. Of faults it knows `refuse` and `cut`."""

    def _forward(self, client: socket.socket, epoch: int) -> None:
        with client, self._connected() as one, self._connected() as two, selectors.DefaultSelector() as selector:
            hello = _refused_encryption(client)
            answers = [_logged_in(server, hello) for server in (one, two)]
            client.sendall(answers[0])
            servers, left = [one, two], {one: b"", two: b""}
            for side in (client, one, two):
                selector.register(side, selectors.EVENT_READ)
            while not self._leaving.is_set() and epoch == self._epoch:
                for key, _ in selector.select(0.05):
                    source = key.fileobj
                    assert isinstance(source, socket.socket)
                    data = source.recv(1 << 16)
                    if not data:
                        return
                    if source is client:
                        servers[0].sendall(data)
                        continue
                    idle, left[source] = _idle(left[source] + data)
                    if idle:
                        servers.reverse()
                    client.sendall(data)

    def _connected(self) -> socket.socket:
        made = socket.socket(socket.AF_UNIX)
        made.connect(self._server)
        return made


def _refused_encryption(client: socket.socket) -> bytes:
    """The client's greeting."""
    while True:
        (size,) = struct.unpack(">i", _exactly(client, 4))
        rest = _exactly(client, size - 4)
        if rest[:4] not in (struct.pack(">i", 80877103), struct.pack(">i", 80877104)):
            return struct.pack(">i", size) + rest
        client.sendall(b"N")


def _logged_in(server: socket.socket, hello: bytes) -> bytes:
    """What the server answers, with a key of ours."""
    server.sendall(hello)
    said = b""
    while True:
        head = _exactly(server, 5)
        message = head + _exactly(server, struct.unpack(">i", head[1:])[0] - 4)
        said += _KEY if head[:1] == b"K" else message
        if head[:1] == b"Z":
            return said


def _exactly(source: socket.socket, size: int) -> bytes:
    data = b""
    while len(data) < size:
        more = source.recv(size - len(data))
        if not more:
            raise ConnectionError
        data += more
    return data


def _idle(data: bytes) -> tuple[bool, bytes]:
    """Whether these messages end a transaction, and the beginning of one that is not all there."""
    at, idle = 0, False
    while len(data) >= at + 5:
        end = at + 1 + struct.unpack_from(">i", data, at + 1)[0]
        if end > len(data):
            break
        if data[at : at + 1] == b"Z":
            idle = data[at + 5 : at + 6] == b"I"
        at = end
    return idle, data[at:]
