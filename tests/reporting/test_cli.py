"""The command line: what is understood, what is refused and how, and which code each ending has."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from mpifarm import __version__
from mpifarm.cli import main
from mpifarm.errors import QueueError, UsageError
from mpifarm.rank.options import RunOptions
from tests.reporting.conftest import Said
from tests.reporting.rows import FakeClient, a_failure, a_job, a_run, a_task
from tests.reporting.run_files import Scribe

Typed = Callable[..., Said]
COMMANDS = ["submit", "run", "report", "tasks"]


# Help and version.


@pytest.mark.parametrize("command", COMMANDS)
@pytest.mark.parametrize("flag", ["-h", "--help"])
def test_every_help_has_an_example(typed: Typed, command: str, flag: str) -> None:
    said = typed(command, flag)
    assert said.code == 0
    assert "Examples:" in said.out
    assert said.out.count(f"mpifarm {command}") >= 2


def test_help_lists_commands_in_the_order_of_use(typed: Typed) -> None:
    said = typed("--help")
    assert said.code == 0
    places = [said.out.index(f"\n  {command} ") for command in COMMANDS]
    assert places == sorted(places)


def test_without_a_command_help_is_shown(typed: Typed) -> None:
    assert typed() == typed("--help")


def test_version(typed: Typed) -> None:
    assert typed("--version") == Said(0, f"mpifarm {__version__}\n", "")


def test_help_is_quick() -> None:
    """0.05 s of CPU on the machine this was written on. The best of three: the machine may be busy."""
    times = []
    for _ in range(3):
        before = os.times()
        subprocess.run([sys.executable, "-m", "mpifarm", "--help"], capture_output=True, timeout=30, check=True)
        after = os.times()
        times.append(after.children_user + after.children_system - before.children_user - before.children_system)
    assert min(times) < 0.3


# Mistakes.


@pytest.mark.parametrize(
    ("argv", "said"),
    [
        (["sumbit"], "No such command 'sumbit'"),
        (["submit"], "which tasks?"),
        (["submit", "--nmae", "x", "tasks.txt"], "--nmae"),
        (["submit", "./prog", "{}"], "mpifarm submit -- ./prog {}"),
        (["submit", "tasks.txt", "--", "echo"], "not both"),
        (["submit", "tasks.txt", "--array", "1-3"], "want a command after --"),
        (["submit", "--time-limit", "90", "tasks.txt"], "90s"),
        (["submit", "--cpus", "0", "tasks.txt"], "--cpus"),
        (["submit", "no-such-file.txt"], "cannot read the task file no-such-file.txt"),
        (["report", "--tasks", "1"], "of which job?"),
        (["report", "scan", "--tasks", "0"], "--tasks"),
        (["report", "scan", "--tasks", "99-101"], "job scan has no task 101: it has tasks 1 to 100"),
        (["report", "scan", "--tasks", "200-201"], "job scan has no task 200"),
        (["report", "scan", "--tasks", "1", "--json"], "not JSON"),
        (["report", "scan", "--stderr"], "go with --tasks"),
        (["report", "scan", "--tasks", "1", "--stderr", "--both"], "not the two of them"),
        (["report", "scan", "--force"], "--extract"),
        (["report", "scan", "--template", "{task}.{stream}"], "--template goes with --extract"),
        (["report", "scan", "--extract", "o", "--template", "../{task}.{stream}"], "outside of the directory"),
        (["report", "scan", "--extract", "o", "--grep", "x"], "not the two of them"),
        (["report", "scan", "--follow"], "--follow goes with --tasks"),
        (["report", "scan", "--tasks", "1", "--follow", "--attempt", "all"], "--follow goes with"),
        (["report", "scan", "--where", "task = 1"], "--where and --attempt go with"),
        (["report", "scan", "--tasks", "1", "--attempt", "one"], "whole number from 1"),
        (["report", "--grep", "x"], "of which job?"),
        (["report", "scan", "--grep", "(x"], "no regular expression"),
        (["report", "scan", "--grep", "x", "--where", "seconds > long"], "\n    seconds > long\n              ^"),
        (["report", "scan", "--grep", "x", "--json"], "not JSON"),
        (["tasks", "scan", "--where", "secs > 1"], "did you mean seconds?"),
        (["tasks", "scan", "--format", "xml"], "'xml'"),
        (["report", "scam"], "no job is called scam"),
        (["tasks"], "JOB"),
        (["tasks", "scan", "--state", "dead"], "'dead'; there are waiting, pending"),
    ],
)
def test_a_mistake_is_said_in_one_place_with_exit_code_2(
    typed: Typed, client: FakeClient, argv: list[str], said: str
) -> None:
    client.all_jobs = [a_job()]
    answer = typed(*argv)
    assert answer.code == 2
    assert answer.err.startswith("mpifarm: ")
    assert said in answer.err
    assert answer.out == ""
    assert "Traceback" not in answer.err
    assert client.names is None, "nothing may be queued"


def test_a_job_that_is_called_like_a_task(typed: Typed, client: FakeClient) -> None:
    client.all_jobs = [a_job("a.7")]
    assert "say which tasks with --tasks" in typed("report", "a.7", "--follow").err
    assert typed("report", "a.7").code == 0


def test_a_queue_that_fails_has_a_code_of_its_own(
    typed: Typed, client: FakeClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail() -> list[object]:
        raise QueueError("db.site does not answer")

    monkeypatch.setattr(client, "jobs", fail)
    assert typed("report") == Said(4, "", "mpifarm: db.site does not answer\n")


def test_a_bug_is_admitted_and_can_be_seen(typed: Typed, client: FakeClient, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail() -> list[object]:
        raise KeyError("x")

    monkeypatch.setattr(client, "jobs", fail)
    said = typed("report")
    assert said.code == main.BUG
    assert "Traceback" not in said.err
    assert "MPIFARM_DEBUG=1" in said.err
    monkeypatch.setenv("MPIFARM_DEBUG", "1")
    assert "Traceback" in typed("report").err


def test_interrupted(typed: Typed, client: FakeClient, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt() -> list[object]:
        raise KeyboardInterrupt

    monkeypatch.setattr(client, "jobs", interrupt)
    assert typed("report") == Said(130, "", "")


def test_a_full_disk_is_no_bug(typed: Typed, client: FakeClient, tmp_path: Path) -> None:
    client.all_jobs = [a_job(succeeded=100)]
    (tmp_path / "file").touch()
    said = typed("report", "scan", "--extract", str(tmp_path / "file" / "sub"))
    assert said.code == 3
    assert said.err == f"mpifarm: {tmp_path}/file/sub: Not a directory\n"


@pytest.mark.slow
def test_a_reader_that_has_seen_enough_is_no_error(tmp_path: Path) -> None:
    program = (
        "import sys; from mpifarm.cli import main; from tests.reporting.rows import FakeClient, a_job, a_task\n"
        "from contextlib import nullcontext; from mpifarm.queue.client import Client\n"
        "client = FakeClient(a_job()); client.lines = [a_task(n) for n in range(200_000)]\n"
        "Client.connect = lambda dsn: nullcontext(client)\n"
        "sys.exit(main.main(['tasks', 'scan']))"
    )
    shell = f'{sys.executable} -c "$PROGRAM" 2> {tmp_path}/err | head -n 1'
    environ = os.environ | {"PROGRAM": program}
    root = Path(__file__).parents[2]
    done = subprocess.run(["bash", "-c", shell], env=environ, cwd=root, capture_output=True, timeout=60, check=True)
    assert done.stdout == b"0\tpending\t\t\t\t0\t./simulate 0\n"
    assert (tmp_path / "err").read_bytes() == b""


# run


def test_run_options() -> None:
    assert main.parse_run([]) == RunOptions()
    argv = ["--dsn", "D", "--output", "out", "--grace", "2m", "--exit-code", "--cpus", "8", "--local", "4", "-q"]
    assert main.parse_run(argv) == RunOptions(
        dsn="D", output=Path("out"), grace_s=120.0, exit_code=True, cpus=8, local=4, quiet=True
    )


def test_run_help_and_mistakes_end_it(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as leave:
        main.parse_run(["--help"])
    assert leave.value.code == 0
    assert "mpiexec -n 8 mpifarm run" in capsys.readouterr().out
    with pytest.raises(UsageError, match="see: mpifarm run --help"):
        main.parse_run(["--gracious", "1"])
    with pytest.raises(UsageError, match="extra argument"):
        main.parse_run(["scan"])


# report and tasks


def test_report_of_all_jobs(typed: Typed, client: FakeClient) -> None:
    assert typed("report").out == "no jobs yet\nnext: mpifarm submit tasks.txt\n"
    client.all_jobs = [a_job(pending=100)]
    assert typed("report").out.splitlines()[1].split()[:4] == ["12", "scan", "pending", "100"]
    (seen,) = json.loads(typed("report", "--json").out)
    assert (seen["name"], seen["tasks"]["pending"], seen["failures"]) == ("scan", 100, {})


def test_report_of_a_job(typed: Typed, client: FakeClient) -> None:
    client.all_jobs = [a_job(state="failed", failed=3, succeeded=97)]
    client.all_failures = [a_failure("timeout", 3, 8, stderr_tail=b"slow")]
    client.all_runs = [a_run(live=False, ended=1.0)]
    said = typed("report", "last")
    assert said.code == 0
    assert "timeout      3  scan.8   timeout  slow" in said.out
    assert said.out.endswith("next: mpifarm tasks scan --state failed\n")
    assert json.loads(typed("report", "scan", "--json").out)["failures"] == {"timeout": 3}


def test_report_of_outputs(client: FakeClient, tmp_path: Path, capfdbinary: pytest.CaptureFixture[bytes]) -> None:
    scribe = Scribe(tmp_path / "run-1.h5")
    ((row, number),) = scribe.write({3: (b"\x00\xff no line end", b"warned\n")})
    client.all_jobs = [a_job(succeeded=1, running=99)]
    client.lines = [
        a_task(3, state="succeeded", file=str(scribe.path), file_row=number, lease=row.lease, attempt=1),
        a_task(4, state="running"),
    ]
    assert main.main(["report", "scan", "--tasks", "3"]) == 0
    assert capfdbinary.readouterr() == (b"\x00\xff no line end", b"")
    assert main.main(["report", "scan", "--tasks", "3-4", "--both"]) == 1
    assert capfdbinary.readouterr() == (b"\x00\xff no line endwarned\n", b"mpifarm: task 4: no outcome yet\n")
    assert main.main(["report", "scan", "--extract", str(tmp_path / "all")]) == 1
    assert capfdbinary.readouterr() == (b"", b"mpifarm: 99 tasks of scan have no outcome yet\n")
    assert sorted(path.name for path in (tmp_path / "all").iterdir()) == ["3.err", "3.out"]
    scribe.close()


def test_tasks(typed: Typed, client: FakeClient) -> None:
    client.all_jobs = [a_job()]
    client.lines = [a_task(1, state="succeeded", seconds=0.25), a_task(2, state="failed", failure="oom"), a_task(3)]
    assert [line.split("\t")[:4] for line in typed("tasks", "scan").out.splitlines()] == [
        ["1", "succeeded", "", "0.250"],
        ["2", "failed", "oom", ""],
        ["3", "pending", "", ""],
    ]
    assert [line["task"] for line in json.loads(typed("tasks", "scan", "--tasks", "2-3", "--json").out)] == [2, 3]


@pytest.mark.parametrize(
    ("word", "state"),
    [("done", "succeeded"), ("COMPLETED", "succeeded"), ("FAILED", "failed"), ("Pending", "pending")],
)
def test_states_have_the_names_of_the_schedulers_too(typed: Typed, client: FakeClient, word: str, state: str) -> None:
    client.all_jobs = [a_job()]
    assert typed("tasks", "scan", "--state", word).code == 0
    assert client.asked_states == [state]
