"""What people call jobs, tasks, tags and runs: what a word means is plain, or it is refused; it never matches silently
nothing."""

from __future__ import annotations

import os
import threading
import warnings
from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest

import mpifarm
from mpifarm.cli.main import main
from mpifarm.commands.meant import choose
from mpifarm.commands.wait import until_ended
from mpifarm.core.model import Part, State, TaskText
from mpifarm.core.needs import Needs
from mpifarm.core.protocol.facts import Terms
from mpifarm.errors import UsageError
from mpifarm.queue import Batch
from mpifarm.queue.client import Client
from mpifarm.queue.run_verbs import PostgresQueue
from mpifarm.server.dsn import Dsn
from tests.fix_farm import wait_for
from tests.queue.worlds import HERE, ended, one

pytestmark = pytest.mark.postgres


@pytest.fixture
def client(pg_dsn: Dsn, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Client]:
    """Of a queue with job 1, scan, of three tasks."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MPIFARM_DSN", pg_dsn.text)
    with Client.connect(pg_dsn) as client:
        submit(client, "scan", 3)
        yield client


def submit(client: Client, name: str, count: int = 1, **terms: object) -> None:
    part = Part(Needs(), [TaskText(b"true")] * count)
    client.submit_on(Terms(name, **terms), name, os.fsencode(Path.cwd()), [part])  # type: ignore[arg-type]


def fail_one(dsn: Dsn) -> None:
    """The first task of the first job."""
    queue = PostgresQueue.connect(dsn)
    run = queue.open_run(HERE)
    block = one(queue, run, 1)
    queue.record(run, Batch([ended(block, 1, State.FAILED)], done=[block.lease]))
    queue.close()


VERBS = {
    "report": [],
    "tasks": [],
    "explain": [],
    "retry": [],
    "rerun": ["--force"],
    "cancel": [],
    "set": ["--hold"],
    "wait": ["--timeout", "1s"],
    "verify": [],
    "drop": ["--yes", "typo"],
    "export": ["out.h5"],
}


@pytest.mark.parametrize("word", ["scam", "17", "scam.1", "scan.4", "17.1"])
@pytest.mark.parametrize("verb", VERBS)
def test_a_name_that_is_none_is_refused(
    client: Client, capsys: pytest.CaptureFixture[str], verb: str, word: str
) -> None:
    before = client.jobs()
    assert main([verb, word, *VERBS[verb]]) == (3 if verb == "wait" else 2)
    said = capsys.readouterr()
    assert word.split(".")[0] in said.err and "scan" in said.err and not said.out
    assert client.jobs() == before and not list(Path.cwd().iterdir())


@pytest.mark.parametrize("word", ["scam", "17", "scan.4", "scam.1"])
@pytest.mark.parametrize("option", ["--after", "--afterany", "--job"])
def test_a_submit_names_jobs_that_are_there(
    client: Client, capsys: pytest.CaptureFixture[str], option: str, word: str
) -> None:
    assert main(["submit", option, word, "--", "true"]) == 2
    assert "scan" in capsys.readouterr().err
    assert len(client.jobs()) == 1


def test_a_run_names_jobs_that_are_there(client: Client, pg_dsn: Dsn) -> None:
    submit(client, "other", tags={"gpu": "a100"})
    queue = PostgresQueue.connect(pg_dsn)
    assert queue.names_of(["1", "last", "scan"]) == ("scan", "other") and queue.names_of(["all"]) == ()
    for word in ("scam", "8", "scan.1"):
        with pytest.raises(UsageError, match=r"no job is called.*scan"):
            queue.names_of(["scan", word])
    tags = ["gpu", "nosuch", "gpu=a100", "gpu=h100", "*", "", "="]
    assert queue.unmatched(tags) == ["nosuch", "gpu=h100", "", "="]
    queue.close()


@pytest.mark.parametrize("verb", [verb for verb in VERBS if verb not in ("drop", "export", "verify")])
def test_an_address_that_means_a_job_and_a_task_is_refused(
    client: Client, capsys: pytest.CaptureFixture[str], verb: str
) -> None:
    """Kind: a word with two meanings. Either of them has another address."""
    submit(client, "scan.2")
    before = client.jobs()
    assert main([verb, "scan.2", *VERBS[verb]]) == (3 if verb == "wait" else 2)
    assert "say 2 for the job or 1.2 for the task" in capsys.readouterr().err
    assert client.jobs() == before
    if verb != "set":
        assert main([verb, "1.2", *VERBS[verb]]) != (3 if verb == "wait" else 2)
    assert main([verb, "2", *VERBS[verb]]) != (3 if verb == "wait" else 2)


def test_a_parent_that_means_a_job_and_a_task_is_refused(client: Client) -> None:
    submit(client, "scan.2")
    assert main(["submit", "--after", "scan.2", "--", "true"]) == 2
    assert len(client.jobs()) == 2
    submit(client, "scan.9")  # scan has no such task
    assert main(["cancel", "scan.9"]) == 0
    assert client.find("scan.9").cancelled == 1 and client.find("scan").pending == 3


@pytest.mark.usefixtures("client")
def test_a_job_that_is_born_cancelled_is_told(pg_dsn: Dsn, capsys: pytest.CaptureFixture[str]) -> None:
    fail_one(pg_dsn)
    assert main(["submit", "--after", "scan.1", "--name", "merge", "--", "true"]) == 1
    out = capsys.readouterr().out
    assert "1 of them was cancelled at once: what they wait for has not succeeded" in out
    assert "next: mpifarm explain merge" in out
    assert main(["submit", "--after", "scan.1", "--json", "--", "true"]) == 1
    assert '"cancelled": 1' in capsys.readouterr().out
    with pytest.warns(UserWarning, match="2 of the tasks were cancelled at once"):
        assert mpifarm.submit(["true", "true"], after="scan.1").cancelled == 2
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert mpifarm.submit(["true"], after="scan.2").cancelled == 0
        assert mpifarm.submit(["true"], afterany="scan.1").cancelled == 0
    assert main(["submit", "--after", "scan.2", "--", "true"]) == 0


def test_wait_says_that_a_job_is_held(client: Client, capfd: pytest.CaptureFixture[str]) -> None:
    client.set_held(client.find("scan").id, True)
    codes: list[int] = []
    waiting = threading.Thread(target=lambda: codes.append(main(["wait", "scan", "--timeout", "60s"])))
    waiting.start()
    said = ""

    def told() -> bool:
        nonlocal said
        said += capfd.readouterr().err
        return "scan is held" in said

    wait_for(told, "it to say so")
    assert "mpifarm set scan --release" in said and not codes
    client.cancel(client.find("scan").id)
    waiting.join(60)
    assert codes == [2] and capfd.readouterr().err.count("held") == 0


def test_wait_says_that_a_job_was_held_meanwhile(client: Client, pg_dsn: Dsn) -> None:
    """Also one of several, also when it was none at first."""
    submit(client, "other", held=True)
    with psycopg.connect(pg_dsn.text, autocommit=True) as plain:
        plain.execute("UPDATE mpifarm.job SET held = true")
    told: list[str] = []
    until_ended(client, choose(client, "all"), 0.0, told.append)
    assert {line.split()[0] for line in told} == {"no", "scan", "other"}
