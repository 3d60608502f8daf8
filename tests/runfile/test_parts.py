"""A run file that breaks, is taken away or written over while it is written: the run goes on in another file, and all
that was told to be stored is read from the newest.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from mpifarm.core.model import Limits
from mpifarm.core.protocol.actions import Append, AppendEvent, CloseRunFile, OpenRunFile, Stored
from mpifarm.core.protocol.messages import Event, FileClosed, FileOpened, FileTrouble, OpenFile
from mpifarm.errors import OutputError
from mpifarm.rank.file_door import FileDoor
from mpifarm.rank.queue_door import Inbox
from mpifarm.runfile.reader import open_run
from mpifarm.runfile.repairing.rebuild import repair
from mpifarm.runfile.sweep import Sweep
from mpifarm.runfile.writer import Writer
from tests.fix_farm import wait_for
from tests.runfile.gather import NODES, assert_seeded, seeded_message

pytestmark = pytest.mark.slow
SEED, AT_ONCE = 5, 20


class Recording:
    """A run file's door, and what it has answered."""

    def __init__(self, path: Path) -> None:
        self.inbox = Inbox()
        self.events: list[object] = []
        self.bugs: list[BaseException] = []
        self.door = FileDoor(Limits(), None, self.inbox, self.bugs.append)
        self.asked = 0
        self.door.start()
        self.door.ask(OpenRunFile(OpenFile(str(path), {"run": "1"}, tuple(NODES))))
        self.wait(lambda: self.paths, "the file is open")

    def of(self, kind: type) -> list[object]:
        self.events += [event for _, event in self.inbox.take()]
        return [event for event in self.events if isinstance(event, kind)]

    @property
    def paths(self) -> list[Path]:
        return [Path(event.path) for event in self.of(FileOpened) if isinstance(event, FileOpened)]

    @property
    def rows(self) -> int:
        """Told to be stored; in order, none left out."""
        rows = [(event.first_row, event.rows) for event in self.of(Stored) if isinstance(event, Stored)]
        assert [row for row, _ in rows] == [AT_ONCE * number for number in range(len(rows))]
        return AT_ONCE * len(rows)

    @property
    def said(self) -> str:
        return "\n".join(event.reason for event in self.of(FileTrouble) if isinstance(event, FileTrouble))

    def wait(self, fact: Callable[[], object], what: str) -> None:
        wait_for(lambda: self.bugs or fact(), what)
        assert not self.bugs, self.bugs

    def append(self) -> None:
        self.door.ask(AppendEvent(Event(1.0 + self.asked, f"said at {self.asked}")))
        self.door.ask(Append(seeded_message(SEED, self.asked + 1, AT_ONCE)))
        self.asked += AT_ONCE

    def store(self) -> None:
        self.append()
        self.wait(lambda: self.rows == self.asked, f"{self.asked} rows are stored: {self.said}")

    def close(self) -> None:
        self.door.ask(CloseRunFile())
        self.wait(lambda: self.of(FileClosed), "the file is closed")
        self.door.leave(10.0)


@pytest.fixture
def recording(tmp_path: Path) -> Iterator[Recording]:
    made = Recording(tmp_path / "out" / "run.h5") if (tmp_path / "out").mkdir() is None else None
    assert made is not None
    yield made
    made.door.leave(10.0)


def failing(monkeypatch: pytest.MonkeyPatch, name: str, error: Exception, calls: int) -> None:
    """The next calls of a method of the writer do their work and fail nevertheless."""
    method, left = getattr(Writer, name), [calls]

    def fails(self: Writer, *arguments: object) -> object:
        result = method(self, *arguments)
        if left[0]:
            left[0] -= 1
            raise error
        return result

    monkeypatch.setattr(Writer, name, fails)


SLIST = RuntimeError("Unable to flush dataset (slist already enabled?)")


@pytest.mark.parametrize("name", ["_flush", "_write_rows", "_write_chunks"])
@pytest.mark.parametrize("calls", [1, 3])
def test_an_error_of_hdf5(recording: Recording, monkeypatch: pytest.MonkeyPatch, name: str, calls: int) -> None:
    """Kind: HDF5 says that something failed, and not that there was no room."""
    recording.store()
    failing(monkeypatch, name, SLIST, calls)
    for _ in range(4):
        recording.append()
    recording.wait(lambda: recording.rows == recording.asked, "all are stored")
    recording.close()
    assert "slist" in recording.said and "goes on in another file" in recording.said
    assert [path.name for path in sorted(recording.paths[0].parent.iterdir())] == ["run.2.h5", "run.h5"], "no more"
    with open_run(recording.paths[-1]) as run:
        assert_seeded(run, SEED, range(recording.asked))
        assert run.rows == recording.asked and Sweep(run).sound().all()
        assert {"said at 0", f"said at {recording.asked - AT_ONCE}"} <= {text for _, text in run.events()}


def test_a_failed_fsync(recording: Recording, monkeypatch: pytest.MonkeyPatch) -> None:
    recording.store()
    fsync, left = os.fsync, [1]

    def fails(descriptor: int) -> None:
        if left[0]:
            left[0] -= 1
            raise OSError(5, os.strerror(5))
        fsync(descriptor)

    monkeypatch.setattr(os, "fsync", fails)
    recording.store()
    recording.store()
    recording.close()
    assert "input/output error" in recording.said and len(recording.paths) == 2
    with open_run(recording.paths[-1]) as run:
        assert_seeded(run, SEED, range(recording.asked))


def remove(path: Path) -> None:
    path.unlink()


def move(path: Path) -> None:
    path.rename(path.parent.parent / "moved.h5")


def move_the_directory(path: Path) -> None:
    path.parent.rename(path.parent.parent / "old")


