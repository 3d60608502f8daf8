"""Outputs come back byte for byte, from a file that is still written, to a stream or to files of their own."""

from __future__ import annotations

import io
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from mpifarm.core.row import STDERR, STDOUT
from mpifarm.errors import UsageError
from mpifarm.queue.client import TaskLine
from mpifarm.reporting.extract import Missing, extract, prepare_directory, write_outputs
from tests.reporting.rows import a_task
from tests.reporting.run_files import Scribe

OUTPUTS = {
    1: (b"one\n", b""),
    2: (b"", b"oh\n"),
    3: (bytes(range(256)) * 1000, b"\x00\xff"),
    4: (b"no newline", b"err"),
}


@pytest.fixture
def scribe(tmp_path: Path) -> Iterator[Scribe]:
    """Open for writing as long as the test lasts, like the file of a run that goes on."""
    scribe = Scribe(tmp_path / "run-1.h5")
    yield scribe
    scribe.close()


@pytest.fixture
def lines(scribe: Scribe) -> list[TaskLine]:
    return recorded(scribe, OUTPUTS)


def recorded(scribe: Scribe, outputs: dict[int, tuple[bytes, bytes]]) -> list[TaskLine]:
    return [
        a_task(row.task, state="succeeded", file=str(scribe.path), file_row=number, lease=row.lease, attempt=1)
        for row, number in scribe.write(outputs)
    ]


def names(directory: Path) -> list[str]:
    return sorted(path.name for path in directory.iterdir())


@pytest.mark.parametrize(
    ("streams", "expected"),
    [
        ((STDOUT,), b"".join(out for out, _ in OUTPUTS.values())),
        ((STDERR,), b"".join(err for _, err in OUTPUTS.values())),
        ((STDOUT, STDERR), b"".join(out + err for out, err in OUTPUTS.values())),
    ],
)
def test_outputs_with_nothing_between(lines: list[TaskLine], streams: tuple[int, ...], expected: bytes) -> None:
    out = io.BytesIO()
    assert write_outputs(lines, streams, out) == Missing([], 0)
    assert out.getvalue() == expected


def test_what_is_recorded_later_is_found_in_the_open_file(scribe: Scribe, lines: list[TaskLine]) -> None:
    def follow() -> Iterator[TaskLine]:
        yield lines[0]
        yield from recorded(scribe, {9: (b"later\n", b"")})

    out = io.BytesIO()
    assert write_outputs(follow(), (STDOUT,), out) == Missing([], 0)
    assert out.getvalue() == b"one\nlater\n"


def test_the_others_are_printed_and_the_missing_named_once(lines: list[TaskLine]) -> None:
    out = io.BytesIO()
    unfinished = [a_task(5), a_task(6, state="running"), a_task(8)]
    gone = [a_task(task, state="failed", file="/nowhere/run-2.h5", file_row=0, lease=1, attempt=1) for task in (10, 11)]
    problems, code = write_outputs([*lines[:1], *unfinished, *gone, lines[3]], (STDOUT,), out)
    assert out.getvalue() == b"one\nno newline"
    assert problems[0] == "task 5-6,8: no outcome yet"
    assert problems[1].startswith("task 10-11: cannot open run file /nowhere/run-2.h5")
    assert len(problems) == 2
    assert code == 5


def test_a_task_that_never_ran_has_no_output() -> None:
    out = io.BytesIO()
    assert write_outputs([a_task(1, state="cancelled")], (STDOUT,), out) == Missing([], 0)
    assert out.getvalue() == b""


def test_another_file_under_the_recorded_name_is_not_believed(lines: list[TaskLine]) -> None:
    out = io.BytesIO()
    (problem,), _ = write_outputs([lines[0]._replace(lease=77)], (STDOUT,), out)
    assert "is not the one that was recorded" in problem
    assert out.getvalue() == b""


def test_damaged_bytes_are_said_and_make_no_file(scribe: Scribe, tmp_path: Path) -> None:
    ((row, number),) = scribe.write({7: (b"seven", b"")}, stdout_crc32=1)
    line = a_task(7, state="succeeded", file=str(scribe.path), file_row=number, lease=row.lease, attempt=1)
    target = tmp_path / "outputs"
    prepare_directory(target, None, force=False)
    (problem,), _ = extract([line], target, force=False)
    assert "damaged" in problem
    assert names(target) == []


def test_a_file_per_task_and_stream(lines: list[TaskLine], tmp_path: Path) -> None:
    target = tmp_path / "new" / "outputs"
    prepare_directory(target, None, force=False)
    assert extract([*lines, a_task(5)], target, force=False) == Missing(["task 5: no outcome yet"], 1)
    assert names(target) == ["1.out", "2.err", "2.out", "3.err", "3.out", "4.err", "4.out"]
    for task, (stdout, stderr) in OUTPUTS.items():
        assert (target / f"{task}.out").read_bytes() == stdout
        if stderr:
            assert (target / f"{task}.err").read_bytes() == stderr


def test_existing_files_are_refused_before_anything_is_written(lines: list[TaskLine], tmp_path: Path) -> None:
    (tmp_path / "4.err").write_text("mine")
    prepare_directory(tmp_path, [(1, 4)], force=False)
    with pytest.raises(UsageError, match=r"4\.err exists already"):
        prepare_directory(tmp_path, [(1, 5)], force=False)
    with pytest.raises(UsageError):
        prepare_directory(tmp_path, None, force=False)
    with pytest.raises(UsageError):
        extract(lines, tmp_path, force=False)
    assert (tmp_path / "4.err").read_text() == "mine"
    assert not [name for name in names(tmp_path) if name.startswith(".")]


@pytest.mark.parametrize("linking", [True, False])
def test_a_file_that_appears_meanwhile_is_kept(
    lines: list[TaskLine], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, linking: bool
) -> None:
    if not linking:

        def refuse(*_: object) -> None:
            raise PermissionError(1, "no hard links here")

        monkeypatch.setattr(os, "link", refuse)
    target = tmp_path / "outputs"
    prepare_directory(target, None, force=False)
    (target / "2.out").write_text("mine")
    with pytest.raises(UsageError, match=r"2\.out exists already"):
        extract(lines, target, force=False)
    assert (target / "2.out").read_text() == "mine"
    assert names(target) == ["1.out", "2.out"]


def test_force_replaces_and_takes_stale_stderr_away(lines: list[TaskLine], tmp_path: Path) -> None:
    target = tmp_path / "outputs"
    target.mkdir()
    for name in ("1.out", "1.err", "3.out"):
        (target / name).write_text("old")
    prepare_directory(target, None, force=True)
    assert extract(lines, target, force=True) == Missing([], 0)
    assert (target / "1.out").read_bytes() == b"one\n"
    assert not (target / "1.err").exists()
    assert (target / "3.out").read_bytes() == OUTPUTS[3][0]


def test_a_symbolic_link_leads_nowhere(lines: list[TaskLine], tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.write_text("precious")
    target = tmp_path / "outputs"
    target.mkdir()
    (target / "1.out").symlink_to(outside)
    with pytest.raises(UsageError):
        extract(lines, target, force=False)
    assert extract(lines, target, force=True) == Missing([], 0)
    assert outside.read_text() == "precious"
    assert not (target / "1.out").is_symlink()
