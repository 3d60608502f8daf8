"""`mpifarm db start`: the embedded server opened to other hosts, by TLS and password, once, and until it is stopped."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import stat
import struct
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import psycopg
import pytest

from mpifarm.errors import QueueError, QueueUnreachable, SiteError
from mpifarm.process import run_program
from mpifarm.queue.administration import admit
from mpifarm.queue.client import Client
from mpifarm.server import daemon, opened
from mpifarm.server.certificates import make_certificate
from mpifarm.server.dsn import Dsn, find_dsn
from mpifarm.server.embedded import EmbeddedServer
from mpifarm.server.tls_proxy import Refused, checked_start
from tests.fix_farm import Farm, wait_for
from tests.fix_mpi import ROOT
from tests.queue.worlds import like_tasks

pytestmark = pytest.mark.postgres

DEADLINE_S = 120.0


class Home:
    """A user's directory with a server in it, and the commands as processes."""

    def __init__(self) -> None:
        self.top = Path(tempfile.mkdtemp(prefix="mpifarm-opened-"))
        self.top.chmod(0o711)
        self.folder = self.top / "pg"
        self.gate = self.folder / "gate"
        self.environ = {k: v for k, v in os.environ.items() if not k.startswith(("MPIFARM_", "PG"))}
        self.environ |= {"MPIFARM_PG_DIR": str(self.folder), "PYTHONPATH": str(ROOT), "HOME": str(self.top)}

    def begin(self, *arguments: str, **more: Any) -> subprocess.Popen[str]:
        command = [sys.executable, "-m", "mpifarm", "db", *arguments]
        pipe = subprocess.PIPE
        return subprocess.Popen(
            command,
            cwd=self.top,
            env=self.environ,
            stdout=pipe,
            stderr=pipe,
            stdin=subprocess.DEVNULL,
            text=True,
            **more,
        )

    def finish(self, process: subprocess.Popen[str], code: int = 0) -> str:
        out, err = process.communicate(timeout=DEADLINE_S)
        assert process.returncode == code, f"exit {process.returncode}: {out}{err}"
        assert "Traceback" not in err
        return out if code == 0 else err

    def run(self, *arguments: str, code: int = 0, **more: Any) -> str:
        return self.finish(self.begin(*arguments, **more), code)

    def start(self, listen: str = "localhost") -> dict[str, Any]:
        found: dict[str, Any] = json.loads(self.run("start", "--listen", listen, "--json"))
        return found

    def opened(self) -> daemon.Opened:
        found = daemon.find_opened(self.environ)
        assert found is not None
        return found

    def close(self) -> None:
        found = daemon.find_opened(self.environ)
        if found is not None and found.is_running():
            self.run("stop")
        assert gates(self.folder) == []
        shutil.rmtree(self.top)


def gates(folder: Path) -> list[int]:
    """Processes that hold the gate of a directory: whatever they are called."""
    found = []
    for process in Path("/proc").iterdir():
        if process.name.isdigit():
            try:
                if any(os.readlink(fd) == str(folder / "gate" / "lock") for fd in (process / "fd").iterdir()):
                    found.append(int(process.name))
            except OSError:
                continue
    return found


@pytest.fixture
def home() -> Iterator[Home]:
    made = Home()
    yield made
    made.close()


@pytest.fixture(scope="module")
def open_home() -> Iterator[Home]:
    """One that is open; for tests that leave it as it is."""
    made = Home()
    made.start()
    yield made
    made.close()


def dsn_of(home: Home, **more: object) -> Dsn:
    return Dsn(psycopg.conninfo.make_conninfo(home.opened().dsn, **more), "the test")


# --- who comes in -----------------------------------------------------------------------------------------------


def test_with_what_it_prints_one_comes_in_and_does_everything(open_home: Home) -> None:
    with Client.connect(dsn_of(open_home)) as client:
        client.submit("job", "source", b"/tmp", like_tasks(20_000))
        assert len(list(client.tasks(client.find("job").id))) == 20_000
        client.drop(client.find("job").id)
    with psycopg.connect(dsn_of(open_home).text) as connection:
        assert connection.pgconn.ssl_in_use
        row = connection.execute("SELECT rolsuper FROM pg_roles WHERE rolname = current_user").fetchone()
        assert row == (False,)
        with pytest.raises(psycopg.errors.InsufficientPrivilege):
            connection.execute("COPY mpifarm.task TO PROGRAM 'cat'")


