"""What a task sees and what is known of it afterwards."""

from __future__ import annotations

import os
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from mpifarm.core.model import FailureClass, State, TaskText
from mpifarm.core.needs import Needs
from mpifarm.launch.environ import Environment
from mpifarm.launch.seat import FileActions
from mpifarm.launch.spawning import spawn
from tests.launch.node import OneNode

pytestmark = pytest.mark.slow

Make = Callable[..., OneNode]


def bash(line: str | bytes, cwd: Path) -> tuple[int, bytes, bytes]:
    done = subprocess.run(["bash", "-c", line], capture_output=True, cwd=cwd, stdin=subprocess.DEVNULL, check=False)
    return done.returncode, done.stdout, done.stderr


@pytest.mark.parametrize(
    "line",
    [
        "echo hello",
        "printf 'no newline'",
        "printf '\\000\\377\\001'",
        "true",
        "/bin/true",
        "seq 1 5000",
        "echo out; echo err >&2; exit 3",
        "no-such-program --flag",
        "no-such-program | cat",
        "./not-executable",
        "./no-shebang one two",
        "./no-such-file",
        "/",
        "echo 'unclosed",
        "cat",
        "echo $0 $#",
        "FOO=bar env | grep ^FOO",
        "printf '%s|' a 'b c' \"d e\"",
        "kill -0 $$ && pwd",
        "exit 255",
    ],
)
def test_a_line_means_what_bash_makes_of_it(node: OneNode, tmp_path: Path, line: str) -> None:
    (tmp_path / "not-executable").write_text("echo never\n")
    script = tmp_path / "no-shebang"
    script.write_text('echo "$# args: $*"\n')
    script.chmod(0o755)
    attempt = node.run(line)
    assert (attempt.exit_code, attempt.stdout, attempt.stderr) == bash(line, tmp_path)
    assert attempt.signal == 0
    if attempt.exit_code:
        assert (attempt.state, attempt.failure) == (State.FAILED, FailureClass.EXIT)
    else:
        assert (attempt.state, attempt.failure) == (State.SUCCEEDED, FailureClass.NONE)


def test_a_missing_program_is_127_in_the_words_of_bash(node: OneNode) -> None:
    attempt = node.run("no-such-program 1 2")
    assert attempt.exit_code == 127
    assert b"no-such-program: command not found" in attempt.stderr


@pytest.mark.parametrize("line", [b"echo \xff\xfe\x80", b"printf %s '\xe9\xff'"])
def test_bytes_of_any_encoding(node: OneNode, tmp_path: Path, line: bytes) -> None:
    assert node.run(line).stdout == bash(line, tmp_path)[1] != b""


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM, signal.SIGSEGV])
def test_death_by_signal(node: OneNode, number: int) -> None:
    attempt = node.run(f"kill -{int(number)} $$")
    assert (attempt.state, attempt.failure) == (State.FAILED, FailureClass.SIGNAL)
    assert (attempt.exit_code, attempt.signal) == (0, number)


def test_who_and_what_is_reported(node: OneNode) -> None:
    before = time.time()
    # The launcher here is a fork of this process, and what is no more than it ever had is not told.
    least_kib = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss + (300 << 10)
    code = f"import os, time\nx = bytearray({least_kib << 10})\nwhile time.process_time() < 0.2: pass"
    burn = f"{sys.executable} -c '{code}'"
    task = node.start("true", burn, attempt=3)
    node.wait([task, task + 1])
    short, long = node.ended[task], node.ended[task + 1]
    assert (long.lease, long.job, long.attempt, long.cpus) == (task, task, 3, 1)
    assert {short.slot, long.slot} == {0, 1}
    assert before <= long.started < long.ended <= time.time()
    assert 0.15 < long.user_s + long.system_s < 5
    assert least_kib < long.max_rss_kib < least_kib + (200 << 10)
    assert short.max_rss_kib == 0, "what is seen of it is the memory of its launcher"


def test_disk_bytes_are_counted(node: OneNode, tmp_path: Path) -> None:
    attempt = node.run("dd if=/dev/zero of=file bs=1M count=2 conv=fsync")
    assert attempt.exit_code == 0
    assert attempt.write_bytes >= 2 << 20 or not _on_disk(tmp_path)


