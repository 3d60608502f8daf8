"""The gate of `mpifarm db start` against those who come and say little: the honest get in beside them."""

from __future__ import annotations

import socket
import ssl
import struct
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager, suppress

import psycopg
import pytest

from mpifarm.server.greetings import Limits, Places, Verdict
from mpifarm.server.tls_proxy import Gate
from tests.fix_farm import wait_for
from tests.queue.test_opened import Home, start_message

GSS, TLS = (struct.pack(">ii", 8, code) for code in (80877104, 80877103))
BRIEF_S = 1.0


@pytest.fixture(scope="module")
def home() -> Iterator[Home]:
    made = Home()
    made.start()
    yield made
    made.close()


@contextmanager
def gate(home: Home, **limits: float) -> Iterator[str]:
    """Another gate before the same server; how to connect through it."""
    listener = socket.create_server(("127.0.0.1", 0), backlog=128)
    server = home.folder / "sockets" / ".s.PGSQL.5432"
    made = Gate(listener, home.gate / "server.crt", home.gate / "server.key", server, Limits()._replace(**limits))
    thread = threading.Thread(target=made.serve)
    thread.start()
    try:
        port = listener.getsockname()[1]
        yield psycopg.conninfo.make_conninfo(home.opened().dsn, hostaddr="127.0.0.1", port=port, connect_timeout=30)
    finally:
        made.close()
        thread.join()


def port_of(dsn: str) -> int:
    return int(psycopg.conninfo.conninfo_to_dict(dsn)["port"])


def answers(dsn: str) -> bool:
    with psycopg.connect(dsn) as connection:
        return connection.execute("SELECT 42").fetchone() == (42,)


def slow(dsn: str, said: bytes, source: str = "127.0.0.1") -> socket.socket:
    """One that has said this."""
    wire = socket.create_connection(("127.0.0.1", port_of(dsn)), timeout=30, source_address=(source, 0))
    wire.sendall(said)
    return wire


def is_gone(wire: socket.socket) -> bool:
    """Whether the other side has hung up."""
    wire.settimeout(0.02)
    with suppress(TimeoutError):
        try:
            while wire.recv(4096):
                pass
        except ConnectionError:
            pass
        return True
    return False


@pytest.mark.postgres
@pytest.mark.parametrize("addresses", [1, 90])
def test_who_comes_gets_in_while_90_slow_ones_hang(home: Home, addresses: int) -> None:
    """From one address or from many; and those who are in stay in."""
    with gate(home) as dsn, psycopg.connect(dsn) as before, ExitStack() as stack:
        for number in range(90):
            wire = slow(dsn, GSS, f"127.0.1.{number % addresses + 1}")
            stack.enter_context(closing(wire))
            assert wire.recv(1) == b"N"
        assert answers(dsn)
        assert before.execute("SELECT 42").fetchone() == (42,)


@pytest.mark.postgres
@pytest.mark.parametrize("where", ["nothing said", "again and again", "TLS and no more", "no password"])
def test_a_greeting_has_one_limit(home: Home, where: str) -> None:
    """However many messages it is made of, and wherever it stops; who is in has none."""
    with gate(home, greeting_s=BRIEF_S) as dsn, ExitStack() as stack:
        begun = time.monotonic()
        wire = stack.enter_context(closing(slow(dsn, {"nothing said": b"", "again and again": GSS}.get(where, TLS))))
        if where == "no password":
            assert wire.recv(1) == b"S"
            context = ssl.create_default_context(cafile=home.gate / "ca.crt")
            wire = stack.enter_context(context.wrap_socket(wire, server_hostname="localhost"))
            start = start_message(b"user", b"farm", b"database", b"postgres")
            wire.sendall(struct.pack(">ii", len(start) + 8, 3 << 16) + start)
            assert wire.recv(1) == b"R"

        def ended() -> bool:
            if where == "again and again":
                with suppress(OSError):
                    wire.sendall(GSS)
            return is_gone(wire)

        wait_for(ended, "the end of the greeting")
        assert time.monotonic() - begun >= BRIEF_S - 0.1


@pytest.mark.postgres
def test_who_is_in_has_no_limit(home: Home) -> None:
    with gate(home, greeting_s=BRIEF_S) as dsn, psycopg.connect(dsn, autocommit=True) as connection:
        connection.execute("SELECT pg_sleep(%s)", [2 * BRIEF_S])
        assert connection.execute("SELECT 42").fetchone() == (42,)


@pytest.mark.postgres
def test_full_of_those_who_are_in(home: Home) -> None:
    """None of them makes way; there is a place again when one has gone."""
    with gate(home, connections=2) as dsn, psycopg.connect(dsn), psycopg.connect(dsn) as second:
        with pytest.raises(psycopg.OperationalError):
            psycopg.connect(dsn)
        second.close()

        def again() -> bool:
            with suppress(psycopg.OperationalError):
                return answers(dsn)
            return False

        wait_for(again, "a place")


def test_the_oldest_greeting_of_the_address_makes_way() -> None:
    places = Places(Limits(connections=4, greetings_of_address=2))
    with ExitStack() as stack:

        def come(address: str) -> tuple[object, socket.socket]:
            ours, theirs = (stack.enter_context(end) for end in socket.socketpair())
            return places.take(ours, address), theirs

        came = [come(address) for address in "abaab"]
        assert [is_gone(theirs) for _, theirs in came] == [True, False, False, False, False]
        came.append(come("c"))  # full: the oldest of all
        assert [is_gone(theirs) for _, theirs in came] == [True, True, False, False, False, False]


@pytest.mark.parametrize("cut", range(1, 40))
def test_when_the_password_was_right(cut: int) -> None:
    """Wherever the network cuts what the server says; a challenge that holds the words is not them."""
    right = struct.pack(">cii", b"R", 8, 0)
    challenge = struct.pack(">cii", b"R", 8 + len(right), 11) + right
    verdict = Verdict()
    said = challenge + right
    seen = [verdict.is_in(piece) for piece in (said[:cut], said[cut:])]
    assert seen == [cut >= len(said), True]
