"""`mpifarm.open_run` and `mpifarm.open_job`, by the examples in their docstrings and beyond."""

from __future__ import annotations

import doctest
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import mpifarm
from mpifarm.api import outputs
from mpifarm.core.model import FailureClass, JobId, State
from mpifarm.queue.client import Client
from tests.reporting.rows import FakeClient, a_job, a_task
from tests.reporting.run_files import Scribe

FAILED = {"state": State.FAILED, "failure": FailureClass.EXIT, "exit_code": 1}


class OpenClient(FakeClient):
    closed = False

    def __enter__(self) -> OpenClient:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        self.closed = True


@pytest.fixture
def scribe(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Scribe]:
    """The run file of the examples."""
    monkeypatch.chdir(tmp_path)
    scribe = Scribe(tmp_path / "mpifarm-run-1.h5")
    yield scribe
    scribe.close()


@pytest.fixture
def client(scribe: Scribe, monkeypatch: pytest.MonkeyPatch) -> OpenClient:
    """The job of the examples."""
    written = scribe.write({3: (b"three\n", b""), 1: (b"one\n", b"")})
    written += scribe.write({2: (b"", b"cannot read 2\n")}, **FAILED)
    client = OpenClient(a_job(total=3, succeeded=2, failed=1))
    client.lines = [
        a_task(row.task, state=State(row.state).name.lower(), failure="exit" if row.exit_code else "none",
               exit_code=row.exit_code, file=str(scribe.path), file_row=number, lease=row.lease, attempt=1)
        for row, number in sorted(written, key=lambda each: each[0].task)
    ]  # fmt: skip
    monkeypatch.setattr(Client, "connect", lambda _dsn: client)
    return client


@pytest.mark.parametrize("example", [outputs.open_run, outputs.open_job])
def test_examples(example: Any, client: OpenClient) -> None:
    runner = doctest.DocTestRunner()
    (found,) = doctest.DocTestFinder(recurse=False).find(example, globs={})
    said: list[str] = []
    runner.run(found, out=said.append)
    assert runner.summarize(verbose=False).failed == 0, "".join(said)
    assert found.examples
    assert client.closed == (example is outputs.open_job)


def test_importing_mpifarm_stays_light() -> None:
    code = "import mpifarm, sys; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=30, check=True)
    assert not {"numpy", "h5py", "psycopg", "click", "mpi4py", "mpifarm.api"} & set(done.stdout.split())
    with pytest.raises(AttributeError, match="open_task"):
        mpifarm.open_task  # type: ignore[attr-defined]  # noqa: B018


def test_a_run_file(scribe: Scribe, client: OpenClient) -> None:
    assert client.lines
    with mpifarm.open_run(scribe.path) as run:
        assert len(run) == 3
        assert run.attributes["run"] == "1"
        first, second, _ = run
        assert (first.task, first.job, first.state, first.seconds, first.node) == (1, "12", "succeeded", 1.5, "node1")
        assert (second.failure, second.exit_code, second.command) == ("exit", 1, None)
        assert run.stdout(first) == b"one\n"
        with pytest.raises(mpifarm.FarmError, match="no ended attempt of task 7"):
            run.stdout(7)
        scribe.write({7: (b"seven\n", b"")})
        run.refresh()
        assert run.stdout(7) == b"seven\n"
        scribe.job = JobId(13)
        scribe.write({7: (b"of another job\n", b"")})
        run.refresh()
        with pytest.raises(mpifarm.FarmError, match="several jobs"):
            run.stdout(7)
        assert [run.stdout(task) for task in run.tasks() if task.task == 7] == [b"seven\n", b"of another job\n"]
    with pytest.raises(mpifarm.FarmError, match=r"no-such\.h5"):
        mpifarm.open_run("no-such.h5")


def test_the_last_final_attempt_is_shown(scribe: Scribe) -> None:
    for attempt, state in enumerate((State.RETURNED, State.FAILED, State.SUCCEEDED, State.RETURNED), 1):
        scribe.write({1: (b"%d" % attempt, b"")}, attempt=attempt, state=state)
    with mpifarm.open_run(scribe.path) as run:
        assert [(task.attempt, run.stdout(task)) for task in run] == [(3, b"3")]


def test_a_job(client: OpenClient, scribe: Scribe) -> None:
    client.lines += [a_task(4, state="cancelled", failure="cancelled"), a_task(5, state="running")]
    client.all_jobs = [a_job(total=5)]
    with mpifarm.open_job("scan") as job:
        assert [task.state for task in job] == ["succeeded", "failed", "succeeded", "cancelled", "running"]
        assert job.name == "scan"
        assert job.stdout(4) == b""
        with pytest.raises(mpifarm.FarmError, match="task 5 of scan has no outcome yet"):
            job.stdout(5)
        with pytest.raises(mpifarm.FarmError, match="no task 6"):
            job.stdout(6)
        with pytest.raises(mpifarm.FarmError, match="no field is called"):
            job.tasks("colour = red")
        # Asking for other tasks within a loop over tasks is no trouble.
        assert [job.stdout(3) for _ in job.tasks("task < 3")] == [b"three\n"] * 2
        assert [task.command for task in job.tasks("task = 5")] == [b"./simulate 5"]
        ((_, number),) = scribe.write({8: (bytes(600_000), b"")})
        big = next(job.tasks())._replace(place=(str(scribe.path), number))
        assert [len(piece) for piece in job.stream(big)] == [262144, 262144, 75712]
    with pytest.raises(mpifarm.FarmError, match="no job is called"):
        mpifarm.open_job("scam")
    assert client.closed
