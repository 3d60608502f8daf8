"""Outputs are streamed, never loaded: what a report needs of memory does not grow with what it gives."""

from __future__ import annotations

import os
import subprocess
import sys
import zlib
from pathlib import Path

import pytest

from mpifarm.core.model import Limits
from mpifarm.core.protocol.messages import Output
from mpifarm.core.row import STDOUT
from mpifarm.runfile.writer import Writer
from tests.rows import a_row
from tests.runfile.packer import ChunkPacker

pytestmark = pytest.mark.slow

TASKS = 20_000
TEXT = b"a line of output, as tasks print them, and some more of it\n" * 64
FLOOD = 25
"""Times 4 MiB: the output of one more task."""
GROWTH_MAX_KIB = 16 << 10
"""A fifth of what is given; a leak of 800 bytes per task would be seen."""

PROGRAM = """
import resource, sys
from contextlib import nullcontext
from mpifarm.cli import main
from mpifarm.queue.client import Client
from tests.reporting.rows import FakeClient, a_job, a_run, a_task

path, tasks, *argv = sys.argv[1:]
line = a_task(1, state="succeeded", seconds=1.0, started=1.0, file=path, lease=5, attempt=1)

class Endless(FakeClient):
    def tasks(self, job, *, ranges=None, states=None):
        lo, hi = (ranges or [(1, int(tasks) + 1)])[0]
        for task in range(lo, hi):
            yield line._replace(task=task, file_row=task - 1)

client = Endless(a_job(total=int(tasks), succeeded=int(tasks)))
client.all_runs = [a_run(1, file=path)]
Client.connect = lambda dsn: nullcontext(client)
code = main.main(argv)
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, file=sys.stderr)
sys.exit(code)
"""


@pytest.fixture(scope="module")
def run_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Of TASKS tasks: 75 MB of output, and one more task that wrote 100 MB without a newline."""
    path = tmp_path_factory.mktemp("memory") / "run-1.h5"
    writer = Writer(path, {"run": "1"}, [("node1", 1, 1)])
    packer = ChunkPacker(Limits().chunk_bytes)

    def row(task: int, size: int, crc32: int, lo: int) -> bytes:
        said = {"stdout_bytes": size, "stdout_crc32": crc32}
        return a_row(5, task, job=12, node=0, **said, extent_lo=lo, extent_hi=packer.extent_count).packed()

    crc32 = zlib.crc32(TEXT)
    for first in range(1, TASKS + 1, 5000):
        rows = []
        for task in range(first, first + 5000):
            lo = packer.extent_count
            packer.add((5, task, 1), STDOUT, TEXT)
            rows.append(row(task, len(TEXT), crc32, lo))
        packed = packer.take()
        writer.append(Output(0, b"".join(rows), packed.extents, packed.chunks, {}))
    flood = bytes(4 << 20)
    crc32, lo = 0, writer.extents
    for _ in range(FLOOD):
        packer.add((5, TASKS + 1, 1), STDOUT, flood)
        crc32 = zlib.crc32(flood, crc32)
        packed = packer.take()
        writer.append(Output(0, b"", packed.extents, packed.chunks, {}))
    last = row(TASKS + 1, FLOOD * len(flood), crc32, -(lo + 1))
    writer.append(Output(0, last, b"", (), {}))
    writer.close()
    return path


def peak_kib(path: Path, tasks: int, *argv: str, code: int = 0) -> tuple[int, int]:
    """Most memory that `mpifarm ARGV` held, and how many bytes it gave."""
    root = Path(__file__).parents[2]
    process = subprocess.Popen(
        [sys.executable, "-c", PROGRAM, str(path), str(tasks), *argv],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, cwd=root, env=os.environ | {"PYTHONPATH": str(root)},
    )  # fmt: skip
    assert process.stdout is not None
    assert process.stderr is not None
    given = 0
    while piece := process.stdout.read(1 << 20):
        given += len(piece)
    said = process.stderr.read().split()
    assert process.wait(60) == code, said
    process.stdout.close()
    process.stderr.close()
    return int(said[-1]), given


@pytest.mark.parametrize(
    ("argv", "given"),
    [
        (["report", "scan", "--tasks"], TASKS * len(TEXT)),
        (["report", "scan", "--grep", "more of [a-h]", "--tasks"], 0),
        (["report", "scan", "--attempt", "1", "--grep", "nowhere", "--tasks"], 0),
        (["tasks", "scan", "--format", "csv", "--tasks"], None),
    ],
    ids=["outputs", "grep", "attempts", "csv"],
)
def test_many_outputs(run_file: Path, argv: list[str], given: int | None) -> None:
    code = int(given == 0)
    few, _ = peak_kib(run_file, TASKS + 1, *argv, "1-1000", code=code)
    many, size = peak_kib(run_file, TASKS + 1, *argv, f"1-{TASKS}", code=code)
    assert given is None or size == given
    assert many - few < GROWTH_MAX_KIB, (few, many)


def test_one_large_output(run_file: Path) -> None:
    few, _ = peak_kib(run_file, TASKS + 1, "report", "scan", "--tasks", "1")
    plain, size = peak_kib(run_file, TASKS + 1, "report", "scan", "--tasks", str(TASKS + 1))
    assert size == FLOOD * (4 << 20)
    found, _ = peak_kib(run_file, TASKS + 1, "report", "scan", "--tasks", str(TASKS + 1), "--grep", "x", code=1)
    assert max(plain, found) - few < GROWTH_MAX_KIB, (few, plain, found)
