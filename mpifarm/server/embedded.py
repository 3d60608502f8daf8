"""The embedded server: a real Postgres in a directory of this user, running while at least one process uses it.

Who uses it holds a shared flock on `users.lock`; the kernel drops it however the process ends. The last one out gets it
exclusively and stops the server. Starting is done by one process at a time, under `start.lock`:

    enter:  start.lock exclusive; users.lock shared (waits for a stop under way); start unless running; free start.lock
    leave:  users.lock exclusive, without waiting: somebody else holds it: nothing to do; got it: stop the server

The server listens on a socket in a directory that only its own user may enter, and nowhere else: that directory is the
authentication. It lives in a session of its own, so it survives the process that happened to start it. Never imports
psycopg.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import socket
import stat
import time
import zlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO

from mpifarm.errors import SiteError
from mpifarm.server.dsn import quoted, server_folder
from mpifarm.server.programs import Programs, find_programs, server_user

_SOCKET = ".s.PGSQL.5432"
_SUN_PATH_MAX = 107
_START_S = 60.0
_STOP_S = 60.0

_SETTINGS = """\
# Written by mpifarm at every start.
listen_addresses = ''
unix_socket_directories = '"{sockets}"'
unix_socket_permissions = 0700
authentication_timeout = 20s
jit = off
max_wal_size = 2GB
# The cores belong to the tasks.
max_parallel_workers_per_gather = 0
max_parallel_maintenance_workers = 0
"""


# `gate` lets nobody else in from other hosts, so this role must show its password; the socket's directory keeps out all
# but the user.
_ADMISSION = """\
# Written by mpifarm at every start.
local all farm scram-sha-256
local all all trust
"""


@contextmanager
def server(environ: Mapping[str, str] = os.environ) -> Iterator[str]:
    """A running server, as a libpq connection string. Raises SiteError when there can be none."""
    embedded = EmbeddedServer(server_folder(environ))
    embedded.enter()
    try:
        yield embedded.conninfo
    finally:
        embedded.leave()


class EmbeddedServer:
    """One user's share in the server of a directory: `enter` before use, `leave` after."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._data = folder / "data"
        self._host = folder / "host"
        self._sockets = _socket_folder(folder)
        self._users_lock: IO[bytes] | None = None
        self._programs: Programs | None = None

    @property
    def conninfo(self) -> str:
        return f"host={quoted(str(self._sockets))} port=5432 user=mpifarm dbname=postgres"

    @property
    def socket(self) -> Path:
        """The file it listens at."""
        return self._sockets / _SOCKET

    def prepare(self) -> Programs:
        """Make the directory, find the programs; starts nothing."""
        programs = find_programs(self._data, self._folder)
        # The server's user, where it is another one, must be able to pass through.
        make_folder(self._folder, 0o711 if programs.user else 0o700)
        return programs

    def enter(self) -> None:
        """Be one who uses the server, and start it where it does not run."""
        self._programs = self.prepare()
        try:
            with _locked(self._folder / "start.lock", fcntl.LOCK_EX):
                self._users_lock = _lock(self._folder / "users.lock", fcntl.LOCK_SH)
                self._claim_host()
                if not self._running():
                    self._start(self._programs)
        except BaseException:
            if self._users_lock is not None:
                self._users_lock.close()
                self._users_lock = None
            raise

    def leave(self) -> None:
        """Stop the server if nobody else uses it."""
        if self._users_lock is None or self._programs is None:
            return
        with self._users_lock as lock:
            self._users_lock = None
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                return
            # A server that will not stop now does no harm: the next one to leave tries again.
            with suppress(SiteError):
                self._programs.run("pg_ctl", "stop", "-D", str(self._data), "-m", "fast", "-w", timeout_s=_STOP_S)
                self._host.unlink(missing_ok=True)
                with suppress(OSError):
                    self._sockets.rmdir()

    def revive(self) -> bool:
        """Start a server that has died while it was in use. Whether that was needed."""
        assert self._programs is not None
        with _locked(self._folder / "start.lock", fcntl.LOCK_EX):
            if self._running():
                return False
            self._start(self._programs)
            return True

    # --- starting, under both locks ----------------------------------------------------------------------------

    def _claim_host(self) -> None:
        """A home directory may be shared by many hosts, a database must not be: locks and pids end at the host."""
        here = socket.gethostname()
        try:
            with self._host.open("x") as stream:
                stream.write(here)
        except FileExistsError:
            there = self._host.read_text()
            if there not in (here, ""):
                raise SiteError(
                    f"the embedded database in {self._folder} is in use on host {there}, this is {here}\n"
                    f"  use one host, or a server with a DSN; if nothing runs on {there} any more: rm {self._host}\n"
                    "  or set MPIFARM_PG_DIR to another directory"
                ) from None
            self._host.write_text(here)

    def _running(self) -> bool:
        """Whether a server has this directory; waits for one that is just starting or stopping."""
        deadline = time.monotonic() + _START_S
        while True:
            pid, status = self._postmaster()
            if not self._is_postmaster(pid):
                return False
            if status == "ready":
                return True
            if time.monotonic() > deadline:
                raise SiteError(f"the embedded server (pid {pid}) does not get ready{self._log_tail()}")
            time.sleep(0.02)

    def _postmaster(self) -> tuple[int, str]:
        """What postmaster.pid says; (0, "") without one."""
        try:
            lines = (self._data / "postmaster.pid").read_text().splitlines()
        except FileNotFoundError:
            return 0, ""
        pid = int(lines[0]) if lines and lines[0].lstrip("-").isdigit() else 0
        return pid, lines[7].strip() if len(lines) > 7 else ""

    def _is_postmaster(self, pid: int) -> bool:
        """After a crash the number may belong to anyone."""
        try:
            words = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
        except OSError:
            return False
        return os.fsencode(self._data) in words

    def _start(self, programs: Programs) -> None:
        # Left by a crash. Postgres would refuse to start if their pid is anyone's by now.
        for leftover in (self._data / "postmaster.pid", self._sockets / _SOCKET, self._sockets / f"{_SOCKET}.lock"):
            leftover.unlink(missing_ok=True)
        owner = server_user(programs.user)
        _make_private(self._sockets, owner)
        if not self._data.exists():
            self._make_data(programs, owner)
        log = self._folder / "log"
        if log.exists():
            log.replace(self._folder / "log.before")
        log.touch(0o600)
        os.chown(log, owner, -1)
        sockets = str(self._sockets).replace("'", "''")
        _write_for(owner, self._data / "mpifarm.conf", _SETTINGS.format(sockets=sockets))
        _write_for(owner, self._data / "pg_hba.conf", _ADMISSION)
        command = ("start", "-D", str(self._data), "-l", str(log), "-w", "-t", str(int(_START_S)))
        try:
            with _all_cores():
                programs.run("pg_ctl", *command, timeout_s=_START_S + 5)
        except SiteError as error:
            raise SiteError(f"the embedded database server does not start: {error}{self._log_tail()}") from None

    def _make_data(self, programs: Programs, owner: int) -> None:
        """A new database, complete or not there at all."""
        new = self._folder / "data.new"
        shutil.rmtree(new, ignore_errors=True)
        _make_private(new, owner)
        options = ["--auth=trust", "--encoding=UTF8", "--locale=C", "--username=mpifarm"]
        if programs.major >= 18:
            options.append("--no-data-checksums")  # with them, reading what was just loaded writes it once more
        programs.run("initdb", *options, "-D", str(new), timeout_s=120)
        with (new / "postgresql.conf").open("a") as stream:
            stream.write("\ninclude 'mpifarm.conf'\n")
        new.rename(self._data)

    def _log_tail(self) -> str:
        try:
            lines = (self._folder / "log").read_text(errors="backslashreplace").splitlines()[-8:]
        except OSError:
            return ""
        return "\n  its log ends with:" + "".join(f"\n    {line}" for line in lines)


