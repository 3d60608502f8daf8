"""The process that `mpifarm db start` leaves behind: opens the embedded server to other hosts and keeps it up.

    DIRECTORY OF THE SERVER/gate/      for this user alone
        lock              held while it is open: there is one gate at a time
        connection.toml   how to connect, and who holds the lock; mode 0600; gone when it is closed
        password          a libpq passfile; made once
        ca.crt, ca.key    made once; server.crt, server.key at every start
        port, log

It is one user of the embedded server more (`server.embedded`), so on its own host nothing changes: there everybody goes
on through the private socket. Hosts that share the directory find connection.toml by themselves (`server.dsn`).
"""

from __future__ import annotations

import errno
import fcntl
import json
import os
import secrets
import signal
import socket
import threading
import time
import traceback
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

from mpifarm.errors import FarmError, SiteError
from mpifarm.server.certificates import make_certificate
from mpifarm.server.dsn import opened_file, quoted, read_settings
from mpifarm.server.embedded import EmbeddedServer, make_folder
from mpifarm.server.liveness import boot_id, process_started
from mpifarm.server.tls_proxy import ROLE, Gate

_LOOK_S = 2.0
"""Between two looks whether the server is still there."""
_ANY = ("0.0.0.0", "::", "*")


@dataclass(frozen=True)
class Opened:
    """What connection.toml says."""

    dsn: str
    host: str
    address: str
    """Where it listens: ADDR:PORT."""
    pid: int
    pid_started: int
    boot: str
    since: float

    @property
    def here(self) -> bool:
        return self.host == socket.gethostname()

    def is_running(self) -> bool:
        """For one of this host: whether its process is there."""
        return self.here and self.boot == boot_id() and process_started(self.pid) == self.pid_started


def find_opened(environ: Mapping[str, str]) -> Opened | None:
    """The gate of this user's server, running or left behind by a crash. Raises UsageError."""
    file = opened_file(environ)
    said = read_settings(file)
    if not said:
        return None
    try:
        return Opened(**{name: said[name] for name in Opened.__dataclass_fields__})
    except KeyError:
        raise SiteError(f"{file} is damaged: remove it, then type: mpifarm db start") from None


Admit = Callable[[str, str, str], None]
"""Makes a queue at a server (its connection string) and lets a role in with a password: `administration.admit`."""


