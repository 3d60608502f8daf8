"""`repair`: what a damaged file still holds comes back under its old numbers, and what is lost is told by task."""

from __future__ import annotations

import random
import zlib
from collections.abc import Callable
from pathlib import Path

import h5py
import numpy as np
import pytest

from mpifarm.cli import main
from mpifarm.core.protocol.messages import Output
from mpifarm.core.row import EXTENT, ROW, STDOUT
from mpifarm.errors import OutputError
from mpifarm.runfile import format
from mpifarm.runfile import writer as writer_module
from mpifarm.runfile.format import CHUNK_BYTES
from mpifarm.runfile.reader import open_run
from mpifarm.runfile.repairing.rebuild import repair
from mpifarm.runfile.repairing.salvage import Arrays
from mpifarm.runfile.repairing.superblock import lookup3
from mpifarm.runfile.writer import Writer
from tests.rows import a_row
from tests.runfile.damage import SEED, TASKS, make
from tests.runfile.gather import NODES, assert_seeded
from tests.runfile.packer import ChunkPacker

pytestmark = pytest.mark.slow


@pytest.fixture
def whole(tmp_path: Path) -> bytes:
    return make(tmp_path / "whole.h5", finished=False)


def damaged(path: Path, whole: bytes, *holes: tuple[int, int]) -> Path:
    content = bytearray(whole)
    for lo, hi in holes:
        content[lo:hi] = bytes(hi - lo)
    path.write_bytes(content)
    return path


def blocks(whole: bytes, mark: bytes, size: int) -> list[tuple[int, int]]:
    found, at = [], whole.find(mark)
    while at >= 0:
        found.append((at, at + size))
        at = whole.find(mark, at + 1)
    return found


@pytest.mark.parametrize(
    "holes",
    [
        lambda _: [(0, 48)],
        lambda _: [(0, 512)],
        lambda whole: blocks(whole, b"EAHD", 72),
        lambda whole: [(at + 30, at + 31) for at, _ in blocks(whole, b"EADB", 0)],
        lambda whole: [(at + 60, at + 200) for at, _ in blocks(whole, b"EAIB", 0)],
        lambda whole: blocks(whole, b"OHDR", 40),
    ],
    ids=["superblock", "root", "array headers", "data blocks", "pointers to data blocks", "object headers"],
)
def test_metadata_are_not_needed(tmp_path: Path, whole: bytes, holes: Callable[[bytes], list[tuple[int, int]]]) -> None:
    path = damaged(tmp_path / "run.h5", whole, *holes(whole))
    with pytest.raises(OutputError), open_run(path) as run:
        assert_seeded(run, SEED, range(TASKS))
    repaired = repair(path, tmp_path / "out.h5")
    assert repaired.attempts == TASKS
    assert len(repaired.damaged.get(1, [])) < TASKS // 4
    with open_run(tmp_path / "out.h5") as run:
        lost = {task - 1 for task in repaired.damaged.get(1, [])}
        for row in set(range(TASKS)) - lost:
            assert_seeded(run, SEED, range(row, row + 1))


def test_a_sound_file_comes_back_whole(tmp_path: Path, whole: bytes) -> None:
    path = damaged(tmp_path / "run.h5", whole)
    repaired = repair(path, tmp_path / "out.h5")
    assert (repaired.whole, repaired.notes, repaired.rowless, repaired.attempts) == (True, [], [], TASKS)
    with open_run(tmp_path / "out.h5") as run:
        assert run.nodes == NODES
        assert run.attributes["command"] == "mpifarm run"
        assert run.attributes["repaired_from"] == str(path)
        assert_seeded(run, SEED, range(TASKS))
    with h5py.File(tmp_path / "out.h5", "r") as file:  # finished: any tool opens it
        assert len(file["attempts"]) == TASKS


