"""Files and typed values in a run file: by way of a leader's gathering, and read back with and without mpifarm."""

from __future__ import annotations

import io
import json
import textwrap
import zlib
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mpifarm.core.job.capture import CapturePattern
from mpifarm.core.job.keep import parse_keep
from mpifarm.core.left_behind import Contents, Entry, Listing, parse_contents
from mpifarm.core.row import CAPTURED, CONTENTS, HAS_CONTENTS, STDOUT, STDOUT_CUT, VALUES
from mpifarm.errors import OutputError
from mpifarm.runfile import captures, format
from mpifarm.runfile.reader import open_run
from mpifarm.runfile.sweep import Sweep
from tests.runfile.gather import Gatherer, append_seeded, assert_seeded, new_writer

ARRAYS: dict[str, np.ndarray[Any, Any]] = {
    "energies": np.linspace(-1, 1, 7),
    "image": np.arange(60000, dtype=">i4").reshape(200, 300),
    "scalar": np.array(3 + 4j),
    "none": np.zeros((0, 3), np.float32),
    "words": np.array(["a", "bcd"]),
    "when": np.array(["2026-11-27"], "M8[D]"),
}
NPY = io.BytesIO()
np.save(NPY, np.eye(3))
FILES = {"out/a.npy": NPY.getvalue(), "noise": bytes(range(256)) * 1000, "empty": b"", "b\udcff\n": b"odd name"}


def write(path: Path, flags: int = HAS_CONTENTS) -> None:
    """A run file with one attempt that printed, left FILES and gave ARRAYS, its pieces among those of others."""
    writer, gatherer, listing = new_writer(path), Gatherer(), Listing()
    key = (1, 17, 1)
    gatherer.whole((1, 16, 1), b"before")
    gatherer.piece(key, STDOUT, b"printed")
    opened = gatherer._open[key][1]
    opened |= {CAPTURED: bytearray(), VALUES: bytearray(), CONTENTS: bytearray()}
    for name, content in FILES.items():
        for at in range(0, len(content), 100_000):
            gatherer.piece(key, CAPTURED, content[at : at + 100_000])
            gatherer.piece((1, 18, 1), STDOUT, b"between ")
        listing.add(CAPTURED, name, len(content), zlib.crc32(content))
    for name, array in ARRAYS.items():
        content = array.tobytes()
        gatherer.piece(key, VALUES, content)
        listing.add(VALUES, name, len(content), zlib.crc32(content), array.dtype.str, array.shape)
    listing.note("no file x")
    gatherer.piece(key, CONTENTS, listing.text())
    gatherer.end(key)
    gatherer._rows[-1] = gatherer._rows[-1]._replace(flags=flags)
    writer.append(gatherer.message())
    writer.close()


def test_files_and_values_come_back(tmp_path: Path) -> None:
    write(tmp_path / "run.h5")
    with open_run(tmp_path / "run.h5") as run:
        attempt = run.attempt(1)
        assert b"".join(run.output(1, STDOUT)) == b"printed"
        files = captures.captured(run, attempt)
        assert {name: file.bytes for name, file in files.items()} == FILES
        assert (files["out/a.npy"].array == np.eye(3)).all()
        values = captures.values(run, attempt)
        assert list(values) == list(ARRAYS)
        for name, array in ARRAYS.items():
            read = values[name].array
            assert (read.dtype, read.shape) == (array.dtype, array.shape) and (read == array).all()
        assert captures.contents(run, attempt).notes == ("no file x",)
        assert captures.captured(run, run.attempt(0)) == {}


