"""submit, report and tasks on a real queue and a real run file; the run between them is played by its verbs."""

from __future__ import annotations

import fcntl
import json
import os
import signal
import socket
import struct
import subprocess
import sys
import termios
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

from mpifarm.cli import main
from mpifarm.core.model import FailureClass, State
from mpifarm.core.needs import Needs
from mpifarm.core.protocol.verbs import Batch, RunInfo
from mpifarm.queue.run_verbs import PostgresQueue
from mpifarm.server.dsn import Dsn
from tests.reporting.run_files import Scribe

pytestmark = pytest.mark.postgres
ROOT = Path(__file__).parents[2]
NODES = ("node1", "node2")


class Answer(NamedTuple):
    code: int
    out: bytes
    err: str


Typed = Callable[..., Answer]


@pytest.fixture
def typed(
    pg_dsn: Dsn, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfdbinary: pytest.CaptureFixture[bytes]
) -> Typed:
    monkeypatch.setenv("MPIFARM_DSN", pg_dsn.text)
    monkeypatch.chdir(tmp_path)

    def run(*argv: str) -> Answer:
        code = main.main(argv)
        out, err = capfdbinary.readouterr()
        return Answer(code, out, err.decode())

    return run


class PlayedRun:
    """One run that is going on: `work(n)` ends the next n tasks. Every fifth one fails."""

    def __init__(self, dsn: Dsn, path: Path) -> None:
        self._queue = PostgresQueue.connect(dsn)
        info = RunInfo(
            socket.gethostname(), os.getpid(), "boot", "slurm 99", "mpifarm run", "0", 2, 4, 8, node_names=NODES
        )
        self._run = self._queue.open_run(info)
        self._path = path
        self._scribe: Scribe | None = None

    def work(self, count: int) -> None:
        (block,) = self._queue.lease(self._run, count, 1 << 20, Needs(64)).blocks
        if self._scribe is None:
            self._scribe = Scribe(self._path, lease=block.lease, job=block.job)
            self._queue.name_file(self._run, str(self._path))
        self._scribe.lease, self._scribe.job = block.lease, block.job
        batch = Batch(done=[block.lease])
        for task in range(block.lo, block.hi):
            bad = task % 5 == 0
            ended = {"state": State.FAILED, "failure": FailureClass.EXIT, "exit_code": 3} if bad else {}
            outputs = {task: (b"out %d\n\xff" % task, b"bad %d\n" % task if bad else b"")}
            ((row, number),) = self._scribe.write(outputs, **ended)
            batch.outcomes.append((row, number, outputs[task][1] or None))
        assert not self._queue.record(self._run, batch)

    def end(self) -> None:
        self._queue.close_run(self._run)

    def close(self) -> None:
        self._queue.close()
        if self._scribe is not None:
            self._scribe.close()


@pytest.fixture
def played(pg_dsn: Dsn, tmp_path: Path) -> Iterator[PlayedRun]:
    run = PlayedRun(pg_dsn, tmp_path / "run-1.h5")
    yield run
    run.close()


def test_from_submit_to_outputs(typed: Typed, played: PlayedRun, tmp_path: Path) -> None:
    (tmp_path / "scan.txt").write_bytes(b"".join(b"echo %d \xff\n" % task for task in range(1, 21)))
    said = typed("submit", "scan.txt")
    assert said.code == 0, said
    assert said.out.startswith(b"job scan: 20 tasks queued in ")
    assert typed("submit", "scan.txt").out.startswith(b"job scan-2: ")
    assert typed("report", "scan").out.splitlines()[3] == b"tasks     20: 20 pending"

    played.work(12)  # and it goes on
    lines = typed("report", "scan").out.decode().splitlines()
    assert lines[0] == "job scan (id 1): pending"
    assert lines[3] == "tasks     20: 8 pending, 10 succeeded, 2 failed"
    assert lines[4] == "duration  p50 1.5s, p95 1.5s, max 1.5s"
    assert lines[7].split() == ["exit", "2", "scan.5", "exit", "3", "bad", "5"]
    assert lines[10].split()[:2] == ["1", "live"]
    assert lines[10].endswith(str(tmp_path / "run-1.h5"))
    assert lines[-1] == "next: mpifarm tasks scan --state failed"

    assert typed("report", "scan", "--tasks", "1-3,12") == (0, b"out 1\n\xffout 2\n\xffout 3\n\xffout 12\n\xff", "")
    assert typed("report", "scan", "--tasks", "5", "--both") == (0, b"out 5\n\xffbad 5\n", "")
    assert typed("report", "1", "--tasks", "12-14") == (1, b"out 12\n\xff", "mpifarm: task 13-14: no outcome yet\n")

    played.work(8)
    played.end()
    said = typed("report", "scan", "--extract", "outputs")
    assert said == (0, b"", "")
    assert sorted(path.name for path in (tmp_path / "outputs").iterdir()) == sorted(
        [f"{task}.out" for task in range(1, 21)] + [f"{task}.err" for task in range(5, 21, 5)]
    )
    assert (tmp_path / "outputs" / "20.err").read_bytes() == b"bad 20\n"
    seen = json.loads(typed("report", "scan", "--json").out)
    assert seen["state"] == "failed"
    assert seen["failures"] == {"exit": 4}
    assert (seen["runs"][0]["state"], seen["runs"][0]["succeeded"], seen["runs"][0]["failed"]) == ("ended", 16, 4)
    assert [job["name"] for job in json.loads(typed("report", "--json").out)] == ["scan", "scan-2"]
    assert len(typed("report").out.splitlines()) == 3