def test_what_is_lost_is_told_by_task(tmp_path: Path, whole: bytes, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "run-1.h5"
    path.write_bytes(whole)
    with h5py.File(path, "r", swmr=True) as file:
        rows, pool = file["attempts"].id.get_chunk_info(0), file["bytes"].id
        chunks = (pool.get_chunk_info(number) for number in range(pool.get_num_chunks()))
        chunk = next(chunk for chunk in chunks if chunk.size < 60_000)
    size = ROW.size
    damaged(path, whole, (chunk.byte_offset, chunk.byte_offset + 40), (rows.byte_offset, rows.byte_offset + 5 * size))
    assert main.main(["repair", str(path)]) == 6
    said = capsys.readouterr().out
    assert f"lost: 1 chunks of {CHUNK_BYTES >> 10} KiB of output" in said
    assert "job 0" not in said
    assert "lost: output, or a part of it, of job 1 task " in said
    assert "lost: 5 rows of `attempts` (0-4)" in said
    assert f"next: mv {tmp_path}/run-1.repaired.h5 {path} && mpifarm verify" in said
    assert main.main(["repair", str(path)]) == 2  # never overwrites
    assert "exists already" in capsys.readouterr().err
    assert main.main(["repair", str(path), "-o", str(path), "--force"]) == 2


@pytest.mark.parametrize("version", [1, 2])
def test_a_file_of_an_older_format(tmp_path: Path, version: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its rows are narrower: they are told apart by what they hold, and come out as rows of today."""
    old = format.ROW_TYPES[format.FORMAT_VERSION - version]
    narrow = np.array([a_row(task=task)[: len(old)] for task in range(1, 40)], old)
    with monkeypatch.context() as then:
        then.setattr(format, "ROW_TYPE", old)
        then.setattr(writer_module, "ROW_TYPE", old)
        writer = Writer(tmp_path / "run.h5", {}, NODES)
        writer.append(Output(1, narrow.tobytes(), b"", (), {}))
        writer.close()
    damaged(tmp_path / "run.h5", (tmp_path / "run.h5").read_bytes(), (0, 48))
    assert repair(tmp_path / "run.h5", tmp_path / "out.h5").attempts == 39
    with open_run(tmp_path / "out.h5") as run:
        assert [run.attempt(number) for number in range(39)] == [a_row(task=task) for task in range(1, 40)]


def test_noise_where_a_table_has_not_got_to(tmp_path: Path, whole: bytes) -> None:
    """Extents among which some make no sense are not taken for events, whose time would be their lease."""
    path = damaged(tmp_path / "run.h5", whole)
    with h5py.File(path, "r", swmr=True) as file:
        at = file["extents"].id.get_chunk_info(0).byte_offset + 1000 * EXTENT.size
    path.write_bytes(whole[:at] + random.Random(1027).randbytes(512) + whole[at + 512 :])
    repair(path, tmp_path / "out.h5")
    with open_run(tmp_path / "out.h5") as run:
        assert_seeded(run, SEED, range(TASKS))


@pytest.mark.parametrize("content", [b"", b"dear diary " * 1000, bytes(100_000)], ids=["empty", "text", "zeros"])
def test_nothing_of_a_run_file(tmp_path: Path, content: bytes, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "notes.h5"
    path.write_bytes(content)
    assert main.main(["repair", str(path)]) == 5
    assert "cannot repair" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == [path]


def test_arrays_are_understood_at_every_size(tmp_path: Path) -> None:
    """Direct blocks, secondary blocks, pages: every chunk is where HDF5 says that it is."""
    path, count = tmp_path / "many.h5", 150_000
    with h5py.File(path, "w", libver=("v110", "latest")) as file:
        kinds = {"compression": "gzip", "fill_time": "never"}
        made = file.create_dataset("bytes", (2 * count,), "u1", maxshape=(None,), chunks=(2,), **kinds)
        for number in range(count):
            if number % 997 != 5:
                made.id.write_direct_chunk((2 * number,), b"ab", number % 2)
        told = {}
        made.id.chunk_iter(
            lambda chunk: told.update({chunk.chunk_offset[0] // 2: (chunk.byte_offset, chunk.filter_mask)})
        )
    found = Arrays(path.read_bytes(), 2).filtered[0]
    assert {number: (chunk.address, int(not chunk.filtered)) for number, chunk in found.items()} == told


def test_the_hash_of_hdf5(whole: bytes) -> None:
    assert lookup3(whole[:44]) == int.from_bytes(whole[44:48], "little")
    assert lookup3(b"Four score and seven years ago") == 0x17770551  # its author's own example


def test_a_file_compressed_with_zstd(tmp_path: Path) -> None:
    pytest.importorskip("hdf5plugin")
    path = tmp_path / "run.h5"
    writer = Writer(path, {}, NODES, "zstd")
    packer = ChunkPacker(CHUNK_BYTES, "zstd")
    text = b"a line of output\n" * 20_000
    packer.add((1, 1, 1), STDOUT, text)
    row = a_row(stdout_bytes=len(text), stdout_crc32=zlib.crc32(text), extent_hi=packer.extent_count)
    packed = packer.take()
    writer.append(Output(1, row.packed(), packed.extents, packed.chunks, {}))
    writer.close()
    damaged(path, path.read_bytes(), (0, 48))
    assert repair(path, tmp_path / "out.h5").whole
    with open_run(tmp_path / "out.h5") as run:
        assert b"".join(run.output(0, STDOUT)) == text