class Opening:
    """The process that is left behind. Runs after a fork and never returns."""

    def __init__(self, folder: Path, answers: int, admit: Admit) -> None:
        self._folder, self._admit = folder, admit
        self._gate_folder = folder / "gate"
        self._answers = answers
        self._leaving = threading.Event()

    def run(self, address: str, port: int) -> NoReturn:
        code = 1
        try:
            os.setsid()
            os.umask(0o077)
            os.chdir("/")
            self._close_others()
            for number in (signal.SIGTERM, signal.SIGINT):
                signal.signal(number, lambda *_: self._leaving.set())
            signal.signal(signal.SIGHUP, signal.SIG_IGN)
            self._serve(address, port)
            code = 0
        except FarmError as error:
            self._fail(str(error))
        except OSError as error:
            name = f"{os.fsdecode(error.filename)}: " if isinstance(error.filename, (str, bytes)) else ""
            self._fail(f"{name}{error.strerror or error}")
        except BaseException as error:
            traceback.print_exc()
            self._fail(f"{type(error).__name__}: {error}")
        finally:
            os._exit(code)

    def _fail(self, text: str) -> None:
        if self._answers < 0:
            print(text, flush=True)  # nobody waits any more: into the log
        self._answer({"error": text})

    def _serve(self, address: str, port: int) -> None:
        server = EmbeddedServer(self._folder)
        server.prepare()
        make_folder(self._gate_folder, 0o700)
        self._gate_folder.chmod(0o700)
        with (self._gate_folder / "lock").open("ab") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                self._answer({"taken": True})
                return
            listener = _listen(address, port, _number_in(self._gate_folder / "port"))
            self._detach()
            server.enter()
            try:
                self._open(server, listener, address)
            finally:
                server.leave()

    def _open(self, server: EmbeddedServer, listener: socket.socket, address: str) -> None:
        password = self._password()
        self._admit(server.conninfo, ROLE, password)
        host = _name_for_others(address)
        names = [host, address, socket.gethostname(), "localhost", "127.0.0.1", "::1", *_addresses(address)]
        known = [name for name in dict.fromkeys(names) if name not in _ANY]
        authority, certificate, key = make_certificate(self._gate_folder, known)
        gate = Gate(listener, certificate, key, server.socket)
        self._write_connection(host, address, listener.getsockname()[1], authority)
        threading.Thread(target=gate.serve, daemon=True).start()
        self._answer({"open": True})
        try:
            self._keep_up(server)
        finally:
            (self._gate_folder / "connection.toml").unlink(missing_ok=True)
            gate.close()

    def _keep_up(self, server: EmbeddedServer) -> None:
        """Until it is told to stop."""
        told = ""
        while not self._leaving.wait(_LOOK_S):
            try:
                news = "the server had died and was started again" if server.revive() else ""
            except (FarmError, OSError) as error:
                news = str(error)
            if news not in ("", told):
                print(news, flush=True)
            told = news

    def _password(self) -> str:
        file = self._gate_folder / "password"
        try:
            return file.read_text().strip().rpartition(":")[2]
        except FileNotFoundError:
            password = secrets.token_urlsafe(32)
            _write(file, f"*:*:*:{ROLE}:{password}\n")
            return password

    def _write_connection(self, host: str, address: str, port: int, authority: Path) -> None:
        words = {
            "host": host,
            "port": str(port),
            "dbname": "postgres",
            "user": ROLE,
            "sslmode": "verify-full",
            "sslrootcert": str(authority),
            "passfile": str(self._gate_folder / "password"),
        }
        dsn = " ".join(f"{name}={quoted(value)}" for name, value in words.items())
        pid, started = os.getpid(), process_started(os.getpid())
        shown = f"[{address}]:{port}" if ":" in address else f"{address}:{port}"
        opened = Opened(dsn, socket.gethostname(), shown, pid, started or 0, boot_id(), time.time())
        lines = [f"{name} = {json.dumps(getattr(opened, name))}\n" for name in Opened.__dataclass_fields__]
        _write(self._gate_folder / "connection.toml", "# Written by mpifarm db start.\n" + "".join(lines))
        _write(self._gate_folder / "port", f"{port}\n")

    def _close_others(self) -> None:
        """Of the shell that started it: a lock or a pipe, say."""
        for name in os.listdir("/proc/self/fd"):
            if int(name) > 2 and int(name) != self._answers:
                try:
                    os.close(int(name))
                except OSError:  # that of the listing itself
                    pass

    def _detach(self) -> None:
        """Keep nothing of the shell that started it: a pipe held open would make `$(...)` wait for ever."""
        log = os.open(self._gate_folder / "log", os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        null = os.open(os.devnull, os.O_RDONLY)
        for source, target in ((null, 0), (log, 1), (log, 2)):
            os.dup2(source, target)

    def _answer(self, answer: dict[str, object]) -> None:
        if self._answers >= 0:
            os.write(self._answers, json.dumps(answer).encode() + b"\n")
            os.close(self._answers)
            self._answers = -1


def _listen(address: str, port: int, port_before: int) -> socket.socket:
    """`port` 0: that of the last time if it is free, so that a DSN somebody copied stays good."""
    wanted = [port] if port or not port_before else [port_before, 0]
    for number in wanted:
        try:
            name = None if address == "*" else address
            found = socket.getaddrinfo(name, number, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
            family, kind, _, _, place = found[0]
            listener = socket.socket(family, kind)
        except (socket.gaierror, UnicodeError):
            raise SiteError(f"{address}: no address of this host is known by that name") from None
        try:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listener.bind(place)
            listener.listen(64)
            return listener
        except OSError as error:
            listener.close()
            if number != wanted[-1]:
                continue
            why = {
                errno.EADDRINUSE: f"port {number} is in use: name another, or none for a free one",
                errno.EADDRNOTAVAIL: "this is no address of this host",
                errno.EACCES: f"port {number} is not for users: name one above 1023, or none",
            }.get(error.errno or 0, error.strerror)
            raise SiteError(f"cannot listen at {address}: {why}") from None
    raise AssertionError(wanted)


def _name_for_others(address: str) -> str:
    return socket.getfqdn() if address in _ANY else address


def _addresses(address: str) -> list[str]:
    """What a name, or for any address the host's, resolves to."""
    try:
        found = socket.getaddrinfo(_name_for_others(address), None, type=socket.SOCK_STREAM)
    except (socket.gaierror, UnicodeError):
        return []
    return [str(place[0]).partition("%")[0] for *_, place in found]


def _number_in(file: Path) -> int:
    try:
        return int(file.read_text())
    except (FileNotFoundError, ValueError):
        return 0


def _write(file: Path, text: str) -> None:
    """Whole or not at all, for this user alone."""
    new = file.with_name(f"{file.name}.new")
    new.unlink(missing_ok=True)
    with open(os.open(new, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as stream:
        stream.write(text)
    new.replace(file)
