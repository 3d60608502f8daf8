"""`--grep`: the right lines, however they were cut into pieces; the codes of grep."""

from __future__ import annotations

import io
import re
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mpifarm.cli import main
from mpifarm.outputs import grep as grepping
from mpifarm.outputs.grep import grep, lines_of
from mpifarm.outputs.streams_of_tasks import Missing
from tests.reporting.conftest import Said
from tests.reporting.rows import FakeClient, a_job, a_task
from tests.reporting.run_files import Scribe


@settings(deadline=None)
@given(st.lists(st.sampled_from([b"", b"\n", b"a", b"bc\n", b"\n\nd", b"\r\n"])))
def test_lines_do_not_depend_on_the_pieces(pieces: list[bytes]) -> None:
    whole = b"".join(pieces)
    assert list(lines_of(pieces)) == (whole[:-1] if whole.endswith(b"\n") else whole).split(b"\n") * bool(whole)


def test_a_line_without_end_is_searched_in_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(grepping, "LINE_BYTES_MAX", 1000)
    parts = list(lines_of([b"x" * 300] * 1000))
    assert max(map(len, parts)) < 1300
    assert b"".join(parts) == b"x" * 300_000


@pytest.fixture
def lines(client: FakeClient, tmp_path: Path) -> list[object]:
    scribe = Scribe(tmp_path / "run-1.h5")
    outputs = {
        1: (b"energy = -1.5\nconverged", b""),
        2: (b"\xff energy = nan\n", b"warning: energy\n"),
        3: (b"nothing\n", b"energy too\n"),
    }
    client.all_jobs = [a_job(succeeded=3, total=4, pending=1)]
    client.lines = [
        a_task(row.task, state="succeeded", seconds=float(row.task), file=str(scribe.path), file_row=number,
               lease=row.lease, attempt=1)
        for row, number in scribe.write(outputs)
    ]  # fmt: skip
    client.lines.append(a_task(4))
    scribe.close()
    return list(client.lines)


@pytest.mark.parametrize(
    ("options", "found"),
    [
        (["energy"], b"1: energy = -1.5\n2: \xff energy = nan\n"),
        (["energy", "--both"], b"1: energy = -1.5\n2: \xff energy = nan\n2: warning: energy\n3: energy too\n"),
        (["energy", "--stderr"], b"2: warning: energy\n3: energy too\n"),
        (["^energy", "--stderr"], b"3: energy too\n"),
        (["d$"], b"1: converged\n"),
        ([r"\xff"], b"2: \xff energy = nan\n"),
        (["(?i)ENERGY", "--tasks", "2-3"], b"2: \xff energy = nan\n"),
        (["energy", "--where", "seconds < 2"], b"1: energy = -1.5\n"),
    ],
)
def test_what_is_found(
    lines: list[object], options: list[str], found: bytes, capfdbinary: pytest.CaptureFixture[bytes]
) -> None:
    assert lines
    assert main.main(["report", "scan", "--grep", *options]) == 0
    out, err = capfdbinary.readouterr()
    assert out == found
    assert err == (b"" if "--tasks" in options else b"mpifarm: 1 task of scan has no outcome yet\n")


def test_codes(typed: Callable[..., Said], lines: list[object]) -> None:
    assert lines
    assert typed("report", "scan", "--grep", "no such line").code == 1
    assert typed("report", "scan", "--grep", "energy", "--tasks", "1,4") == Said(
        0, "1: energy = -1.5\n", "mpifarm: task 4: no outcome yet\n"
    )
    assert typed("report", "scan", "--grep", "(").code == 2


def test_damage_comes_first() -> None:
    line = a_task(1, state="succeeded", file="/nowhere/run.h5", file_row=0, lease=1, attempt=1)
    (sentence,), code = grep([line], re.compile(b"x"), (1,), io.BytesIO())
    assert "/nowhere/run.h5" in sentence
    assert code == 5
    assert grep([], re.compile(b"x"), (1,), io.BytesIO()) == Missing([], 1)
