"""What one task does to its slot, the next one does not suffer: each finds it as the first one did."""

from __future__ import annotations

import resource
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.launch.node import OneNode

pytestmark = pytest.mark.slow

Make = Callable[..., OneNode]

SPOILT = {
    "not blocking": "for fd in (0, 1, 2): os.set_blocking(fd, False)",
    "packets": "fcntl.fcntl(1, fcntl.F_SETFL, fcntl.fcntl(1, fcntl.F_GETFL) | os.O_DIRECT)",
    "a larger pipe": "for fd in (1, 2): fcntl.fcntl(fd, fcntl.F_SETPIPE_SZ, 1 << 19)",
    "a smaller pipe": "for fd in (1, 2): fcntl.fcntl(fd, fcntl.F_SETPIPE_SZ, 4096)",
    "signals": "fcntl.fcntl(2, fcntl.F_SETOWN, os.getppid()); fcntl.fcntl(2, fcntl.F_SETSIG, 40)",
    "asynchronous": "fcntl.fcntl(1, fcntl.F_SETFL, fcntl.fcntl(1, fcntl.F_GETFL) | os.O_ASYNC)",
    "rights": "[os.fchmod(fd, 0) for fd in (1, 2)]",
    "a lock": "[fcntl.flock(fd, fcntl.LOCK_EX) for fd in (0, 1, 2)]",
    "umask, limits, directory": "os.umask(0o777); resource.setrlimit(resource.RLIMIT_NOFILE, (64, 64)); os.chdir('/')",
    "priority, cores, signals": "os.nice(5); os.sched_setaffinity(0, [min(os.sched_getaffinity(0))]); "
    "signal.signal(signal.SIGPIPE, signal.SIG_IGN); signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGCHLD])",
}
"""What Python code may do to what it was given."""

STATE = """
import fcntl, os, resource, signal, stat
for fd in (0, 1, 2):
    get = lambda what: fcntl.fcntl(fd, what)
    print(get(fcntl.F_GETFL), get(fcntl.F_GETOWN), get(fcntl.F_GETSIG), stat.filemode(os.fstat(fd).st_mode))
    if fd:
        print(get(fcntl.F_GETPIPE_SZ))
        fcntl.flock(os.open(f"/proc/self/fd/{fd}", os.O_WRONLY), fcntl.LOCK_EX | fcntl.LOCK_NB)
print(os.umask(0), resource.getrlimit(resource.RLIMIT_NOFILE), os.getcwd(), os.nice(0), os.sched_getaffinity(0))
print(signal.getsignal(signal.SIGPIPE), signal.pthread_sigmask(signal.SIG_BLOCK, []), os.getsid(0) == os.getppid())
print(sorted(name for name in os.environ if not name.startswith("MPIFARM_")))
"""

BIG = 6_000_000


@pytest.fixture
def python(tmp_path: Path) -> Callable[[str], str]:
    """Makes a command of Python code."""

    def write(code: str) -> str:
        script = tmp_path / f"{abs(hash(code))}.py"
        script.write_text(f"import fcntl, os, resource, signal\n{code}\n")
        return f"{sys.executable} -S {script}"

    return write


@pytest.mark.parametrize("what", SPOILT)
@pytest.mark.parametrize("quick", [True, False])
def test_a_slot_is_as_it_was(
    make_node: Make, python: Callable[[str], str], monkeypatch: pytest.MonkeyPatch, what: str, quick: bool
) -> None:
    """Whether the slot is looked at (after short tasks) or made anew."""
    monkeypatch.setattr("mpifarm.launch.seat.RENEW_AFTER_S", 1e9 if quick else 0.0)
    node = make_node(slots=1)
    state, spoil = python(STATE), python(SPOILT[what])
    before = node.run(state)
    assert before.exit_code == 0, before.stderr
    assert node.run(spoil).exit_code == 0
    assert node.run(state).stdout == before.stdout