@pytest.mark.mpi_outside
def test_a_whole_run_through_it(open_home: Home, tmp_path: Path) -> None:
    farm = Farm(tmp_path, dsn_of(open_home).text)
    try:
        farm.submit([f"echo {number}" for number in range(1, 201)])
        farm.run("run", ranks=2)
        assert farm.output("1-200") == b"".join(b"%d\n" % number for number in range(1, 201))
        farm.run("drop", "job", "--yes", "job")
    finally:
        farm.close()


def test_many_bytes_both_ways_at_once(open_home: Home) -> None:
    with psycopg.connect(dsn_of(open_home).text, autocommit=True) as connection:
        big = os.urandom(20 << 20)
        assert connection.execute("SELECT %b::bytea", [big]).fetchone() == (big,)
        with connection.pipeline():
            cursors = [connection.execute("SELECT %b::bytea || %b", [big[:700_000], b"%d" % n]) for n in range(20)]
        assert [cursor.fetchone()[0][700_000:] for cursor in cursors] == [b"%d" % n for n in range(20)]  # type: ignore[index]


def test_a_statement_can_be_cancelled_through_it(open_home: Home) -> None:
    with psycopg.connect(dsn_of(open_home).text, autocommit=True) as connection:
        connection.execute("SET statement_timeout = '30s'")
        pid = connection.info.backend_pid

        def asleep() -> bool:
            with psycopg.connect(dsn_of(open_home).text) as other:
                found = other.execute("SELECT wait_event FROM pg_stat_activity WHERE pid = %s", [pid]).fetchone()
                return found == ("PgSleep",)

        connection.pgconn.send_query(b"SELECT pg_sleep(30)")
        wait_for(asleep, "the statement at work")
        connection.cancel_safe(timeout=10)
        result = connection.pgconn.get_result()
        assert result is not None and b"canceling statement due to user request" in result.error_message
        assert connection.pgconn.get_result() is None


WRONG = {
    "wrong authority": ({"sslrootcert": "OTHER"}, "gate/ca.crt"),
    "no authority": ({"sslrootcert": "/no/such/file"}, "sslrootcert=FILE"),
    "wrong host name": ({"host": "elsewhere.org", "hostaddr": "127.0.0.1"}, "by a name that is in its certificate"),
    "no TLS": ({"sslmode": "disable"}, "only TLS is spoken here: sslmode=verify-full"),
    "another role": ({"user": "mpifarm"}, "only user=farm may come in here"),
    "wrong password": ({"password": "wrong"}, "password authentication failed"),
    "empty password": ({"password": "", "passfile": "/dev/null"}, "no password supplied"),
    "replication": ({"replication": "database"}, "no replication here"),
}


@pytest.mark.parametrize("what", WRONG)
def test_who_does_not_come_in(open_home: Home, tmp_path: Path, what: str) -> None:
    words, match = WRONG[what]
    if words.get("sslrootcert") == "OTHER":
        words = {"sslrootcert": str(make_certificate(tmp_path, ["localhost"])[0])}
    with pytest.raises(QueueUnreachable, match=match):
        Client.connect(dsn_of(open_home, **words))


def test_a_server_without_tls_is_refused_by_verify_full(pg_dsn: Dsn, tmp_path: Path) -> None:
    """The embedded Postgres itself, through a port."""
    from tests.queue.proxy import Proxy

    authority, _, _ = make_certificate(tmp_path, ["localhost"])
    with Proxy(str(psycopg.conninfo.conninfo_to_dict(pg_dsn.text)["host"])) as proxy:
        words = {"host": "localhost", "port": proxy.port, "sslmode": "verify-full", "sslrootcert": authority}
        with pytest.raises(QueueUnreachable, match="it speaks no TLS, so its certificate cannot be checked"):
            Client.connect(Dsn(psycopg.conninfo.make_conninfo(pg_dsn.text, **words), "the test"))


def start_message(*words: bytes) -> bytes:
    return b"\0".join(words) + b"\0\0"


