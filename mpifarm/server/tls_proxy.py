"""TLS in front of the embedded server: what other hosts connect to while `mpifarm db start` has opened it.

The Postgres of the wheel is built without TLS, and its socket lets in whoever may enter its directory. So the gate
takes connections of one role only, over TLS only, and that role alone must show its password to Postgres (SCRAM). Of
what a client says the gate reads the first message and writes it anew; all the rest it only carries. Who may be
at it, and for how long without a password, stands in `server.greetings`.

Standard library only: never imports psycopg. A thread per connection, asleep while nothing comes.
"""

from __future__ import annotations

import select
import socket
import ssl
import struct
import threading
from pathlib import Path

from mpifarm.server.greetings import Greeting, Limits, Places, Verdict

ROLE = "farm"
"""Who may come in from other hosts."""

_SSL_REQUEST, _GSS_REQUEST, _CANCEL_REQUEST = 80877103, 80877104, 80877102
_START_BYTES_MAX = 10_000  # as in Postgres
_HEADER = struct.Struct(">ii")
_FAREWELL_S = 20.0
"""To take what is still held when the other side has gone."""
_PIECE = 64 << 10
_HELD_MAX = 256 << 10
"""Bytes of one direction that the other side has not taken yet."""
_KEEPALIVE = {
    socket.TCP_KEEPIDLE: 30,
    socket.TCP_KEEPINTVL: 10,
    socket.TCP_KEEPCNT: 3,
    socket.TCP_USER_TIMEOUT: 60_000,
}
"""A host that acknowledges nothing for a minute is gone."""


class Refused(Exception):
    """What a client is told, in words and as an SQLSTATE."""

    def __init__(self, sqlstate: str, text: str) -> None:
        super().__init__(text)
        fields = {"S": "FATAL", "V": "FATAL", "C": sqlstate, "M": text}
        body = b"".join(f"{kind}{value}\0".encode() for kind, value in fields.items()) + b"\0"
        self.message = b"E" + struct.pack(">i", len(body) + 4) + body


class Gate:
    """Listens on `listener` until closed; forwards to the socket file `server`."""

    def __init__(
        self, listener: socket.socket, certificate: Path, key: Path, server: Path, limits: Limits | None = None
    ) -> None:
        self._listener = listener
        self._server = str(server)
        self._context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self._context.minimum_version = ssl.TLSVersion.TLSv1_2
        self._context.load_cert_chain(certificate, key)
        self._places = Places(limits or Limits())
        self._closed = threading.Event()

    def serve(self) -> None:
        """Until `close`."""
        while True:
            try:
                client, peer = self._listener.accept()
            except OSError:
                # The client had gone before it was taken, or there are too many open files just now.
                if self._closed.wait(0.05):
                    return
                continue
            greeting = self._places.take(client, str(peer[0]))
            if greeting is None:
                client.close()
                continue
            try:
                threading.Thread(target=self._attend, args=(greeting,), daemon=True).start()
            except RuntimeError:  # no more threads for this user
                client.close()
                self._places.free(greeting)

    def close(self) -> None:
        """No more connections; those that are there end with the process."""
        self._closed.set()
        try:
            self._listener.shutdown(socket.SHUT_RDWR)
        except OSError:
            pass
        self._listener.close()

    def _attend(self, greeting: Greeting) -> None:
        try:
            with greeting.wire as client:
                self._greet(client, greeting)
        except (OSError, ValueError):  # ssl.SSLError is an OSError: it hung up, or spoke something else
            pass
        finally:
            self._places.free(greeting)

    def _greet(self, client: socket.socket, greeting: Greeting) -> None:
        client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        client.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        for option, value in _KEEPALIVE.items():
            client.setsockopt(socket.IPPROTO_TCP, option, value)
        while True:
            size, code = _HEADER.unpack(greeting.exactly(_HEADER.size))
            if code == _GSS_REQUEST and size == _HEADER.size:
                client.sendall(b"N")
                continue
            if code == _SSL_REQUEST and size == _HEADER.size:
                break
            if code == _CANCEL_REQUEST:  # older libpq sends it in the clear; it holds a secret for one use
                self._cancel(greeting, size, code)
                return
            client.sendall(Refused("28000", "only TLS is spoken here: sslmode=verify-full").message)
            return
        client.sendall(b"S")
        with self._context.wrap_socket(client, server_side=True, do_handshake_on_connect=False) as tls:
            greeting.wire = tls
            tls.settimeout(greeting.left_s())
            tls.do_handshake()
            try:
                self._admit(tls, greeting)
            finally:
                tls.settimeout(1.0)
                tls.unwrap()  # without this farewell OpenSSL takes the end for an attack

    def _admit(self, tls: ssl.SSLSocket, greeting: Greeting) -> None:
        size, code = _HEADER.unpack(greeting.exactly(_HEADER.size))
        if code == _CANCEL_REQUEST:
            self._cancel(greeting, size, code)
            return
        try:
            start = checked_start(code, greeting.exactly(min(size, _START_BYTES_MAX) - _HEADER.size))
            server = self._connect(greeting)
        except Refused as refused:
            tls.sendall(refused.message)
            return
        with server:
            server.sendall(start)
            carry(tls, server, greeting, self._places)

    def _cancel(self, greeting: Greeting, size: int, code: int) -> None:
        """Pass the request on; Postgres answers it by hanging up."""
        rest = greeting.exactly(min(size, 1024) - _HEADER.size)
        with self._connect(greeting) as server:
            server.sendall(_HEADER.pack(len(rest) + _HEADER.size, code) + rest)
            server.recv(1)

    def _connect(self, greeting: Greeting) -> socket.socket:
        server = socket.socket(socket.AF_UNIX)
        try:
            server.settimeout(greeting.left_s())
            server.connect(self._server)
        except OSError:
            server.close()
            raise Refused("57P03", "the database behind is not up, it may be soon") from None
        return server