# --- files and directories ------------------------------------------------------------------------------------


def _socket_folder(folder: Path) -> Path:
    """Beside the data, unless a socket there has a longer path than the system can take, or one libpq takes for two."""
    sockets = folder / "sockets"
    if len(os.fsencode(sockets / _SOCKET)) <= _SUN_PATH_MAX and "," not in str(sockets):
        return sockets
    return Path(f"/tmp/mpifarm-{os.geteuid()}-{zlib.crc32(os.fsencode(folder)):08x}")


def make_folder(folder: Path, mode: int) -> None:
    """With its parents. The mode counts for what is made here, whatever the umask; what exists is left as it is."""
    if folder.is_dir():
        return
    make_folder(folder.parent, mode)
    try:
        folder.mkdir()
        folder.chmod(mode)
    except FileExistsError:
        pass  # another process was faster
    except OSError as error:
        raise SiteError(
            f"cannot make {folder} for the embedded database: {error.strerror}\n"
            "  set MPIFARM_PG_DIR to a directory you may write, or name a database with --dsn"
        ) from None


def _write_for(owner: int, file: Path, text: str) -> None:
    file.write_text(text)
    os.chown(file, owner, -1)  # whatever the umask


def _make_private(folder: Path, owner: int) -> None:
    """A directory that only `owner` may enter, also where others may have put something (below /tmp)."""
    with suppress(FileExistsError):
        folder.mkdir(mode=0o700)
        os.chown(folder, owner, -1)
    found = folder.lstat()
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != owner or stat.S_IMODE(found.st_mode) != 0o700:
        raise SiteError(f"{folder} should be a directory of uid {owner} with mode 0700 and is not: remove it")


def _lock(path: Path, kind: int) -> IO[bytes]:
    """Waits for the lock. Closing the file frees it, as does the end of the process."""
    path.touch(0o600)  # whatever the umask: who may open it may hold the lock
    stream = path.open("ab")
    try:
        fcntl.flock(stream, kind)
    except OSError as error:
        stream.close()
        raise SiteError(
            f"cannot lock {path}: {error.strerror}\n  set MPIFARM_PG_DIR to a directory on a local disk"
        ) from None
    except BaseException:
        stream.close()
        raise
    return stream


@contextmanager
def _locked(path: Path, kind: int) -> Iterator[None]:
    with _lock(path, kind):
        yield


@contextmanager
def _all_cores() -> Iterator[None]:
    """A rank is often bound to one core; the server it starts must not be."""
    own = os.sched_getaffinity(0)
    with suppress(OSError):
        os.sched_setaffinity(0, range(os.cpu_count() or 1))
    try:
        yield
    finally:
        os.sched_setaffinity(0, own)
