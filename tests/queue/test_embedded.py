"""The embedded server: one for all processes of a user, there as long as it is needed, closed to everybody else."""

from __future__ import annotations

import os
import pwd
import shutil
import signal
import socket
import stat
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import psycopg
import pytest

from mpifarm.errors import SiteError
from mpifarm.process import run_program
from mpifarm.queue.client import Client
from mpifarm.server import embedded, programs
from mpifarm.server.dsn import Dsn
from mpifarm.server.embedded import EmbeddedServer
from tests.fix_farm import wait_for
from tests.fix_mpi import ROOT

pytestmark = pytest.mark.postgres

DEADLINE_S = 60.0

USER = """
import sys
from pathlib import Path
import psycopg
from mpifarm.server.embedded import EmbeddedServer
server = EmbeddedServer(Path(sys.argv[1]))
server.enter()
try:
    with psycopg.connect(server.conninfo) as connection:
        print(connection.execute("SELECT 40 + 2").fetchone()[0], flush=True)
    sys.stdin.readline()
finally:
    server.leave()
"""


@pytest.fixture
def folder() -> Iterator[Path]:
    """Not below pytest's own directory: root's is closed to the user that root's server has."""
    folder = Path(tempfile.mkdtemp(prefix="mpifarm-embedded-"))
    folder.chmod(0o711)
    yield folder / "pg"
    pid = postmaster(folder / "pg")
    if pid:
        os.kill(pid, signal.SIGQUIT)
        wait_for(lambda: not Path(f"/proc/{pid}").exists(), "the end of a server that a failed test left")
    shutil.rmtree(folder)


def postmaster(folder: Path) -> int:
    """Pid of the running server; 0 when there is none."""
    try:
        pid = int((folder / "data" / "postmaster.pid").read_text().split()[0])
        words = Path(f"/proc/{pid}/cmdline").read_bytes()
    except (FileNotFoundError, ProcessLookupError, IndexError):
        return 0
    return pid if os.fsencode(folder) in words else 0


class User:
    """A process that uses the server until it is told to leave."""

    def __init__(self, folder: Path) -> None:
        command = [sys.executable, "-c", USER, str(folder)]
        pipe = subprocess.PIPE
        self.process = subprocess.Popen(
            command, cwd=ROOT, stdin=pipe, stdout=pipe, stderr=pipe, text=True, start_new_session=True
        )

    def connected(self) -> User:
        assert self.process.stdout is not None and self.process.stderr is not None
        assert self.process.stdout.readline() == "42\n", self.process.stderr.read()
        return self

    def leave(self) -> None:
        _, err = self.process.communicate("\n", timeout=DEADLINE_S)
        assert self.process.returncode == 0, err

    def kill(self, number: int) -> None:
        os.killpg(self.process.pid, number)
        self.process.communicate(timeout=DEADLINE_S)

    def __del__(self) -> None:
        if self.process.poll() is None:  # its test has failed
            self.kill(signal.SIGKILL)


def test_five_start_it_at_once_and_the_last_stops_it(folder: Path) -> None:
    users = [User(folder) for _ in range(5)]
    for user in users:
        user.connected()
    pid = postmaster(folder)
    assert pid
    for user in users[:-1]:
        user.leave()
    assert postmaster(folder) == pid
    users[-1].leave()
    assert not postmaster(folder)
    User(folder).connected().leave()


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGINT], ids=["kill -9", "Ctrl-C"])
def test_it_survives_whoever_started_it(folder: Path, number: int) -> None:
    starter = User(folder).connected()
    other = User(folder).connected()
    pid = postmaster(folder)
    starter.kill(number)
    assert postmaster(folder) == pid
    User(folder).connected().leave()
    other.leave()
    assert not postmaster(folder)


def test_a_client_killed_alone_leaves_it_to_the_next(folder: Path) -> None:
    alone = User(folder).connected()
    pid = postmaster(folder)
    alone.kill(signal.SIGKILL)
    assert postmaster(folder) == pid
    User(folder).connected().leave()
    assert not postmaster(folder)


def test_what_was_committed_survives_the_servers_death(folder: Path) -> None:
    server = EmbeddedServer(folder)
    server.enter()
    with psycopg.connect(server.conninfo, autocommit=True) as connection:
        connection.execute("CREATE TABLE kept AS SELECT 7 AS number")
    pid = postmaster(folder)
    os.kill(pid, signal.SIGKILL)
    wait_for(lambda: not Path(f"/proc/{pid}").exists(), "the server's death")
    server.leave()
    # Worse: its pid is somebody else's by now, somebody who is alive.
    file = folder / "data" / "postmaster.pid"
    file.write_text(f"{os.getpid()}\n" + file.read_text().partition("\n")[2])
    again = EmbeddedServer(folder)
    again.enter()
    with psycopg.connect(again.conninfo) as connection:
        assert connection.execute("SELECT number FROM kept").fetchone() == (7,)
        assert connection.execute("SHOW fsync").fetchone() == ("on",)
    again.leave()