def test_without_mpifarm(tmp_path: Path) -> None:
    """By the recipe in the docstrings."""
    write(tmp_path / "run.h5")
    recipe = textwrap.dedent(str(captures.__doc__).split("`stream`):\n")[1].split("Nothing is ever")[0])
    with h5py.File(tmp_path / "run.h5", "r") as f:
        a = next(row for row in f["attempts"][:] if row["task"] == 17)
        e = f["extents"][a["extent_lo"] : a["extent_hi"]]
        e = e[(e["lease"] == a["lease"]) & (e["task"] == 17) & (e["attempt"] == a["attempt"])]
        recipe = recipe.rstrip() + "\n        found[line['name']] = content\n"
        found: dict[str, bytes] = {}
        exec(recipe, {"f": f, "e": e, "json": json, "found": found})
    assert found == FILES | {name: array.tobytes() for name, array in ARRAYS.items()}


@pytest.mark.parametrize("dtype", ["|O", "no type", "<f8", "|V0", ["O"]])
def test_what_is_no_array_is_refused(tmp_path: Path, dtype: Any) -> None:
    write(tmp_path / "run.h5")
    with open_run(tmp_path / "run.h5") as run:
        entry = Entry(VALUES, "energies", 0, 56, zlib.crc32(ARRAYS["energies"].tobytes()), dtype, (8,))
        with pytest.raises(OutputError, match="'energies' of job 1 task 17 is no array"):
            _ = captures.Captured(run, run.attempt(1), entry).array


def test_pickles_are_not_loaded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    evil = io.BytesIO()
    np.save(evil, np.array([{"a": 1}], object), allow_pickle=True)
    monkeypatch.setitem(FILES, "noise", evil.getvalue())
    write(tmp_path / "run.h5")
    with open_run(tmp_path / "run.h5") as run, pytest.raises(OutputError, match="allow_pickle=False"):
        _ = captures.captured(run, run.attempt(1))["noise"].array


@pytest.mark.parametrize("stream", [CAPTURED, VALUES, CONTENTS])
def test_damage_is_told(tmp_path: Path, stream: int) -> None:
    write(tmp_path / "run.h5")
    with h5py.File(tmp_path / "run.h5", "r+") as file:
        extent = next(row for row in file["extents"][:] if row["stream"] == stream)
        file["bytes"][extent["position"] + 40] ^= 1
    with open_run(tmp_path / "run.h5") as run:
        assert Sweep(run).sound().tolist() == [True, False]
    with open_run(tmp_path / "run.h5") as run, pytest.raises(OutputError, match=r"is damaged|CRC-32 is wrong"):
        attempt = run.attempt(1)
        _ = [file.bytes for file in captures.captured(run, attempt).values()]
        _ = [value.array for value in captures.values(run, attempt).values()]


names = st.text(st.characters(blacklist_categories=()), max_size=20)
files = st.tuples(st.just(CAPTURED), names, st.just(0), st.integers(0, 2**40), st.integers(0, 2**32 - 1))
shapes = st.tuples(st.just("<f8"), st.lists(st.integers(0)).map(tuple))
entries = files.map(lambda fields: Entry(*fields)) | st.tuples(
    st.just(VALUES), names, st.just(0), *[st.integers(0)] * 2
).flatmap(lambda fields: shapes.map(lambda shape: Entry(*fields, *shape)))