@pytest.mark.parametrize(
    "rest",
    [
        b"",
        b"\0",
        b"user",
        b"user\0farm",
        b"user\0farm\0",
        start_message(b"database", b"postgres"),
        start_message(b"user", b"mpifarm"),
        start_message(b"user", b"farm", b"user", b"mpifarm"),
        start_message(b"user", b"mpifarm", b"user", b"farm"),
        start_message(b"user", b"farm", b"odd"),
        start_message(b"user", b"farm", b"", b"user", b"mpifarm"),
        start_message(b"user", b"farm") + b"user\0mpifarm\0\0",
        start_message(b"User", b"farm"),
        start_message(b"user", b"farm", b"replication", b"true"),
    ],
)
def test_first_messages_that_do_not_pass(rest: bytes) -> None:
    with pytest.raises(Refused):
        checked_start(3 << 16, rest)


def test_a_first_message_that_passes_is_made_anew() -> None:
    rest = start_message(b"user", b"farm", b"database", b"postgres", b"options", b"")
    assert checked_start(3 << 16, rest) == struct.pack(">ii", len(rest) + 8, 3 << 16) + rest


@pytest.mark.parametrize(
    "junk", [b"GET / HTTP/1.1\r\n\r\n", b"\0" * 8, b"\xff" * 100, b"", b"\0\0\0\x08\x04\xd2\x16\x2fjunk"]
)
def test_junk_does_no_harm(open_home: Home, junk: bytes) -> None:
    port = int(open_home.opened().address.rpartition(":")[2])
    wire = socket.create_connection(("localhost", port), timeout=10)
    with wire, suppress(OSError):  # it does not wait for the end of junk
        wire.sendall(junk)
        wire.shutdown(socket.SHUT_WR)
        while wire.recv(4096):
            pass
    with Client.connect(dsn_of(open_home)) as client:
        assert client.jobs() == []


# --- who listens ------------------------------------------------------------------------------------------------


def listening_ports(pid: int) -> set[int]:
    """TCP ports at which a process listens."""
    sockets = {os.readlink(fd) for fd in Path(f"/proc/{pid}/fd").iterdir() if fd.is_symlink()}
    ports = set()
    for table in ("tcp", "tcp6"):
        for line in Path(f"/proc/{pid}/net/{table}").read_text().splitlines()[1:]:
            fields = line.split()
            if fields[3] == "0A" and f"socket:[{fields[9]}]" in sockets:
                ports.add(int(fields[1].rpartition(":")[2], 16))
    return ports


def postmaster(home: Home) -> int:
    return int((home.folder / "data" / "postmaster.pid").read_text().split()[0])


def test_the_database_itself_listens_on_its_private_socket_only(open_home: Home) -> None:
    assert listening_ports(postmaster(open_home)) == set()
    assert stat.S_IMODE((open_home.folder / "sockets").stat().st_mode) == 0o700
    (gate,) = gates(open_home.folder)
    assert listening_ports(gate) == {int(open_home.opened().address.rpartition(":")[2])}


def check_modes(home: Home) -> None:
    for file in home.gate.iterdir():
        assert stat.S_IMODE(file.stat().st_mode) & 0o077 == 0, file
    for private in ("gate", "data", "sockets"):
        assert stat.S_IMODE((home.folder / private).stat().st_mode) == 0o700
    for lock in home.folder.glob("*.lock"):
        assert stat.S_IMODE(lock.stat().st_mode) == 0o600
    assert stat.S_IMODE(home.folder.stat().st_mode) in (0o700, 0o711)


# --- being one --------------------------------------------------------------------------------------------------


def test_several_starts_at_once_make_one(home: Home) -> None:
    """With a umask that would leave everything open to everybody."""
    starts = [home.begin("start", "--listen", "localhost", "--json", umask=0) for _ in range(4)]
    said = [json.loads(home.finish(process)) for process in starts]
    assert len(gates(home.folder)) == 1
    assert len({answer["pid"] for answer in said}) == 1
    assert sorted(answer["already"] for answer in said) == [False, True, True, True]
    assert "already open at localhost" in home.run("start", "--listen", "localhost")
    assert "first: mpifarm db stop" in home.run("start", "--listen", "127.0.0.1", code=3)
    assert "first: mpifarm db stop" in home.run("start", "--listen", "localhost:1", code=3)
    Client.connect(dsn_of(home)).close()
    check_modes(home)