def _on_disk(path: Path) -> bool:
    """Whether writes there reach a block device; a tmpfs or overlay may count nothing."""
    return os.major(path.stat().st_dev) != 0


def test_a_line_of_a_mebibyte(node: OneNode) -> None:
    text = "x" * ((1 << 20) - 20)
    attempt = node.run(f"printf %s '{text}'; exit 4")
    assert (attempt.exit_code, attempt.stdout, attempt.stderr) == (4, text.encode(), b"")
    many = " ".join(f"word{n}" for n in range(100_000))
    attempt = node.run(f"printf '%s ' $0 $# {many}; cat")
    assert attempt.stdout.decode() == f"bash 0 {many} "
    attempt = node.run(f"ls -l /proc/self/fd/; : {text}")
    assert b" 9 ->" not in attempt.stdout and b"/dev/null" in attempt.stdout
    words = " ".join("y" * 1000 for _ in range(1000))
    assert node.run(f"/bin/echo {words}").stdout.decode() == words + "\n"


def test_the_environment(make_node: Make, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    launch = ["PMI_RANK", "PMI_FD", "PMI2_X", "PMIX_RANK", "OMPI_COMM_WORLD_RANK", "OMPI_MCA_ess", "PRTE_LAUNCHED"]
    launch += ["HYDI_CONTROL_FD", "MPI_LOCALNRANKS", "MPI_LOCALRANKID", "OPAL_PREFIX", "PALS_RANKID", "FLUX_TASK_RANK"]
    launch += ["SLURM_STEP_ID", "SLURM_STEPID", "SLURM_SRUN_COMM_PORT", "SLURM_GTIDS"]
    launch += ["GFORTRAN_UNBUFFERED_PRECONNECTED"]
    users = ["OMPI_MCA_btl", "MPIR_CVAR_X", "SLURM_JOB_ID", "SLURM_CONF", "SLURM_JOB_NODELIST", "OMP_NUM_THREADS"]
    for name in launch + users:
        monkeypatch.setenv(name, "5")
    node = make_node(slots=4)
    task = node.start_tasks([TaskText(b"env -0", b"molecule 12"), TaskText(b"env -0")], Needs(2), attempt=4)
    node.wait([task, task + 1])
    seen = [
        dict(line.split(b"=", 1) for line in node.ended[number].stdout.split(b"\0") if line)
        for number in (task, task + 1)
    ]
    for env in seen:
        assert not [name for name in launch if os.fsencode(name) in env]
        assert all(env[os.fsencode(name)] == b"5" for name in users)
        assert env[b"SLURM_OVERLAP"] == b"1"
        assert env[b"MPIFARM_JOB"] == b"spectra"
        assert env[b"MPIFARM_ATTEMPT"] == b"4"
        assert env[b"MPIFARM_CPUS"] == env[b"SLURM_CPUS_PER_TASK"] == b"2"
        assert env[b"MPIFARM_NODE"] == b"node7"
        assert env[b"PWD"] == os.fsencode(tmp_path)
    assert [env[b"MPIFARM_TASK"] for env in seen] == [b"%d" % task, b"%d" % (task + 1)]
    assert [env[b"MPIFARM_ENTRY"] for env in seen] == [b"molecule 12", b"env -0"]
    assert {env[b"MPIFARM_SLOT"] for env in seen} == {b"0", b"2"}


@pytest.mark.parametrize("given", ["", "7"])
def test_threads_are_as_many_as_cores_unless_the_run_was_told(
    make_node: Make, monkeypatch: pytest.MonkeyPatch, given: str
) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", given)
    node = make_node(slots=2)
    tell = "echo $OMP_NUM_THREADS"
    narrow, wide = node.start(tell), node.start(tell, cpus=2)
    node.wait([narrow, wide])
    assert [node.ended[task].stdout.decode().strip() for task in (narrow, wide)] == [given or "1", given or "2"]


def test_a_killed_python_task_has_not_lost_what_it_printed(node: OneNode) -> None:
    code = "import time; print(1); time.sleep(1000)"
    task = node.start(f'{sys.executable} -c "{code}"', limit_s=0.5)
    node.wait([task])
    assert node.ended[task].stdout == b"1\n"


def test_where_an_srun_of_a_task_starts_its_processes(make_node: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {"SLURM_JOB_ID": "7", "SLURM_JOB_NUM_NODES": "2", "SLURMD_NODENAME": "mf2"}.items():
        monkeypatch.setenv(name, value)
    node = make_node(slots=1)
    assert set(node.run("cat $SLURM_HOSTFILE").stdout.split()) == {b"mf2"}


def test_a_long_entry_is_no_variable_of_the_next(make_node: Make) -> None:
    node = make_node(slots=1)
    tell = b"echo ${MPIFARM_ENTRY-none}"
    task = node.start_tasks([TaskText(tell, b"short"), TaskText(tell, b"x" * 200_000), TaskText(tell, b"")])
    node.wait(range(task, task + 3))
    assert [node.ended[n].stdout for n in range(task, task + 3)] == [b"short\n", b"none\n", b"\n"]


def test_signals_descriptors_and_group_of_a_task(node: OneNode) -> None:
    status = dict(line.split(":\t") for line in node.run("cat /proc/self/status").stdout.decode().splitlines())
    internal = 3 << 31  # 32 and 33 are glibc's own; its posix_spawn ignores them in every program
    assert [int(status[name], 16) & ~internal for name in ("SigBlk", "SigIgn", "SigCgt")] == [0, 0, 0]
    code = "import os; print(sorted(os.listdir('/proc/self/fd')), os.getpgrp() == os.getpid())"
    assert node.run(f'{sys.executable} -c "{code}"').stdout == b"['0', '1', '2', '3'] True\n"
    assert node.run("readlink /proc/self/fd/0").stdout == b"/dev/null\n"


def test_a_missing_directory(node: OneNode, tmp_path: Path) -> None:
    gone = tmp_path / "gone"
    task = node.start("true", "echo here", cwd=gone)
    node.wait([task, task + 1])
    for attempt in (node.ended[task], node.ended[task + 1]):
        assert (attempt.state, attempt.failure) == (State.FAILED, FailureClass.LAUNCH)
        assert (
            attempt.stderr.decode() == f"mpifarm: cannot enter the job's directory {gone}: No such file or directory\n"
        )
    gone.mkdir()
    task = node.start("pwd", cwd=gone)
    node.wait([task])
    assert node.ended[task].stdout.decode() == f"{gone}\n"


def test_a_task_wider_than_the_node(node: OneNode) -> None:
    task = node.start("true", cpus=3)
    node.wait([task])
    attempt = node.ended[task]
    assert (attempt.state, attempt.failure, attempt.cpus) == (State.FAILED, FailureClass.LAUNCH, 3)
    assert attempt.stderr == b"mpifarm: the task needs more than this node has: 3 cores of 2 cores\n"


def test_no_process_to_spare(make_node: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    """At a limit on processes (EAGAIN) attempts wait for their turn instead of failing in a row."""
    refused = iter(range(5))

    def reluctant(program: bytes, argv: tuple[bytes, ...], env: Environment, actions: FileActions) -> int:
        if next(refused, None) is not None:
            raise BlockingIOError(11, "Resource temporarily unavailable")
        return spawn(program, argv, env, actions)

    monkeypatch.setattr("mpifarm.launch.spawning.spawn", reluctant)
    node = make_node()
    task = node.start(*["echo here"] * 10)
    node.wait(range(task, task + 10))
    assert {attempt.stdout for attempt in node.ended.values()} == {b"here\n"}


def test_many_short_tasks(make_node: Make) -> None:
    node = make_node(slots=3)
    task = node.start(*[f"/bin/echo {n}" for n in range(500)])
    node.wait(range(task, task + 500))
    assert [node.ended[task + n].stdout for n in range(500)] == [b"%d\n" % n for n in range(500)]
    assert {attempt.slot for attempt in node.ended.values()} == {0, 1, 2}
