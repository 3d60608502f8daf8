"""All attempts of a task, out of several run files; the one that counts among them."""

from __future__ import annotations

import random
from collections.abc import Iterator
from pathlib import Path

import pytest

from mpifarm.cli import main
from mpifarm.core.model import FailureClass, State
from mpifarm.core.row import STDOUT
from mpifarm.outputs import attempts
from mpifarm.outputs.attempts import Attempts
from mpifarm.outputs.streams_of_tasks import Outputs
from tests.reporting.rows import FakeClient, a_job, a_run, a_task
from tests.reporting.run_files import Scribe

RETURNED = {"state": State.RETURNED, "failure": FailureClass.WALLTIME}


@pytest.fixture
def scribes(tmp_path: Path) -> Iterator[list[Scribe]]:
    """Two runs: task 3 was cut off in the first and done in the second; task 4 was done once; 5 only cut off."""
    scribes = [Scribe(tmp_path / "run-1.h5", lease=5), Scribe(tmp_path / "run-2.h5", lease=9)]
    yield scribes
    for scribe in scribes:
        scribe.close()


@pytest.fixture
def played(client: FakeClient, scribes: list[Scribe]) -> FakeClient:
    first, second = scribes
    first.write({3: (b"3 half\n", b"oh\n"), 5: (b"5 half\n", b"")}, **RETURNED)
    other = first.job
    first.job = other.__class__(99)
    first.write({3: (b"of another job\n", b"")})
    first.job = other
    ((row4, number4),) = first.write({4: (b"4 whole\n", b"")})
    ((row3, number3),) = second.write({3: (b"3 whole\n", b"")}, attempt=2)
    client.all_jobs = [a_job(succeeded=2, pending=98)]
    client.all_runs = [a_run(number, file=str(scribe.path)) for number, scribe in enumerate(scribes, 1)]
    client.all_runs.append(a_run(3, file=None))
    files = {"state": "succeeded", "failure": "none"}
    client.lines = [
        a_task(3, **files, file=str(second.path), file_row=number3, lease=row3.lease, attempt=2),
        a_task(4, **files, file=str(first.path), file_row=number4, lease=row4.lease, attempt=1),
        a_task(5, attempts=1),
        a_task(6),
    ]
    return client


def test_all_attempts_in_order_each_with_its_heading(
    played: FakeClient, capfdbinary: pytest.CaptureFixture[bytes]
) -> None:
    assert played.lines
    assert main.main(["report", "scan", "--tasks", "3-5", "--attempt", "all"]) == 0
    out, err = capfdbinary.readouterr()
    assert out == b"3 half\n3 whole\n4 whole\n5 half\n"
    assert err.decode().splitlines() == [
        "==> scan.3, attempt 1: returned (walltime), after 1.5s, superseded <==",
        "==> scan.3, attempt 2: succeeded, after 1.5s, the one that counts <==",
        "==> scan.4, attempt 1: succeeded, after 1.5s, the one that counts <==",
        "==> scan.5, attempt 1: returned (walltime), after 1.5s, superseded <==",
    ]


def test_one_attempt(played: FakeClient, capfdbinary: pytest.CaptureFixture[bytes]) -> None:
    assert played.lines
    assert main.main(["report", "scan.3-4", "--attempt", "1"]) == 0
    assert capfdbinary.readouterr().out == b"3 half\n4 whole\n"
    assert main.main(["report", "scan.3-4", "--attempt", "2"]) == 1
    out, err = capfdbinary.readouterr()
    assert out == b"3 whole\n"
    assert err.decode().splitlines()[-1] == "mpifarm: task 4: no attempt 2"
    assert main.main(["report", "scan", "--tasks", "6", "--attempt", "all"]) == 1
    assert capfdbinary.readouterr().err == b"mpifarm: task 6: no attempt has ended yet\n"


def test_without_it_superseded_ones_are_hidden(played: FakeClient, capfdbinary: pytest.CaptureFixture[bytes]) -> None:
    assert played.lines
    assert main.main(["report", "scan", "--tasks", "3-5"]) == 1
    assert capfdbinary.readouterr() == (b"3 whole\n4 whole\n", b"mpifarm: task 5: no outcome yet\n")


def test_grep_and_extract_of_all_attempts(
    played: FakeClient, tmp_path: Path, capfdbinary: pytest.CaptureFixture[bytes]
) -> None:
    assert played.lines
    assert main.main(["report", "scan", "--attempt", "all", "--grep", "half"]) == 0
    assert capfdbinary.readouterr() == (b"3: 3 half\n5: 5 half\n", b"")
    assert main.main(["report", "scan", "--attempt", "all", "--extract", str(tmp_path / "o")]) == 0
    assert sorted(path.name for path in (tmp_path / "o").iterdir()) == [
        "3.1.err", "3.1.out", "3.2.out", "4.1.out", "5.1.out"
    ]  # fmt: skip
    template = "{task}.{stream}"
    assert main.main(["report", "scan", "--attempt", "all", "--extract", "x", "--template", template]) == 2


def test_a_file_that_is_gone_is_named_once(played: FakeClient, capfdbinary: pytest.CaptureFixture[bytes]) -> None:
    played.all_runs.append(a_run(4, file="/nowhere/run-4.h5"))
    assert main.main(["report", "scan", "--tasks", "3-5", "--attempt", "all"]) == 5
    out, err = capfdbinary.readouterr()
    assert out == b"3 half\n3 whole\n4 whole\n5 half\n"
    assert err.count(b"/nowhere/run-4.h5") == 1


@pytest.mark.parametrize("window", [1, 7, 1 << 20])
def test_windows_of_tasks_and_blocks_of_rows_change_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, window: int
) -> None:
    monkeypatch.setattr(attempts, "WINDOW_TASKS", window)
    monkeypatch.setattr(attempts, "BLOCK_ROWS", 5)
    chance = random.Random(1)
    scribe = Scribe(tmp_path / "run.h5")
    expected: dict[int, list[bytes]] = {task: [] for task in range(1, 40)}
    for attempt in range(1, 4):
        for task in chance.sample(sorted(expected), 25):
            expected[task].append(b"%d %d" % (task, attempt))
            scribe.write({task: (expected[task][-1], b"")}, attempt=attempt)
    choice = Attempts([str(scribe.path)], scribe.job, None, needed=False)
    with Outputs() as outputs:
        for task, texts in expected.items():
            found = [b"".join(outputs.stream(found, STDOUT)) for found in choice(outputs, a_task(task))]
            assert found == texts
    scribe.close()
