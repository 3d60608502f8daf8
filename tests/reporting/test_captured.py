"""`report --captured` of files whose names somebody may have made up, and what is said of what was not kept."""

from __future__ import annotations

import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from mpifarm.core.left_behind import Listing
from mpifarm.core.row import CAPTURED, CONTENTS, HAS_CONTENTS, NOT_ALL_TAKEN, STDERR_CUT, STDOUT_CUT, VALUES
from tests.reporting.rows import FakeClient, a_job, a_task
from tests.reporting.run_files import Scribe

Typed = Callable[..., Any]


class Job:
    """A job `scan` of a queue, whose tasks left files."""

    def __init__(self, client: FakeClient, path: Path) -> None:
        self.client, self.scribe = client, Scribe(path)
        client.all_jobs = [a_job(succeeded=100)]

    def ended(self, task: int, files: dict[str, bytes], *notes: str, **changes: int) -> None:
        """A task has ended and left these; a name that begins with `value` is one of an array."""
        listing, parts = Listing(), []
        for name, content in files.items():
            stream = VALUES if name.startswith("value") else CAPTURED
            parts.append((stream, content))
            kind: Any = ("<f8", (len(content) // 8,)) if stream == VALUES else ()
            listing.add(stream, name, len(content), zlib.crc32(content), *kind)
        for note in notes:
            listing.note(note)
        if listing:
            parts.append((CONTENTS, listing.text()))
            changes["flags"] = HAS_CONTENTS | (NOT_ALL_TAKEN if notes else 0)
        row, number = self.scribe.left(task, parts, **changes)
        place = {"file": str(self.scribe.path), "file_row": number, "lease": row.lease, "attempt": 1}
        self.client.lines.append(a_task(task, state="succeeded", **place))


@pytest.fixture
def job(client: FakeClient, tmp_path: Path) -> Iterator[Job]:
    job = Job(client, tmp_path / "run-1.h5")
    yield job
    job.scribe.close()


def test_a_list_of_what_was_left(job: Job, typed: Typed) -> None:
    job.ended(1, {"out/a.npy": b"12345", "value x": bytes(24), "\udcff\n": b""})
    job.ended(2, {}, "b.npy: a named\tpipe, not taken")
    job.ended(3, {})
    job.client.lines.append(a_task(4, state="running"))
    said = typed("report", "scan", "--captured", "--tasks", "1-4")
    assert said.out == "1\t5\tout/a.npy\n1\t0\t\\udcff\\n\n1\t24\tvalue x <f8 (3,)\n"
    assert said.err == "mpifarm: task 2: b.npy: a named\\tpipe, not taken\nmpifarm: task 4: no outcome yet\n"
    assert said.code == 1
    assert typed("report", "scan.2-3", "--captured").code == 0


@pytest.mark.parametrize("name", ["../evil", "/etc/evil", "a/../../evil", "", "a//b", ".", "..", "a\0b"])
def test_no_name_leads_out_of_the_directory(job: Job, typed: Typed, tmp_path: Path, name: str) -> None:
    job.ended(1, {name: b"evil", "good": b"good"})
    job.ended(2, {"good": b"too"})
    said = typed("report", "scan", "--captured", "--extract", str(tmp_path / "deep" / "dir"))
    assert said.code == 5 and "leads out of its directory" in said.err
    files = {path.relative_to(tmp_path): path.read_bytes() for path in (tmp_path / "deep").rglob("*") if path.is_file()}
    assert files == {Path("deep/dir/2/good"): b"too"}


def test_no_link_is_followed_and_nothing_replaced(job: Job, typed: Typed, tmp_path: Path) -> None:
    job.ended(1, {"a": b"new", "sub/b": b"b"})
    target = tmp_path / "target"
    target.mkdir()
    (tmp_path / "out/1").mkdir(parents=True)
    (tmp_path / "out/1/sub").symlink_to(target)
    said = typed("report", "scan.1", "--captured", "--extract", str(tmp_path / "out"))
    assert said.code == 2 and "no directory of its own" in said.err
    assert list(target.iterdir()) == []
    (tmp_path / "out/1/sub").unlink()
    said = typed("report", "scan.1", "--captured", "--extract", str(tmp_path / "out"))
    assert said.code == 2 and "a exists already" in said.err
    said = typed("report", "scan.1", "--captured", "--extract", str(tmp_path / "out"), "--force")
    assert said.code == 0 and (tmp_path / "out/1/sub/b").read_bytes() == b"b"


@pytest.mark.parametrize("name", ["n" * 255, "n" * 256, "d" * 256 + "/x"], ids=["longest", "too long", "directory"])
def test_a_name_that_cannot_be_had_costs_one_file(job: Job, typed: Typed, tmp_path: Path, name: str) -> None:
    """Kind: a file that cannot be extracted, for its name's sake; those after it are."""
    job.ended(1, {"before": b"1", name: b"long", "good": b"good"})
    job.ended(2, {"good": b"too"})
    said = typed("report", "scan", "--captured", "--extract", str(tmp_path / "out"))
    had = len(name) == 255
    assert said.code == (0 if had else 5) and ("File name too long" in said.err) == (not had)
    files = {str(path.relative_to(tmp_path / "out")) for path in (tmp_path / "out").rglob("*") if path.is_file()}
    assert files == {"1/before", "1/good", "2/good"} | ({f"1/{name}"} if had else set())


def test_what_was_not_kept_is_said_once_for_many_tasks(job: Job, typed: Typed) -> None:
    for task in (1, 2, 3):
        job.ended(task, {}, flags=STDOUT_CUT | STDERR_CUT, stdout_bytes=10, stderr_bytes=7)
    job.ended(4, {})
    said = typed("report", "scan.1-4")
    assert said.err == "mpifarm: task 1-3: its stdout was not kept, as its job says (submit --keep)\n"
    assert (said.code, said.out) == (0, "")
    assert "its stderr was not kept" in typed("report", "scan.2", "--stderr").err
    assert "its stderr was not kept" in typed("report", "scan", "--grep", "x", "--both").err


@pytest.mark.parametrize(
    "more", [["--grep", "x"], ["--follow"], ["--stderr"], ["--extract", "x", "--template", "{task}.{stream}"]]
)
def test_what_captured_does_not_go_with(job: Job, typed: Typed, more: list[str]) -> None:
    job.ended(1, {})
    said = typed("report", "scan.1", "--captured", *more)
    assert said.code == 2 and "--captured goes with" in said.err