def remove_the_directory(path: Path) -> None:
    shutil.rmtree(path.parent)


def replace(path: Path) -> None:
    (path.parent / "new").write_text("precious")
    (path.parent / "new").rename(path)


def move_and_replace(path: Path) -> None:
    move(path)
    path.write_text("precious")


@pytest.mark.parametrize(
    "harm",
    [remove, move, move_the_directory, remove_the_directory, replace, move_and_replace],
    ids=lambda f: f.__name__,
)
@pytest.mark.parametrize("last", [False, True], ids=["goes on", "at the end"])
def test_a_file_that_is_taken_away(recording: Recording, harm: Callable[[Path], None], last: bool) -> None:
    """Kind: the name of the run file is no longer its own. What it holds is saved, and nothing of others is touched."""
    recording.store()
    recording.store()
    path = recording.paths[0]
    harm(path)
    if not last:
        recording.store()
        recording.store()
    recording.close()
    assert f"while it was written; its content is in {path.parent}" in recording.said
    assert len(recording.paths) == 2
    with open_run(recording.paths[-1]) as run:
        assert_seeded(run, SEED, range(recording.asked))
        assert run.rows == recording.asked and Sweep(run).sound().all()
    if "replace" in harm.__name__:
        assert path.read_text() == "precious"


def test_taken_away_again_and_again(recording: Recording) -> None:
    for harm in (remove, replace, remove, move):
        recording.store()
        harm(recording.paths[-1])
    recording.store()
    recording.close()
    assert len(recording.paths) == 5
    with open_run(recording.paths[-1]) as run:
        assert_seeded(run, SEED, range(recording.asked))


@pytest.mark.parametrize("size", [0, 10, 5000, 1 << 20])
def test_a_file_that_is_written_over(recording: Recording, size: int) -> None:
    """Kind: somebody opened the run file itself for writing. What was in it is lost, and told; what comes is not."""
    recording.store()
    lost = recording.asked
    recording.paths[0].write_bytes(b"result\n" * (size // 7))
    recording.store()
    recording.store()
    recording.close()
    assert "was written over" in recording.said and len(recording.paths) == 2
    with open_run(recording.paths[-1]) as run:
        assert_seeded(run, SEED, range(lost, recording.asked))
        for row in range(lost):
            with pytest.raises(OutputError, match=r"goes on from it|damaged"):
                run.attempt(row)
                assert_seeded(run, SEED, range(row, row + 1))
        sound = Sweep(run).sound()
        assert not sound[:lost].any() and sound[lost:].all()


def test_an_earlier_file_that_is_missing_costs_its_own_rows(
    recording: Recording, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    recording.store()
    failing(monkeypatch, "_flush", SLIST, 1)
    recording.store()
    recording.close()
    newest = recording.paths[-1]
    moved = tmp_path / "moved"
    recording.paths[0].parent.rename(moved)  # together: they find each other
    with open_run(moved / newest.name) as run:
        assert_seeded(run, SEED, range(recording.asked))
    repaired = repair(moved / newest.name, moved / "repaired.h5")
    assert repaired.whole, repaired
    with open_run(moved / "repaired.h5") as run:
        assert_seeded(run, SEED, range(recording.asked))
    (moved / recording.paths[0].name).unlink()
    with open_run(moved / newest.name) as run:
        assert_seeded(run, SEED, range(AT_ONCE, recording.asked))
        with pytest.raises(OutputError, match=r"no such file.*goes on from it"):
            run.attempt(0)


def test_there_is_no_other_file(recording: Recording, monkeypatch: pytest.MonkeyPatch) -> None:
    """Kind: nothing can be written at all any more: it is told for good, and the door ends."""
    recording.store()
    monkeypatch.setattr("mpifarm.rank.file_door.RETRY_S", 0.01)
    failing(monkeypatch, "_flush", SLIST, 1)
    monkeypatch.setattr(Writer, "append", _refuse)
    recording.append()
    recording.wait(lambda: any(event.fatal for event in recording.of(FileTrouble)), "it is told")  # type: ignore[attr-defined]
    recording.close()
    assert set(recording.paths) == set(recording.paths[0].parent.iterdir())
    with open_run(recording.paths[-1]) as run:
        assert_seeded(run, SEED, range(AT_ONCE))


def test_the_last_file_that_was_told_leads_to_all_that_was_stored(
    recording: Recording, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Kind: a file that the queue knows by name is gone. The second breaks before anything in it counts, then nothing
    can be written any more, or whoever writes is killed: what is in the first is found through the second."""
    recording.store()
    monkeypatch.setattr("mpifarm.rank.file_door.RETRY_S", 0.01)
    failing(monkeypatch, "_flush", SLIST, 1)
    recording.append()
    recording.wait(lambda: len(recording.paths) == 2 and recording.rows == recording.asked, "it goes on in the second")
    there: list[bool] = []
    failing(monkeypatch, "_flush", SLIST, 2)
    append = Writer.append

    def watched(self: Writer, output: object) -> object:
        there.append(recording.paths[-1].exists())
        return append(self, output)

    monkeypatch.setattr(Writer, "append", watched)
    recording.append()
    recording.wait(lambda: recording.rows == recording.asked, "it goes on in the third, the second of that name")
    failing(monkeypatch, "_flush", SLIST, 1_000)
    recording.append()
    recording.wait(lambda: any(event.fatal for event in recording.of(FileTrouble)), "it is told")  # type: ignore[attr-defined]
    recording.close()
    assert len(recording.paths) > 3 and len(there) > 3 and all(there)
    with open_run(recording.paths[-1]) as run:
        assert_seeded(run, SEED, range(3 * AT_ONCE))


def _refuse(self: Writer, _output: object) -> None:
    self.broken = "no more"
    raise OutputError("no more")
