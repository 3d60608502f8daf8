from __future__ import annotations

import contextlib
import io
import os
import random
import struct
import subprocess
import sys
import tempfile
import zlib
from pathlib import Path

import h5py
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mpifarm.core.row import EXTENT, ROW, STDERR, STDOUT, AttemptRow, unpack_rows
from mpifarm.errors import OutputError
from mpifarm.runfile import reader
from mpifarm.runfile.format import BYTES, CHUNK_BYTES, EXTENT_TYPE, EXTENTS, ROW_TYPE
from mpifarm.runfile.reader import open_run
from mpifarm.runfile.repairing.rebuild import repair
from mpifarm.runfile.writer import Writer
from tests.rows import key_of
from tests.runfile.gather import NODES, Gatherer, append_seeded, assert_seeded, new_writer, open_as_killed

SIZES = (0, 1, CHUNK_BYTES - 1, CHUNK_BYTES, CHUNK_BYTES + 1, (1 << 20) + 1)
SOURCES = {"noise": random.Random(2).randbytes(SIZES[-1]), "zeros": bytes(SIZES[-1])}
pieces = st.one_of(st.binary(max_size=50), st.tuples(st.sampled_from(sorted(SOURCES)), st.sampled_from(SIZES)))
steps = st.one_of(
    st.tuples(st.just("piece"), st.integers(0, 5), st.sampled_from((STDOUT, STDERR)), pieces),
    st.tuples(st.just("end"), st.integers(0, 5)),
    st.tuples(st.just("send"), st.integers(0, 1)),
)


@settings(deadline=None, max_examples=40)
@given(st.lists(steps, max_size=40))
def test_whatever_two_leaders_send_reads_back(story: list[tuple[object, ...]]) -> None:
    """Six attempts at a time, three per leader; an ended one is followed by the next in its place."""
    leaders = [Gatherer(0), Gatherer(1)]
    keys = [(1 + place % 2, 1 + place, 1) for place in range(6)]
    unsent: list[list[tuple[tuple[int, int, int], dict[int, bytes]]]] = [[], []]
    expected: list[tuple[tuple[int, int, int], dict[int, bytes]]] = []
    with tempfile.TemporaryDirectory() as directory:
        writer = new_writer(Path(directory) / "run.h5")

        def send(leader: int) -> None:
            appended = writer.append(leaders[leader].message())
            leaders[leader].written(writer.extents)
            assert appended.first_row == len(expected)
            assert len(appended.rows) == len(unsent[leader]) * ROW.size
            expected.extend(unsent[leader])
            unsent[leader].clear()

        for step in [*story, *(("end", place) for place in range(6)), ("send", 0), ("send", 1)]:
            match step:
                case ("piece", int(place), int(stream), told):
                    piece = told if isinstance(told, bytes) else SOURCES[told[0]][: told[1]]
                    leaders[place % 2].piece(keys[place], stream, piece)
                case ("end", int(place)):
                    unsent[place % 2].append((keys[place], leaders[place % 2].end(keys[place])))
                    keys[place] = (keys[place][0], keys[place][1] + 6, 1)
                case ("send", int(leader)):
                    send(leader)
        writer.sync()
        with open_as_killed(writer, Path(directory) / "copy.h5") as run:
            assert run.rows == len(expected)
            for row, (key, streams) in enumerate(expected):
                attempt = run.attempt(row)
                assert (attempt.lease, attempt.task, attempt.attempt) == key
                for stream in (STDOUT, STDERR):
                    assert b"".join(run.output(row, stream)) == streams[stream]
                    assert b"".join(run.running_output(key_of(*key), stream)) == streams[stream]
        writer.close()


def test_dtypes_are_the_structs() -> None:
    assert (ROW_TYPE.itemsize, EXTENT_TYPE.itemsize) == (ROW.size, EXTENT.size)
    rng = random.Random(3)
    for layout, dtype in ((ROW, ROW_TYPE), (EXTENT, EXTENT_TYPE)):
        packed = rng.randbytes(layout.size)
        ours, theirs = layout.unpack(packed), np.frombuffer(packed, dtype)[0].item()
        assert struct.pack(layout.format, *theirs) == layout.pack(*ours)


def test_appended_rows_and_the_file_hold_absolute_extents(tmp_path: Path) -> None:
    writer = new_writer(tmp_path / "run.h5")
    gatherer = Gatherer()
    gatherer.whole((1, 1, 1), b"first")
    writer.append(gatherer.message())
    gatherer.written(writer.extents)
    gatherer.piece((1, 2, 1), STDOUT, b"begun ")
    writer.append(gatherer.message())
    gatherer.piece((1, 2, 1), STDOUT, b"ended")
    gatherer.end((1, 2, 1))
    gatherer.whole((1, 3, 1), b"third", b"oops")
    appended = writer.append(gatherer.message())
    rows = list(unpack_rows(appended.rows))
    assert [(row.task, row.extent_lo, row.extent_hi) for row in rows] == [(2, 1, 3), (3, 3, 5)]
    writer.sync()
    with open_as_killed(writer, tmp_path / "copy.h5") as run:
        assert [run.attempt(1), run.attempt(2)] == rows
        assert [AttemptRow._make(row.item()) for row in run.attempts(1, 99)] == rows
        assert b"".join(run.output(1, STDOUT)) == b"begun ended"
    writer.close()


def test_attributes_nodes_and_events(tmp_path: Path) -> None:
    writer = new_writer(tmp_path / "run.h5")
    writer.events([(1.5, "leader 3 lost"), (2.0, "ä" * 200)])
    writer.events([(3.0, "a core could not be used")])
    writer.close()
    writer.close()
    with open_run(writer.path) as run:
        assert run.attributes["command"] == "mpifarm run" and "h5py" in run.attributes["how_to_read"]
        assert run.nodes == NODES
        assert run.events() == [(1.5, "leader 3 lost"), (2.0, "ä" * 120), (3.0, "a core could not be used")]
    with h5py.File(writer.path, "r") as plain:  # closed properly: no SWMR flag is left
        assert set(plain) == {"bytes", "extents", "attempts", "nodes", "events"}


