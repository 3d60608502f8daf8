"""Outputs come back byte for byte, from a file that is still written, to a stream or to files of their own."""

from __future__ import annotations

import io
import os
from collections.abc import Iterable, Iterator
from pathlib import Path

import pytest

from mpifarm.core.row import STDERR, STDOUT
from mpifarm.errors import UsageError
from mpifarm.outputs.extract import Folder, extract
from mpifarm.outputs.streams_of_tasks import Missing, write_outputs
from mpifarm.queue.client import TaskLine
from mpifarm.selection.template import DEFAULT, Template
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


def extract_to(
    directory: Path,
    lines: Iterable[TaskLine],
    *,
    force: bool = False,
    template: str = DEFAULT,
    ranges: list[tuple[int, int]] | None = None,
) -> Missing:
    """As `report scan --extract DIRECTORY` does."""
    with Folder(directory, force=force) as folder:
        folder.refuse_existing(Template(template), ranges)
        return extract(lines, folder, "scan", Template(template))


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
    (problem,), _ = extract_to(target, [line])
    assert "damaged" in problem
    assert names(target) == []


def test_a_file_per_task_and_stream(lines: list[TaskLine], tmp_path: Path) -> None:
    target = tmp_path / "new" / "outputs"
    assert extract_to(target, [*lines, a_task(5)]) == Missing(["task 5: no outcome yet"], 1)
    assert names(target) == ["1.out", "2.err", "2.out", "3.err", "3.out", "4.err", "4.out"]
    for task, (stdout, stderr) in OUTPUTS.items():
        assert (target / f"{task}.out").read_bytes() == stdout
        if stderr:
            assert (target / f"{task}.err").read_bytes() == stderr


def test_existing_files_are_refused_before_anything_is_written(lines: list[TaskLine], tmp_path: Path) -> None:
    (tmp_path / "4.err").write_text("mine")
    with pytest.raises(UsageError, match=r"4\.err exists already"):
        extract_to(tmp_path, lines, ranges=[(1, 5)])
    with pytest.raises(UsageError):
        extract_to(tmp_path, lines)
    assert names(tmp_path) == ["4.err", "run-1.h5"]
    assert extract_to(tmp_path, lines[:1], ranges=[(1, 4)]) == Missing([], 0)
    assert (tmp_path / "4.err").read_text() == "mine"
    assert not [name for name in names(tmp_path) if name.startswith(".")]


@pytest.mark.parametrize("linking", [True, False])
def test_a_file_that_appears_meanwhile_is_kept(
    lines: list[TaskLine], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, linking: bool
) -> None:
    if not linking:

        def refuse(*_: object, **__: object) -> None:
            raise PermissionError(1, "no hard links here")

        monkeypatch.setattr(os, "link", refuse)
    target = tmp_path / "outputs"
    with Folder(target, force=False) as folder:
        (target / "2.out").write_text("mine")
        with pytest.raises(UsageError, match=r"2\.out exists already"):
            extract(lines, folder, "scan")
    assert (target / "2.out").read_text() == "mine"
    assert names(target) == ["1.out", "2.out"]


def test_force_replaces_and_takes_stale_stderr_away(lines: list[TaskLine], tmp_path: Path) -> None:
    target = tmp_path / "outputs"
    target.mkdir()
    for name in ("1.out", "1.err", "3.out"):
        (target / name).write_text("old")
    assert extract_to(target, lines, force=True) == Missing([], 0)
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
        extract_to(target, lines)
    assert extract_to(target, lines, force=True) == Missing([], 0)
    assert outside.read_text() == "precious"
    assert not (target / "1.out").is_symlink()


@pytest.mark.parametrize(
    ("template", "made"),
    [
        ("{job}/{task:06}.{stream}", "scan/000001.out"),
        ("{state}/{job}-{task}/{stream}", "succeeded/scan-1/out"),
        ("{task:3}.{attempt}.{stream}", "  1.1.out"),
    ],
)
def test_names_by_template(lines: list[TaskLine], tmp_path: Path, template: str, made: str) -> None:
    target = tmp_path / "outputs"
    assert extract_to(target, lines, template=template) == Missing([], 0)
    assert (target / made).read_bytes() == b"one\n"
    assert sum(path.is_file() for path in target.rglob("*")) == 7
    with pytest.raises(UsageError, match="exists already"):
        extract_to(target, lines[:1], template=template)


def test_a_symbolic_link_to_a_directory_leads_nowhere_either(lines: list[TaskLine], tmp_path: Path) -> None:
    outside, target = tmp_path / "outside", tmp_path / "outputs"
    outside.mkdir()
    target.mkdir()
    (target / "scan").symlink_to(outside)
    for force in (False, True):
        with pytest.raises(UsageError, match="outputs/scan is no directory of its own"):
            extract_to(target, lines, force=force, template="{job}/{task}.{stream}")
    assert names(outside) == []


def test_a_directory_that_is_itself_a_link_is_the_users_wish(lines: list[TaskLine], tmp_path: Path) -> None:
    (tmp_path / "scratch").mkdir()
    (tmp_path / "outputs").symlink_to(tmp_path / "scratch")
    assert extract_to(tmp_path / "outputs", lines[:1]) == Missing([], 0)
    assert names(tmp_path / "scratch") == ["1.out"]