def test_it_outlives_its_shell_and_keeps_nothing_of_it(home: Home) -> None:
    """`$(...)` comes back, the shell's lock is free, and its death changes nothing."""
    lock = home.top / "lock"
    script = f"exec 9>{lock}; flock 9; said=$({sys.executable} -m mpifarm db start --listen localhost); echo $said"
    shell = subprocess.Popen(
        ["bash", "-c", script],
        cwd=home.top,
        env=home.environ,
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    out, _ = shell.communicate(timeout=DEADLINE_S)
    assert "open at localhost" in out
    with pytest.raises(ProcessLookupError):
        os.killpg(shell.pid, signal.SIGKILL)  # nobody is left in its session
    subprocess.run(["flock", "-n", str(lock), "true"], check=True, timeout=10)
    Client.connect(dsn_of(home)).close()


def test_after_kill_9_it_starts_again_as_it_was(home: Home) -> None:
    first = home.start()
    with Client.connect(dsn_of(home)) as client:
        client.submit("job", "source", b"/tmp", like_tasks(3))
    os.kill(first["pid"], signal.SIGKILL)
    wait_for(lambda: not gates(home.folder), "the death of the gate")
    assert "its process has died: mpifarm db start" in home.run("status")
    file = home.gate / "connection.toml"  # worse: its number is somebody else's by now
    file.write_text(file.read_text().replace(f"pid = {first['pid']}", f"pid = {os.getpid()}"))
    second = home.start()
    assert not second["already"] and second["pid"] != first["pid"]
    assert second["dsn"] == first["dsn"]
    with Client.connect(Dsn(first["dsn"], "copied earlier")) as client:
        assert client.find("job").total == 3
    assert home.run("stop").startswith("closed")
    assert home.run("stop") == "it was not open\n"
    assert gates(home.folder) == []
    os.kill(home.start()["pid"], signal.SIGKILL)
    wait_for(lambda: not gates(home.folder), "the death of the gate")
    assert home.run("stop") == "it was not open\n"
    assert daemon.find_opened(home.environ) is None
    with pytest.raises(QueueUnreachable):
        Client.connect(Dsn(first["dsn"], "copied earlier"))
    environ = {"MPIFARM_PG_DIR": str(home.folder), "HOME": str(home.top)}
    assert find_dsn(None, environ, home.top).embedded


def test_a_database_that_dies_is_started_again(open_home: Home) -> None:
    os.kill(postmaster(open_home), signal.SIGQUIT)

    def back() -> bool:
        try:
            Client.connect(dsn_of(open_home)).close()
        except QueueError:
            return False
        return True

    wait_for(back, "the database again")


def test_status_says_where_since_when_and_who(open_home: Home) -> None:
    with Client.connect(dsn_of(open_home)), Client.connect(dsn_of(open_home)):
        said = json.loads(open_home.run("status", "--json"))
    assert said["connections"] == 2 and said["version"] == said["wanted"]
    assert said["opened"]["running"] is True and said["opened"]["pid"] == open_home.opened().pid
    for since in (said["since"], said["opened"]["since"]):
        assert 0 <= time.time() - since < 3600
    text = open_home.run("status")
    assert "connections of mpifarm" in text and f"open      at {open_home.opened().address}" in text


def test_a_server_that_would_let_everybody_in_is_not_opened(home: Home) -> None:
    """One that an older mpifarm has started and that is in use, so that its rules are still the old ones."""
    server = EmbeddedServer(home.folder)
    server.enter()
    try:
        (home.folder / "data" / "pg_hba.conf").write_text("local all all trust\n")
        with psycopg.connect(server.conninfo, autocommit=True) as connection:
            connection.execute("SELECT pg_reload_conf()")

        def everybody() -> bool:
            try:
                psycopg.connect(server.conninfo, user="farm").close()
            except psycopg.OperationalError as error:
                return 'role "farm" does not exist' in str(error)  # and not: no password supplied
            return True

        wait_for(everybody, "the old rules")
        assert "would let everybody in" in home.run("start", "--listen", "localhost", code=3)
        assert daemon.find_opened(home.environ) is None
    finally:
        server.leave()
    home.start()


# --- other hosts ------------------------------------------------------------------------------------------------


def test_a_host_that_shares_the_directory_finds_it(open_home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    environ = {"MPIFARM_PG_DIR": str(open_home.folder), "HOME": str(open_home.top)}
    assert find_dsn(None, environ, open_home.top).embedded  # on its own host the private socket
    here = open_home.opened()
    monkeypatch.setattr(socket, "gethostname", lambda: "node17")
    found = find_dsn(None, environ, open_home.top)
    assert found == Dsn(here.dsn, str(open_home.gate / "connection.toml"))
    with Client.connect(found) as client:
        assert client.jobs() == []
    where = f"open on {here.host}, at {here.address} \\(pid {here.pid}\\): type that there"
    with pytest.raises(SiteError, match=where):
        opened.start("localhost", environ, admit)
    with pytest.raises(SiteError, match=where):
        opened.stop(environ)
    dead = Dsn(psycopg.conninfo.make_conninfo(here.dsn, port=1), found.source)
    with pytest.raises(QueueUnreachable, match="mpifarm db start has opened it there"):
        Client.connect(dead)


def test_where_it_cannot_listen(home: Home) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        for listen, match in (
            (f"127.0.0.1:{port}", f"port {port} is in use: name another, or none for a free one"),
            ("no.such.host.invalid", "no address of this host is known by that name"),
            ("192.0.2.1", "this is no address of this host"),
            ("a b\n:5", "no address of this host"),
            ("", "is not ADDR or ADDR:PORT"),
            ("localhost:99999", "is not ADDR or ADDR:PORT"),
        ):
            assert match in home.run("start", "--listen", listen, code=3)
    assert daemon.find_opened(home.environ) is None and not (home.folder / "data").exists()


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("login1", ("login1", 0)),
        ("10.0.0.1:5433", ("10.0.0.1", 5433)),
        ("::1", ("::1", 0)),
        ("[::1]:5433", ("::1", 5433)),
        ("[::1]", ("::1", 0)),
        ("*:7", ("*", 7)),
    ],
)
def test_addresses(text: str, parts: tuple[str, int]) -> None:
    assert opened.split_address(text) == parts


