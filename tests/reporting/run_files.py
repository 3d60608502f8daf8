"""Run files as a run would write them, for tests of what reads them."""

from __future__ import annotations

import zlib
from collections.abc import Mapping, Sequence
from pathlib import Path

from mpifarm.core.model import JobId, LeaseId, Limits
from mpifarm.core.protocol.messages import Output
from mpifarm.core.row import STDERR, STDOUT, AttemptRow, unpack_rows
from mpifarm.runfile.writer import Writer
from tests.rows import a_row
from tests.runfile.packer import ChunkPacker


class Scribe:
    """Writes a run file and says where each task went. `lease` and `job` are those of all its rows."""

    def __init__(self, path: Path, *, lease: int = 5, job: int = 12) -> None:
        self.path = path
        self.lease, self.job = LeaseId(lease), JobId(job)
        self._writer = Writer(path, {"run": "1"}, [("node1", 1, 1)])
        self._packer = ChunkPacker(Limits().chunk_bytes)

    def write(
        self, outputs: Mapping[int, tuple[bytes, bytes]], *, attempt: int = 1, **changes: int | float
    ) -> list[tuple[AttemptRow, int]]:
        """One message with these tasks' (stdout, stderr), synced. Returns each row with its number in the file."""
        packed_rows = b""
        for task, (stdout, stderr) in outputs.items():
            extent_lo = self._packer.extent_count
            for stream, content in ((STDOUT, stdout), (STDERR, stderr)):
                self._packer.add((self.lease, task, attempt), stream, content)
            row = _row(self.lease, self.job, task, stdout, stderr)
            row = row._replace(attempt=attempt, extent_lo=extent_lo, extent_hi=self._packer.extent_count, **changes)
            packed_rows += row.packed()
        return self._append(packed_rows)

    def left(self, task: int, parts: Sequence[tuple[int, bytes]], **changes: int) -> tuple[AttemptRow, int]:
        """A task ended that printed nothing and left this on these streams."""
        for stream, content in parts:
            self._packer.add((self.lease, task, 1), stream, content)
        row = _row(self.lease, self.job, task, b"", b"")._replace(extent_hi=self._packer.extent_count, **changes)
        return self._append(row.packed())[0]

    def piece(self, task: int, stream: int, content: bytes, *, attempt: int = 1) -> None:
        """What a task that goes on has written meanwhile."""
        self._packer.add((self.lease, task, attempt), stream, content)
        self._append(b"")

    def end(self, task: int, stdout: bytes, stderr: bytes = b"", *, attempt: int = 1) -> tuple[AttemptRow, int]:
        """The row of a task that wrote this in pieces."""
        row = _row(self.lease, self.job, task, stdout, stderr)._replace(attempt=attempt, extent_lo=-1)
        return self._append(row.packed())[0]

    def _append(self, packed_rows: bytes) -> list[tuple[AttemptRow, int]]:
        packed = self._packer.take()
        appended = self._writer.append(Output(0, packed_rows, packed.extents, packed.chunks, {}))
        self._writer.sync()
        return [(row, appended.first_row + i) for i, row in enumerate(unpack_rows(appended.rows))]

    def close(self) -> None:
        self._writer.close()


def _row(lease: LeaseId, job: JobId, task: int, stdout: bytes, stderr: bytes) -> AttemptRow:
    said = {"stdout_bytes": len(stdout), "stderr_bytes": len(stderr)}
    sums = {"stdout_crc32": zlib.crc32(stdout), "stderr_crc32": zlib.crc32(stderr)}
    nothing = {"node": 0, "slot": 0, "user_s": 0.0, "system_s": 0.0, "max_rss_kib": 0}
    return a_row(lease, task, job=job, ended=1e9 + 1.5, **nothing, **said, **sums)
