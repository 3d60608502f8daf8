"""Builds `Output` messages the way a leader does, with content that can be told again from a seed."""

from __future__ import annotations

import random
import shutil
import zlib
from pathlib import Path

from mpifarm.core.protocol.messages import Output
from mpifarm.core.row import STDERR, STDOUT, AttemptRow
from mpifarm.runfile.format import CHUNK_BYTES
from mpifarm.runfile.reader import RunFile, open_run
from mpifarm.runfile.writer import Appended, Writer
from tests.rows import a_row
from tests.runfile.packer import ChunkPacker

Key = tuple[int, int, int]
NODES = [("nid0001", 2, 4), ("nid0002", 1, 64)]


def content(seed: int, task: int, stream: int) -> bytes:
    """What a task prints: nothing, lines, or noise; sometimes more than a chunk."""
    rng = random.Random(f"{seed} {task} {stream}")
    kind = rng.randrange(8)
    if kind == 0:
        return b""
    if kind == 1:
        return rng.randbytes(rng.choice((1, 1000, CHUNK_BYTES - 1, CHUNK_BYTES, CHUNK_BYTES + 1)))
    return b"".join(b"task %d step %d\n" % (task, step) for step in range(rng.randrange(60)))


class Gatherer:
    """One leader's gathering. `sent` holds what each ended attempt wrote, in the order of its rows."""

    def __init__(self, rank: int = 1, compress: str = "gzip") -> None:
        self.rank = rank
        self._packer = ChunkPacker(CHUNK_BYTES, compress)
        self._open: dict[Key, tuple[int, dict[int, bytearray]]] = {}
        self._rows: list[AttemptRow] = []
        self._known = 0

    def piece(self, key: Key, stream: int, piece: bytes) -> None:
        opened = self._open.setdefault(key, (self._packer.extent_count, {STDOUT: bytearray(), STDERR: bytearray()}))
        opened[1][stream] += piece
        self._packer.add(key, stream, piece)

    def end(self, key: Key, job: int = 1) -> dict[int, bytes]:
        """The attempt's row goes into the next message. Returns what it wrote."""
        count = self._packer.extent_count
        lo, streams = self._open.pop(key, (count, {STDOUT: bytearray(), STDERR: bytearray()}))
        out, err = bytes(streams[STDOUT]), bytes(streams[STDERR])
        said = {"stdout_bytes": len(out), "stderr_bytes": len(err)}
        sums = {"stdout_crc32": zlib.crc32(out), "stderr_crc32": zlib.crc32(err)}
        self._rows.append(a_row(*key, job=job, **said, **sums, extent_lo=lo, extent_hi=count))
        return {STDOUT: out, STDERR: err}

    def whole(self, key: Key, out: bytes, err: bytes = b"") -> None:
        self.piece(key, STDOUT, out)
        self.piece(key, STDERR, err)
        self.end(key)

    def message(self) -> Output:
        extents, chunks, _ = self._packer.take()
        self._open = {
            key: (-(self._known + 1) if lo >= 0 else lo, streams) for key, (lo, streams) in self._open.items()
        }
        rows, self._rows = b"".join(row.packed() for row in self._rows), []
        return Output(self.rank, rows, extents, chunks, {})

    def written(self, extents: int) -> None:
        self._known = extents


def seeded_message(seed: int, first: int, count: int) -> Output:
    """Tasks [first, first + count) of lease 1, whole."""
    gatherer = Gatherer()
    for task in range(first, first + count):
        gatherer.whole((1, task, 1), content(seed, task, STDOUT), content(seed, task, STDERR))
    return gatherer.message()


def append_seeded(writer: Writer, seed: int, count: int) -> Appended:
    """The next `count` seeded tasks; task numbers are row numbers plus 1."""
    return writer.append(seeded_message(seed, writer.rows + 1, count))


def assert_seeded(run: RunFile, seed: int, rows: range) -> None:
    """The file gives back exactly what `append_seeded` put into these rows."""
    for row in rows:
        assert run.attempt(row).task == row + 1
        for stream in (STDOUT, STDERR):
            assert b"".join(run.output(row, stream)) == content(seed, row + 1, stream), (row, stream)


def new_writer(path: Path, compress: str = "gzip") -> Writer:
    return Writer(path, {"command": "mpifarm run", "host": "login1"}, NODES, compress)


def open_as_killed(writer: Writer, copy: Path) -> RunFile:
    """What a kill of the writer at this moment leaves. A copy: HDF5 shares what one process opens twice."""
    shutil.copyfile(writer.path, copy)
    return open_run(copy)