def test_attributes_of_any_size_and_bytes(tmp_path: Path) -> None:
    attributes = {"command": "x" * 200_000, "cwd": b"/scratch/\xff/\xc3\xa4".decode("utf-8", "surrogateescape")}
    writer = Writer(tmp_path / "run.h5", attributes, [])
    writer.close()
    with open_run(writer.path) as run:
        assert run.attributes["command"] == attributes["command"]
        assert run.attributes["cwd"] == "/scratch/\\udcff/ä"
        assert run.nodes == [] and run.rows == run.extents == 0


def test_following_an_attempt_that_runs(tmp_path: Path) -> None:
    writer, gatherer = new_writer(tmp_path / "run.h5"), Gatherer()
    seen, start = [], 0
    for piece in (b"one ", b"two ", b"three"):
        gatherer.piece((1, 9, 1), STDOUT, piece)
        gatherer.piece((1, 9, 1), STDERR, b"noise")
        writer.append(gatherer.message())
        writer.sync()
        with open_as_killed(writer, tmp_path / "copy.h5") as run:
            seen += list(run.running_output(key_of(1, 9, 1), STDOUT, start))
            start = run.extents
    writer.close()
    assert seen == [b"one ", b"two ", b"three"]


def test_a_plain_h5py_user_reads_task_17_in_five_lines(tmp_path: Path) -> None:
    writer, gatherer = new_writer(tmp_path / "mpifarm-run-1.h5"), Gatherer()
    for task in range(1, 40):
        gatherer.whole((1 + task % 2, task, 1), b"answer %d\n" % task, b"warning\n")
    writer.append(gatherer.message())
    writer.close()
    lines = [line[4:] for line in str(reader.__doc__).splitlines() if line.startswith("    ")]
    assert len(lines) == 6 and lines[0] == "import h5py"
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        exec("\n".join(lines).replace("mpifarm-run-1.h5", str(writer.path)), {})
    assert printed.getvalue() == "answer 17\n\n"


def test_the_file_costs_less_than_150_bytes_per_attempt(tmp_path: Path) -> None:
    writer, stored = new_writer(tmp_path / "run.h5"), 0
    for first in range(1, 20_000, 100):
        gatherer = Gatherer()
        for task in range(first, first + 100):
            gatherer.whole((1, task, 1), b"%099d\n" % task)
        output = gatherer.message()
        stored += sum(len(content) for _, content in output.chunks)
        writer.append(output)
        writer.sync()
    writer.close()
    assert (writer.path.stat().st_size - stored) / 20_000 < 150


@pytest.mark.parametrize("spoil", ["content", "extent"])
def test_damage_is_told_and_never_passed_on(tmp_path: Path, spoil: str) -> None:
    writer = new_writer(tmp_path / "run.h5")
    append_seeded(writer, 5, 40)
    writer.close()
    with h5py.File(writer.path, "r+") as file:
        row = next(row for row in file["attempts"] if row["stdout_bytes"] > 10)
        extent = file[EXTENTS][row["extent_lo"]]
        if spoil == "content":
            file[BYTES][extent["position"]] ^= 1
        else:
            extent["length"] -= 1
            file[EXTENTS][row["extent_lo"]] = extent
    with open_run(writer.path) as run, pytest.raises(OutputError, match=rf"stdout of job 1 task {row['task']} has"):
        list(run.output(int(row["task"]) - 1, STDOUT))


def test_a_chunk_that_does_not_inflate_is_told(tmp_path: Path) -> None:
    writer = new_writer(tmp_path / "run.h5")
    gatherer = Gatherer()
    gatherer.whole((1, 1, 1), b"x")
    output = gatherer.message()
    object.__setattr__(output, "chunks", ((True, zlib.compress(b"too short")),))
    writer.append(output)
    writer.close()
    with open_run(writer.path) as run, pytest.raises(OutputError, match="chunk 0 holds 9 bytes"):
        list(run.output(0, STDOUT))


def test_rows_that_are_not_there(tmp_path: Path) -> None:
    writer = new_writer(tmp_path / "run.h5")
    append_seeded(writer, 6, 3)
    writer.close()
    with open_run(writer.path) as run:
        assert len(run.attempts(2, 99)) == 1 and len(run.attempts(7, 99)) == 0
        for row in (3, -1):
            with pytest.raises(OutputError, match=f"no attempt row {row}: it has 3 rows"):
                run.attempt(row)
        assert_seeded(run, 6, range(3))


def test_a_run_file_is_for_its_owner_alone(tmp_path: Path) -> None:
    """Also where umask lets everybody in, and where lfs has made the empty file. Outputs may hold passwords."""
    made = tmp_path / "made.h5"
    before = os.umask(0)
    try:
        made.touch(0o666)
        for writer in (new_writer(tmp_path / "run.h5"), Writer(made, {}, NODES, made=True)):
            append_seeded(writer, 6, 3)
            writer.close()
        repair(tmp_path / "run.h5", tmp_path / "repaired.h5")
    finally:
        os.umask(before)
    assert {path.name: oct(path.stat().st_mode) for path in tmp_path.glob("*.h5")} == dict.fromkeys(
        ("run.h5", "made.h5", "repaired.h5"), "0o100600"
    )


def test_importing_the_package_does_not_import_h5py() -> None:
    code = "import mpifarm.runfile, mpifarm.core.chunks, sys; sys.exit('h5py' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False, timeout=60).returncode == 0