def checked_start(code: int, rest: bytes) -> bytes:
    """The first message of a session as it goes on to Postgres: made anew from its parts, so that the two cannot read
    it differently. Raises Refused, for any role but ROLE."""
    if code >> 16 != 3:
        raise Refused("08P01", "this is not the protocol of Postgres 3")
    words = rest.split(b"\0")
    if len(words) < 3 or words[-2:] != [b"", b""] or len(words) % 2 or b"" in words[:-2:2]:
        raise Refused("08P01", "the first message is damaged")
    pairs = list(zip(words[:-2:2], words[1:-2:2]))
    if [value for name, value in pairs if name == b"user"] != [ROLE.encode()]:
        raise Refused("28000", f"only user={ROLE} may come in here")
    if any(name == b"replication" for name, _ in pairs):
        raise Refused("28000", "no replication here")
    body = b"".join(name + b"\0" + value + b"\0" for name, value in pairs) + b"\0"
    return _HEADER.pack(len(body) + _HEADER.size, code) + body


def carry(tls: ssl.SSLSocket, server: socket.socket, greeting: Greeting, places: Places) -> None:
    """Carry bytes both ways until one side ends; then what is held goes to the other. Raises TimeoutError when the
    greeting lasts too long."""
    verdict: Verdict | None = Verdict()
    for side in (tls, server):
        side.setblocking(False)
    up, down = bytearray(), bytearray()
    poll = select.poll()
    while True:
        read = 0
        for source, held in ((tls, up), (server, down)):
            got = _receive(source, held) if len(held) < _HELD_MAX else 0
            if got is None:
                for side, rest in ((server, up), (tls, down)):
                    side.settimeout(_FAREWELL_S)
                    side.sendall(rest)
                return
            read += got
            if verdict is not None and source is server and got and verdict.is_in(bytes(down[-got:])):
                places.admit(greeting)
                verdict = None
        written = _send(server, up) + _send(tls, down)
        if not read and not written:
            _watch(poll, tls, len(up) < _HELD_MAX, bool(down))
            _watch(poll, server, len(down) < _HELD_MAX, bool(up))
            poll.poll(None if verdict is None else greeting.left_s() * 1000)


def _watch(poll: select.poll, side: socket.socket, reading: bool, writing: bool) -> None:
    """A side from which nothing is wanted is not watched: that it hung up would wake us again and again."""
    wanted = (select.POLLIN if reading else 0) | (select.POLLOUT if writing else 0)
    if wanted:
        poll.register(side, wanted)
    else:
        try:
            poll.unregister(side)
        except KeyError:
            pass


def _receive(source: socket.socket, held: bytearray) -> int | None:
    """Bytes taken, 0 when there are none now, None after the last."""
    try:
        data = source.recv(_PIECE)
    except (BlockingIOError, ssl.SSLWantReadError, ssl.SSLWantWriteError):
        return 0
    except (ConnectionError, ssl.SSLEOFError, ssl.SSLZeroReturnError):
        return None
    held += data
    return len(data) or None


def _send(target: socket.socket, held: bytearray) -> int:
    if not held:
        return 0
    try:
        sent = target.send(held[:_PIECE])
    except (BlockingIOError, ssl.SSLWantReadError, ssl.SSLWantWriteError):
        return 0
    del held[:sent]
    return sent