def test_tasks_of_a_job(typed: Typed, played: PlayedRun, tmp_path: Path) -> None:
    (tmp_path / "scan.txt").write_bytes(b"".join(b"echo %d \xff\n" % task for task in range(1, 11)))
    typed("submit", "scan.txt")
    played.work(7)
    seen = json.loads(typed("tasks", "scan", "--json").out)
    assert [task["state"] for task in seen] == ["succeeded"] * 4 + ["failed"] + ["succeeded"] * 2 + ["pending"] * 3
    assert seen[4] == {
        "task": 5,
        "state": "failed",
        "class": "exit",
        "exit_code": 3,
        "signal": None,
        "seconds": 1.5,
        "started": 1e9,
        "node": "node1",
        "attempts": 1,
        "left": None,
        "command": "echo 5 \udcff",
        "entry": None,
    }
    assert (seen[7]["seconds"], seen[7]["node"], seen[7]["attempts"], seen[7]["class"]) == (None, None, 0, None)
    assert typed("tasks", "last", "--state", "FAILED").out == b"5\tfailed\texit 3\t1.500\tnode1\t1\techo 5 \\xff\n"
    assert typed("tasks", "scan", "--state", "done", "--tasks", "4-6").out.count(b"\n") == 2


def test_names(typed: Typed, tmp_path: Path) -> None:
    (tmp_path / "scan.txt").write_text("true\n")
    assert typed("submit", "scan.txt", "--name", "spectra").code == 0
    said = typed("submit", "scan.txt", "--name", "spectra")
    assert said.code == 2
    assert "spectra" in said.err
    said = typed("report", "spectre")
    assert said.code == 2
    assert "spectra" in said.err
    assert typed("submit", "--array", "1-3", "--", "./simulate.sh", "{}").out.startswith(b"job simulate: 3 tasks")


def test_a_bad_line_queues_nothing(typed: Typed, tmp_path: Path) -> None:
    (tmp_path / "scan.txt").write_text("true\n" * 100_000 + "echo 'open\n")
    said = typed("submit", "scan.txt")
    assert said.code == 2
    assert "scan.txt:100001:6:" in said.err
    assert typed("report", "--json").out.strip() == b"[]"


def test_ctrl_c_in_the_middle_queues_nothing(typed: Typed, pg_dsn: Dsn) -> None:
    process = subprocess.Popen(
        [sys.executable, "-m", "mpifarm", "submit", "-"],
        env=os.environ | {"PYTHONPATH": str(ROOT), "MPIFARM_DSN": pg_dsn.text},
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    )  # fmt: skip
    assert process.stdin is not None
    process.stdin.write(b"echo x\n" * 100_000)
    process.stdin.flush()
    assert _waits_for_more(process), "it has read everything and sleeps"
    process.send_signal(signal.SIGINT)
    # stdin stays open: the signal must end the reading, not the end of the file.
    assert process.wait(timeout=30) == 130
    out, err = process.communicate(timeout=30)
    assert (out, err) == (b"", b"mpifarm: interrupted: nothing was queued\n")
    assert typed("report", "--json").out.strip() == b"[]"


def _waits_for_more(process: subprocess.Popen[bytes]) -> bool:
    """Whether its stdin is empty and it sleeps, within 30 s."""
    assert process.stdin is not None
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline:
        (unread,) = struct.unpack("i", fcntl.ioctl(process.stdin, termios.FIONREAD, bytes(4)))
        state = Path(f"/proc/{process.pid}/stat").read_text().rpartition(")")[2].split()[0]
        if unread == 0 and state == "S":
            return True
        os.sched_yield()
    return False
