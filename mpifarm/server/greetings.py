"""Who is at the gate, and who has only come to it: nobody keeps others out who does not show a password.

A greeting lasts from the connection to the server's "the password is right", and has one limit for all of it, however
many messages it is made of. Where there is no place left, of this address or at all, the oldest greeting makes way for
the new one: an honest one takes a fraction of a second. Who has come in makes way for nobody.
"""

from __future__ import annotations

import socket
import struct
import threading
from time import monotonic
from typing import NamedTuple


class Limits(NamedTuple):
    """Limits what a gate gives to those who have not shown a password yet."""

    connections: int = 90
    """A little less than Postgres takes: this user on this host must still get in."""
    greetings_of_address: int = 45
    """Half of them: a script may start that many commands at once."""
    greeting_s: float = 20.0
    """As Postgres' `authentication_timeout` in `server.embedded`."""


class Greeting:
    """One that has come and is not in yet."""

    def __init__(self, client: socket.socket, address: str, greeting_s: float) -> None:
        self.wire = client
        """What its bytes come through now: the connection, then TLS over it."""
        self.address = address
        self._ends_at = monotonic() + greeting_s

    def left_s(self) -> float:
        """Raises TimeoutError, when it has taken too long."""
        left_s = self._ends_at - monotonic()
        if left_s <= 0:
            raise TimeoutError("the greeting takes too long")
        return left_s

    def exactly(self, size: int) -> bytes:
        """The next bytes it says. Raises OSError."""
        data = b""
        while len(data) < size:
            self.wire.settimeout(self.left_s())
            piece = self.wire.recv(size - len(data))
            if not piece:
                raise ConnectionResetError("it hung up")
            data += piece
        return data

    def hang_up(self) -> None:
        """Ends it from another thread; its own sees the end of the connection."""
        try:
            socket.socket.shutdown(self.wire, socket.SHUT_RDWR)  # that of TLS would wait for its thread
        except OSError:
            pass


class Places:
    """Those that may be there at once. Used by all threads of a gate."""

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self._lock = threading.Lock()
        self._greetings: dict[Greeting, None] = {}
        """The oldest first."""
        self._admitted: set[Greeting] = set()

    def take(self, client: socket.socket, address: str) -> Greeting | None:
        """A place for one that has come; None: all are taken by such as are in."""
        with self._lock:
            same = [other for other in self._greetings if other.address == address]
            if len(same) >= self._limits.greetings_of_address:
                self._displace(same[0])
            elif len(self._greetings) + len(self._admitted) >= self._limits.connections:
                if not self._greetings:
                    return None
                self._displace(next(iter(self._greetings)))
            greeting = Greeting(client, address, self._limits.greeting_s)
            self._greetings[greeting] = None
            return greeting

    def _displace(self, greeting: Greeting) -> None:
        del self._greetings[greeting]
        greeting.hang_up()

    def admit(self, greeting: Greeting) -> None:
        """It has shown its password. Raises ConnectionResetError when it had to make way just now."""
        with self._lock:
            if greeting not in self._greetings:
                raise ConnectionResetError("displaced")
            del self._greetings[greeting]
            self._admitted.add(greeting)

    def free(self, greeting: Greeting) -> None:
        """It has gone."""
        with self._lock:
            self._greetings.pop(greeting, None)
            self._admitted.discard(greeting)


class Verdict:
    """What the server says until it says that the password is right."""

    _HEADER = struct.Struct(">ci")
    _RIGHT = struct.pack(">cii", b"R", 8, 0)  # AuthenticationOk

    def __init__(self) -> None:
        self._said = bytearray()

    def is_in(self, piece: bytes) -> bool:
        """Whether it is said with these bytes, the next of its."""
        self._said += piece
        while not self._said.startswith(self._RIGHT) and len(self._said) >= self._HEADER.size:
            _, size = self._HEADER.unpack_from(self._said)
            if len(self._said) < size + 1:
                return False
            del self._said[: size + 1]
        return self._said.startswith(self._RIGHT)
