"""Following tasks whose run is played step by step: each rest of the follower lets the next thing happen."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from mpifarm.core.row import STDERR, STDOUT, STDOUT_CUT
from mpifarm.errors import QueueUnreachable
from mpifarm.outputs import follow
from mpifarm.outputs.follow import Follower
from mpifarm.outputs.streams_of_tasks import Missing
from mpifarm.queue.client import TaskLine
from tests.reporting.rows import FakeClient, a_job, a_run, a_task
from tests.reporting.run_files import Scribe

Step = Callable[[], object]


class Stage:
    """A follower, the queue and the run file it sees, and what it has given so far."""

    def __init__(self, path: Path) -> None:
        self.scribe = Scribe(path)
        self.client = FakeClient(a_job())
        self.client.all_runs = [a_run(3, file=str(path))]
        self.out = io.BytesIO()
        self.told: list[str] = []
        self.seen: list[bytes] = []
        """What had been given at each rest."""

    def stand(self, line: TaskLine) -> None:
        self.client.lines = [other for other in self.client.lines if other.task != line.task] + [line]

    def running(self, task: int, attempt: int = 1) -> None:
        self.stand(a_task(task, state="running", run=3, lease=self.scribe.lease, attempt=attempt))

    def recorded(self, task: int, stdout: bytes, stderr: bytes = b"", attempt: int = 1) -> None:
        row, number = self.scribe.end(task, stdout, stderr, attempt=attempt)
        facts: dict[str, Any] = {"lease": row.lease, "attempt": attempt, "file_row": number, "run": 3}
        self.stand(a_task(task, state="succeeded", file=str(self.scribe.path), **facts))

    def play(self, tasks: list[int], *steps: Step, streams: tuple[int, ...] = (STDOUT,)) -> Missing:
        ahead = iter(steps)

        def rest(_seconds: float) -> None:
            self.seen.append(self.out.getvalue())
            next(ahead)()

        follower = Follower(self.client, a_job(), streams, self.out, self.told.append, rest)  # type: ignore[arg-type]
        return follower.follow(iter(tasks))


@pytest.fixture
def stage(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Stage]:
    monkeypatch.setattr(follow, "READS_PER_LOOK", 1)
    stage = Stage(tmp_path / "run-3.h5")
    yield stage
    stage.scribe.close()


def test_from_pending_to_its_outcome(stage: Stage) -> None:
    stage.stand(a_task(17))
    missing = stage.play(
        [17],
        lambda: stage.running(17),
        lambda: stage.scribe.piece(17, STDOUT, b"one\n"),
        lambda: stage.scribe.piece(17, STDERR, b"not asked for\n"),
        lambda: stage.scribe.piece(18, STDOUT, b"another task\n"),
        lambda: stage.scribe.piece(17, STDOUT, b"two\n" * 100_000),
        lambda: stage.recorded(17, b"one\n" + b"two\n" * 100_000, b"not asked for\n"),
    )
    assert missing == Missing([], 0)
    assert stage.out.getvalue() == b"one\n" + b"two\n" * 100_000
    assert [len(seen) for seen in stage.seen] == [0, 0, 4, 4, 4, 400_004]
    assert stage.told == ["task 17 of scan is pending: waiting for its output"]


def test_a_dead_run_is_told_once(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(follow, "LOOKS_PER_RUN", 2)
    stage.running(17)
    stage.client.all_runs = [a_run(3, file=str(stage.scribe.path), live=False)]
    stage.scribe.piece(17, STDOUT, b"one\n")
    rest: list[Step] = [lambda: None] * 5
    stage.play([17], *rest, lambda: stage.recorded(17, b"one\n"))
    assert stage.out.getvalue() == b"one\n"
    assert stage.told == ["run 3 is dead: task 17 waits for the next run, or for mpifarm recover"]


def test_what_is_over_is_given_at_once(stage: Stage) -> None:
    stage.scribe.piece(3, STDOUT, b"done\n")
    stage.recorded(3, b"done\n")
    stage.stand(a_task(4, state="cancelled"))
    assert stage.play([3, 4]) == Missing([], 0)
    assert stage.out.getvalue() == b"done\n"
    assert stage.told == []


def test_several_tasks_one_after_the_other(stage: Stage) -> None:
    stage.running(1)
    stage.running(2)
    missing = stage.play(
        [1, 2],
        lambda: stage.scribe.piece(2, STDOUT, b"two\n"),
        lambda: stage.scribe.piece(1, STDOUT, b"one\n"),
        lambda: stage.recorded(1, b"one\n"),
        lambda: stage.recorded(2, b"two\n"),
    )
    assert missing == Missing([], 0)
    assert stage.out.getvalue() == b"one\ntwo\n"


def test_both_streams_as_they_come(stage: Stage) -> None:
    stage.running(1)
    stage.play(
        [1],
        lambda: stage.scribe.piece(1, STDERR, b"e1 "),
        lambda: stage.scribe.piece(1, STDOUT, b"o1 "),
        lambda: stage.scribe.piece(1, STDERR, b"e2 "),
        lambda: stage.recorded(1, b"o1 ", b"e1 e2 "),
        streams=(STDOUT, STDERR),
    )
    assert stage.out.getvalue() == b"e1 o1 e2 "


def test_an_attempt_that_is_given_back_is_followed_by_the_next(stage: Stage) -> None:
    stage.running(1)
    missing = stage.play(
        [1],
        lambda: stage.scribe.piece(1, STDOUT, b"first "),
        lambda: stage.stand(a_task(1)),
        lambda: stage.scribe.piece(1, STDOUT, b"last words "),
        lambda: stage.running(1, attempt=2),
        lambda: stage.scribe.piece(1, STDOUT, b"second", attempt=2),
        lambda: stage.recorded(1, b"second", attempt=2),
    )
    assert missing == Missing([], 0)
    assert stage.out.getvalue() == b"first last words second"
    assert stage.told == ["task 1: attempt 1 was given back; attempt 2 follows"]


def test_a_run_without_a_file_yet(stage: Stage) -> None:
    stage.running(1)
    (run,) = stage.client.all_runs
    stage.client.all_runs = []
    missing = stage.play(
        [1],
        lambda: stage.client.all_runs.append(run),
        lambda: stage.scribe.piece(1, STDOUT, b"x"),
        lambda: stage.recorded(1, b"x"),
    )
    assert missing == Missing([], 0)
    assert stage.out.getvalue() == b"x"


def test_a_queue_that_is_away_for_a_while(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    def away(*_: object, **__: object) -> Iterator[TaskLine]:
        raise QueueUnreachable("no answer\nthe usual causes")

    stage.running(1)
    missing = stage.play(
        [1],
        lambda: monkeypatch.setattr(stage.client, "tasks", away),
        lambda: stage.scribe.piece(1, STDOUT, b"goes on"),
        lambda: monkeypatch.undo() or monkeypatch.setattr(follow, "READS_PER_LOOK", 1),  # type: ignore[func-returns-value]
        lambda: stage.recorded(1, b"goes on"),
    )
    assert missing == Missing([], 0)
    assert stage.seen[3] == b"goes on"
    assert stage.told == ["no answer; trying again"]


def test_a_queue_that_stays_away(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    def away(*_: object, **__: object) -> Iterator[TaskLine]:
        raise QueueUnreachable("no answer")

    monkeypatch.setattr(stage.client, "tasks", away)
    with pytest.raises(QueueUnreachable):
        stage.play([1], *[lambda: None] * 2000)
    assert 290 <= len(stage.seen) * follow.READ_EVERY_S <= 310


def test_damage_is_said_at_the_end(stage: Stage) -> None:
    stage.running(1)
    missing = stage.play(
        [1],
        lambda: stage.scribe.piece(1, STDOUT, b"something"),
        lambda: stage.recorded(1, b"other"),
    )
    assert missing.code == 5
    assert "damaged" in missing.sentences[0]


def test_a_file_that_cannot_be_read_from_here(stage: Stage) -> None:
    stage.running(1)
    stage.client.all_runs = [a_run(3, file="/nowhere/run-3.h5")]
    (sentence,), code = stage.play([1])
    assert "/nowhere/run-3.h5" in sentence
    assert code == 5


def test_an_output_of_which_only_the_end_is_kept(stage: Stage) -> None:
    """Nothing is to be seen of it before its end."""
    stage.running(7)

    def ended() -> None:
        ((row, number),) = stage.scribe.write({7: (b"the end", b"")}, flags=STDOUT_CUT, stdout_bytes=1000)
        facts: dict[str, Any] = {"lease": row.lease, "attempt": 1, "file_row": number, "run": 3}
        stage.stand(a_task(7, state="succeeded", file=str(stage.scribe.path), **facts))

    assert stage.play([7], ended) == Missing([], 0)
    assert (stage.seen, stage.out.getvalue()) == ([b""], b"the end")
    told = "task 7: only the end of its stdout was kept, as its job says (submit --keep)"
    assert stage.told == [told]
    stage.play([7])
    assert stage.told == [told, told]