PARENT = {
    "priority": "os.setpriority(os.PRIO_PROCESS, os.getppid(), os.getpriority(os.PRIO_PROCESS, 0) + 3)",
    "cores": "os.sched_setaffinity(os.getppid(), [max(os.sched_getaffinity(0))])",
    "files": "files = resource.RLIMIT_NOFILE; resource.prlimit(os.getppid(), files, (9, resource.getrlimit(files)[1]))",
    "stack": "resource.prlimit(os.getppid(), resource.RLIMIT_STACK, (1 << 20, resource.RLIM_INFINITY))",
    "hard limit": "resource.prlimit(os.getppid(), resource.RLIMIT_CORE, (0, 4096))",
    "memory killer": "open(f'/proc/{os.getppid()}/oom_score_adj', 'w').write('500')",
}
"""What a task may do to the launcher, whose children inherit it."""
PARENT_STATE = """
print(os.getpriority(os.PRIO_PROCESS, 0), os.sched_getaffinity(0), open("/proc/self/oom_score_adj").read())
print([resource.getrlimit(getattr(resource, name)) for name in sorted(dir(resource)) if name.startswith("RLIMIT_")])
"""
PRIVILEGED = ("priority", "hard limit", "memory killer")


@pytest.mark.parametrize("what", PARENT)
def test_what_a_task_does_to_the_launcher_reaches_no_other(
    make_node: Make, python: Callable[[str], str], what: str
) -> None:
    """What takes privileges to put back (root in a container may lack them, too) is told."""
    node = make_node(slots=1)
    state, spoil = python(PARENT_STATE), python(PARENT[what])
    before = node.run(state)
    spoilt = node.run(spoil)
    if what == "stack" and spoilt.exit_code:
        return  # this user has a hard limit of his own
    assert spoilt.exit_code == 0, spoilt.stderr
    after = node.run(state)
    node.until(lambda: node.log)
    assert len(node.log) == 1
    if node.log[0].endswith(": put back"):
        assert after.stdout == before.stdout
    else:
        assert what in PRIVILEGED and "cannot be put back without privileges" in node.log[0]


def test_what_cannot_block_cuts_nobody_short(make_node: Make, python: Callable[[str], str], tmp_path: Path) -> None:
    """As event loops and ssh leave it: `cat big` would end with EAGAIN after a pipe full, and `; true` hides that."""
    (tmp_path / "big").write_bytes(b"x" * BIG)
    node = make_node(slots=1)
    task = node.start(python(SPOILT["not blocking"]), "cat big; true", "cat big >&2; true")
    node.wait(range(task, task + 3))
    assert (len(node.ended[task + 1].stdout), len(node.ended[task + 2].stderr)) == (BIG, BIG)


@pytest.mark.parametrize("left", ["", "sleep 1000 & "])
def test_all_that_a_task_left_in_its_pipe_is_its_own(make_node: Make, python: Callable[[str], str], left: str) -> None:
    """However it left it: in packets, of which a read gives one; in a pipe that it made larger than any of ours."""
    packets = f"{SPOILT['packets']}\nfor n in range(12): os.write(1, b'%d,' % n); os.write(2, b'%d,' % n)"
    larger = "fcntl.fcntl(1, fcntl.F_SETPIPE_SZ, 1 << 20); os.write(1, bytes(1 << 20)); os._exit(0)"
    node = make_node(slots=64)
    for code in (packets, larger):
        task = node.start(*[f"{left}{python(code)}", "echo clean"], cpus=64)
        node.wait([task, task + 1])
        wanted = b"".join(b"%d," % n for n in range(12)) if code == packets else bytes(1 << 20)
        assert node.ended[task].stdout == wanted
        assert node.ended[task + 1].stdout == b"clean\n"


def test_a_directory_that_a_task_replaces(make_node: Make, tmp_path: Path) -> None:
    """The next ones are in the new one, not in what was deleted."""
    cwd = tmp_path / "work"
    cwd.mkdir()
    node = make_node(slots=1)
    task = node.start(f"cd / && rm -r {cwd} && mkdir {cwd}", "echo here > file", "cat file", cwd=cwd)
    node.wait(range(task, task + 3))
    assert node.ended[task + 2].stdout == b"here\n" and (cwd / "file").exists()


def test_that_the_launcher_has_many_files_open_no_task_sees(make_node: Make) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (256, hard))
    try:
        node = make_node(slots=100)
        node.run("true")
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    task = node.start(*["sleep 0.5; ulimit -Sn"] * 100, f"sleep 0.5; ulimit -Sn; {': ' + 'x' * 200_000}")
    node.wait(range(task, task + 101))
    assert {node.ended[n].stdout for n in range(task, task + 101)} == {b"256\n"}
    assert resource.prlimit(node.launcher.pid, resource.RLIMIT_NOFILE)[0] == 764