def test_without_openssl_it_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(SiteError, match="openssl is not there"):
        make_certificate(tmp_path, ["localhost"])


# --- a site's own server ------------------------------------------------------------------------------------------


def site_postgres() -> Path | None:
    """The programs of a Postgres of this machine that was built with TLS."""
    for config in [*sorted(Path("/usr/lib/postgresql").glob("*/bin/pg_config")), shutil.which("pg_config")]:
        if config and b"openssl" in run_program([str(config), "--configure"], timeout_s=30):
            return Path(str(config)).parent
    return None


def test_verify_full_against_a_postgres_that_speaks_tls_itself(tmp_path: Path) -> None:
    """What a site has: Postgres with ssl = on, and no gate of ours. With and without the right authority and name."""
    programs = site_postgres()
    if programs is None or not (programs / "postgres").exists():
        pytest.skip("no Postgres with TLS on this machine; the gate, which is tested everywhere, does the same")
    user = "postgres" if os.geteuid() == 0 else None
    folder = Path(tempfile.mkdtemp(prefix="mpifarm-site-"))
    authority, certificate, key = make_certificate(folder, ["localhost"])
    data = folder / "data"
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    for path in (folder, certificate, key):
        if user is not None:
            shutil.chown(path, user)
    settings = {"ssl": "on", "ssl_cert_file": certificate, "ssl_key_file": key, "listen_addresses": "localhost"}
    options = " ".join(f"-c {name}={value}" for name, value in settings.items()) + f" -p {port} -k {folder}"
    control = [str(programs / "pg_ctl"), "-D", str(data)]
    run_program(
        [str(programs / "initdb"), "-D", str(data), "-U", "me", "-A", "trust"], timeout_s=120, user=user, cwd="/"
    )
    start = [*control, "-l", str(folder / "log"), "-o", options, "-w", "start"]
    run_program(start, timeout_s=60, user=user, cwd="/")
    try:
        good = {"host": "localhost", "port": port, "user": "me", "dbname": "postgres", "sslmode": "verify-full"}
        words = good | {"sslrootcert": authority}
        with Client.connect(Dsn(psycopg.conninfo.make_conninfo("", **words), "the test")) as client:
            assert client.jobs() == []
        other, _, _ = make_certificate(tmp_path, ["localhost"])
        for wrong, match in (
            ({"sslrootcert": other}, "gate/ca.crt"),
            ({"host": "elsewhere.org", "hostaddr": "127.0.0.1"}, "by a name that is in its certificate"),
        ):
            with pytest.raises(QueueUnreachable, match=match):
                Client.connect(Dsn(psycopg.conninfo.make_conninfo("", **(words | wrong)), "the test"))
    finally:
        run_program([*control, "-m", "immediate", "stop"], timeout_s=60, user=user, cwd="/")
        shutil.rmtree(folder)