def test_half_a_database_is_made_anew(folder: Path) -> None:
    (folder / "data.new").mkdir(parents=True)
    (folder / "data.new" / "PG_VERSION").write_text("18")
    for part in (folder, folder / "data.new"):
        part.chmod(0o711)
    User(folder).connected().leave()


def test_nobody_else_may_enter(folder: Path) -> None:
    server = EmbeddedServer(folder)
    server.enter()
    for private in (folder / "data", folder / "sockets"):
        assert stat.S_IMODE(private.stat().st_mode) == 0o700
    with psycopg.connect(server.conninfo) as connection:
        assert connection.execute("SHOW listen_addresses").fetchone() == ("",)
    server.leave()


def test_it_may_use_all_cores_whatever_its_starter_is_bound_to(folder: Path) -> None:
    own = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {min(own)})
    try:
        server = EmbeddedServer(folder)
        server.enter()
        assert os.sched_getaffinity(0) == {min(own)}
        assert os.sched_getaffinity(postmaster(folder)) >= own
        server.leave()
    finally:
        os.sched_setaffinity(0, own)


def test_a_long_path_gets_a_short_socket(folder: Path) -> None:
    long = folder / ("x" * 120)
    server = EmbeddedServer(long)
    server.enter()
    sockets = Path(str(psycopg.conninfo.conninfo_to_dict(server.conninfo)["host"]))
    with psycopg.connect(server.conninfo):
        assert stat.S_IMODE(sockets.stat().st_mode) == 0o700
    server.leave()
    # Somebody else was there first.
    sockets.mkdir()
    sockets.chmod(0o777)
    with pytest.raises(SiteError, match="remove it"):
        EmbeddedServer(long).enter()
    sockets.rmdir()


@pytest.mark.parametrize("major", programs._INSTALLS)
def test_any_postgres_of_the_wheel_will_do(folder: Path, monkeypatch: pytest.MonkeyPatch, major: int) -> None:
    monkeypatch.setattr(programs, "_INSTALLS", {major: programs._INSTALLS[major]})
    monkeypatch.setenv("MPIFARM_PG_DIR", str(folder))
    for _ in range(2):
        with Client.connect(Dsn("", "no DSN given")) as client:
            assert client.jobs() == []
    assert (folder / "data" / "PG_VERSION").read_text() == f"{major}\n"


def test_odd_characters_in_the_path(folder: Path) -> None:
    for name in ("it's a test (ü)", "a,b"):
        User(folder / name).connected().leave()