@given(st.lists(entries), st.lists(names))
def test_contents_are_read_as_written(given_entries: list[Entry], notes: list[str]) -> None:
    listing, ends = Listing(), {CAPTURED: 0, VALUES: 0}
    expected = []
    for entry in given_entries:
        listing.add(entry.stream, entry.name, entry.length, entry.crc32, entry.dtype, entry.shape or ())
        expected.append(entry._replace(offset=ends[entry.stream]))
        ends[entry.stream] += entry.length
    for note in notes:
        listing.note(note)
    text = listing.text()
    assert parse_contents(text) == Contents(tuple(expected), tuple(notes))
    for spoilt in (text[:-10], text[len(text) // 2 :], b""):
        with pytest.raises((ValueError, KeyError, TypeError)):
            parse_contents(spoilt)


@pytest.mark.parametrize("version", [1, 2])
def test_files_of_older_formats_are_read(tmp_path: Path, version: int) -> None:
    """As they were written then: without the fields that came later, which read 0."""
    old = format.ROW_TYPES[format.FORMAT_VERSION - version]
    path = tmp_path / "run.h5"
    writer = new_writer(path)
    append_seeded(writer, 3, 20)
    writer.close()
    with h5py.File(path, "r+") as file:
        rows = file["attempts"][:]
        del file["attempts"]
        narrow = np.array([tuple(row)[: len(old)] for row in rows.tolist()], old)
        file.create_dataset("attempts", data=narrow, chunks=(512,), maxshape=(None,))
        file.attrs[format.VERSION_ATTRIBUTE] = version
    with open_run(path) as run:
        assert_seeded(run, 3, range(20))
        assert (run.attempts(0, 20) == rows).all() and run.attempt(3)[-2:] == (0, 0)
        assert Sweep(run).sound().all()


def test_a_cut_stream_is_no_damage_but_damage_of_it_is(tmp_path: Path) -> None:
    path = tmp_path / "run.h5"
    writer, gatherer = new_writer(path), Gatherer()
    gatherer.whole((1, 1, 1), b"the tail")
    gatherer.whole((1, 2, 1), b"")
    for number, written in ((0, 1000), (1, 50)):
        row = gatherer._rows[number]
        gatherer._rows[number] = row._replace(flags=STDOUT_CUT, stdout_bytes=written)
    writer.append(gatherer.message())
    writer.close()
    with open_run(path) as run:
        assert (b"".join(run.output(0, STDOUT)), b"".join(run.output(1, STDOUT))) == (b"the tail", b"")
        assert Sweep(run).sound().all()
    with h5py.File(path, "r+") as file:
        file["bytes"][3] ^= 1
    with open_run(path) as run:
        assert Sweep(run).sound().tolist() == [False, True]
    with open_run(path) as run, pytest.raises(OutputError, match="is damaged: stdout of job 1 task 1"):
        list(run.output(0, STDOUT))


@pytest.mark.parametrize("text", ["tail:0", "tail:2M", "tail", "some", "", "tail:1G", "failed:1", "tail:-1"])
def test_what_cannot_be_kept(text: str) -> None:
    with pytest.raises(ValueError, match="write all, failed, none, or tail:64K"):
        parse_keep(text)


def test_what_can_be_kept() -> None:
    assert [parse_keep(text).tail_bytes for text in ("all", "tail:65536", "tail:64K", "tail:1MiB", "tail:3kB")] == [
        0, 65536, 65536, 1 << 20, 3072,
    ]  # fmt: skip


@pytest.mark.parametrize(
    "text",
    ["/etc/passwd", "../x", "a/../../b", "a/", "", ".", "{tasks}", "{task", "{task!r}", "{:5}", "**/**/x", "a\0"],
)
def test_patterns_that_name_nothing_here(text: str) -> None:
    with pytest.raises(ValueError, match="names no files to capture"):
        CapturePattern(text)


def test_patterns() -> None:
    values: dict[str, int | str] = {"task": 7, "attempt": 2, "job": "s*n", "": "a[1]/b"}
    made = CapturePattern("./{job}/x{task:03}-?.{{n}}/**/{}").components(values)
    assert [(step.text, step.pattern is None) for step in made] == [
        ("s*n", True), ("x007-?.{n}", False), ("**", True), ("a[1]", True), ("b", True),
    ]  # fmt: skip
    assert made[1].fits("x007-z.{n}") and not made[1].fits("x007-zz.{n}")
    (star,) = CapturePattern("*").components(values)
    assert star.fits("a\nb") and not star.fits(".hidden")
    (mixed,) = CapturePattern("{}*.npy").components(values | {"": "[x]?"})
    assert mixed.fits("[x]?1.npy") and not mixed.fits("x11.npy")