def test_another_host_is_refused(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    user = User(folder).connected()
    monkeypatch.setattr(socket, "gethostname", lambda: "node17")
    with pytest.raises(SiteError, match=f"in use on host .*, this is node17[^$]*rm {folder}/host"):
        EmbeddedServer(folder).enter()
    user.leave()
    server = EmbeddedServer(folder)
    server.enter()
    assert (folder / "host").read_text() == "node17"
    server.leave()
    assert not (folder / "host").exists()


def test_a_client_uses_it_without_a_dsn(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MPIFARM_PG_DIR", str(folder))
    with Client.connect(Dsn("", "no DSN given")) as client:
        assert client.jobs() == []
        assert postmaster(folder)
    assert not postmaster(folder)


def test_a_server_that_cannot_start_says_why(folder: Path) -> None:
    User(folder).connected().leave()
    with (folder / "data" / "postgresql.conf").open("a") as stream:
        stream.write("nonsense = 5\n")
    with pytest.raises(SiteError, match=r"does not start[^$]*its log ends with[^$]*nonsense"):
        EmbeddedServer(folder).enter()


def test_without_the_wheel_it_names_the_ways_out(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(programs, "find_spec", lambda _: None)
    with pytest.raises(SiteError) as caught:
        EmbeddedServer(folder).enter()
    for way in ("--dsn", "MPIFARM_DSN", ".mpifarm.toml", "pip install 'mpifarm[local]'"):
        assert way in str(caught.value)


def test_a_database_of_another_postgres_is_refused(folder: Path) -> None:
    (folder / "data").mkdir(parents=True)
    (folder / "data" / "PG_VERSION").write_text("9\n")
    with pytest.raises(SiteError, match="PostgreSQL 9"):
        EmbeddedServer(folder).enter()


def test_a_folder_that_cannot_be_made_is_named() -> None:
    with pytest.raises(SiteError, match="MPIFARM_PG_DIR"):
        EmbeddedServer(Path("/proc/no/such")).enter()


def test_where_it_lives(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    assert embedded.server_folder({"HOME": "/home/me"}) == Path("/home/me/.local/share/mpifarm/pg")
    assert embedded.server_folder({"HOME": "/home/me", "XDG_DATA_HOME": "/x"}) == Path("/x/mpifarm/pg")
    assert embedded.server_folder({"XDG_DATA_HOME": "/x", "MPIFARM_PG_DIR": "/y"}) == Path("/y")
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    assert embedded.server_folder({"HOME": "/root"}) == Path("/var/lib/mpifarm/pg")


def in_child(work: Callable[[], None]) -> None:
    """Do it in a forked process, whose user may be changed without a way back."""
    pid = os.fork()
    if pid == 0:
        code = 1
        try:
            work()
            code = 0
        except BaseException as error:
            os.write(2, f"{type(error).__name__}: {error}\n".encode())
        finally:
            os._exit(code)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0


def test_as_an_ordinary_user(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Run by root, the test becomes an ordinary user first; run by one, it is one."""
    user = pwd.getpwnam("nobody")
    found = programs.find_programs(folder / "data", folder.with_name("programs"))
    monkeypatch.setattr(embedded, "find_programs", lambda *_: programs.Programs(found.bin, found.major, None))

    def work() -> None:
        if os.geteuid() == 0:
            os.chown(folder.parent, user.pw_uid, user.pw_gid)
            os.setgroups([])
            os.setgid(user.pw_gid)
            os.setuid(user.pw_uid)
        server = EmbeddedServer(folder)
        server.enter()
        with psycopg.connect(server.conninfo) as connection:
            assert connection.execute("SELECT 1").fetchone() == (1,)
        assert folder.stat().st_uid == os.geteuid()
        assert stat.S_IMODE(folder.stat().st_mode) == 0o700
        server.leave()

    in_child(work)
    assert not postmaster(folder)


def test_the_server_is_never_root(folder: Path) -> None:
    user = User(folder).connected()
    owner = Path(f"/proc/{postmaster(folder)}").stat().st_uid
    assert owner != 0
    assert owner == (folder / "sockets").stat().st_uid
    user.leave()


def test_root_keeps_a_copy_of_programs_its_server_cannot_reach(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A Python environment below /root. Whoever is not root reaches his own."""
    folder.mkdir()
    folder.chmod(0o711)
    run = programs.Programs.run

    def unreachable(self: programs.Programs, program: str, *arguments: str, timeout_s: float) -> bytes:
        if folder not in self.bin.parents and self.user is not None:
            raise SiteError("Permission denied")
        return run(self, program, *arguments, timeout_s=timeout_s)

    monkeypatch.setattr(programs.Programs, "run", unreachable)
    server = EmbeddedServer(folder)
    server.enter()
    with psycopg.connect(server.conninfo) as connection:
        assert connection.execute("SELECT 1").fetchone() == (1,)
    server.leave()
    assert bool(list(folder.glob("programs-*"))) == (os.geteuid() == 0)


# --- process ---------------------------------------------------------------------------------------------------


def test_a_program_that_fails_shows_its_last_words() -> None:
    with pytest.raises(SiteError, match="exit code 3:\n  line 5\n") as caught:
        run_program(["sh", "-c", "for i in $(seq 12); do echo line $i >&2; done; exit 3"], timeout_s=30)
    assert "line 4\n" not in str(caught.value) and str(caught.value).endswith("line 12")


def test_a_program_that_hangs_is_ended_with_its_children() -> None:
    with pytest.raises(SiteError, match=r"did not end within 0\.2 s"):
        run_program(["sh", "-c", "sleep 987654 & wait"], timeout_s=0.2)
    listed = subprocess.run(["ps", "-eo", "args"], capture_output=True, text=True, check=True).stdout
    assert "sleep 987654" not in listed.splitlines()


def test_a_program_that_is_missing_is_named() -> None:
    with pytest.raises(SiteError, match="cannot start /no/such: No such file"):
        run_program(["/no/such"], timeout_s=1)


def test_a_daemon_that_stays_behind_is_not_waited_for() -> None:
    out = run_program(["sh", "-c", "sleep 20 & echo $!"], timeout_s=10)
    os.kill(int(out), signal.SIGKILL)
