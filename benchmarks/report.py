"""What does it cost to get outputs back, of one task in a million and of all of them?

    python -m benchmarks.report [--tasks 1000000] [--bytes 500] [--rounds 5]

A queue and a run file are filled as a run would fill them, without running anything. Then: `report JOB --tasks N`
against starting the program and connecting (`mpifarm runs`); all outputs into a pipe against `cat` of the same bytes;
grep, tasks, export, verify. Memory is the peak of the command's process.
"""

from __future__ import annotations

import argparse
import os
import random
import resource
import socket
import statistics
import subprocess
import sys
import time
import zlib
from collections.abc import Iterator
from pathlib import Path

from benchmarks.figures import emit, farm, scratch_farm
from mpifarm.core.model import JobId, LeaseId, Limits
from mpifarm.core.needs import Needs
from mpifarm.core.protocol.messages import Output
from mpifarm.core.protocol.verbs import Batch, RunInfo
from mpifarm.core.row import STDOUT, AttemptRow, unpack_rows
from mpifarm.queue.run_verbs import PostgresQueue
from mpifarm.runfile.writer import Writer
from mpifarm.server.dsn import find_dsn
from tests.runfile.packer import ChunkPacker

READ_BYTES = 1 << 20
TASK_S = 0.01
"""What a task took, 8 at a time: more at once than there are slots would be accounted for at a price."""


def output_of(task: int, size: int) -> bytes:
    """As programs print: numbers and words; deflates to about a third."""
    text = b"".join(b"step %d energy %.6f\n" % (step, (task * step * 0.618) % 7) for step in range(1, size // 22 + 2))
    return text[: size - 1] + b"\n"


def fill(path: Path, environ: dict[str, str], tasks: int, size: int) -> None:
    """A job of `tasks` tasks that all succeeded, and its run file."""
    cwd = path.parent
    (cwd / "scan.txt").write_text("".join(f"./simulate --seed {task}\n" for task in range(1, tasks + 1)))
    farm(["submit", "scan.txt"], cwd, environ)
    os.environ.update(environ)  # the embedded server is found by it
    queue = PostgresQueue.connect(find_dsn(None, environ, cwd))
    info = RunInfo(socket.gethostname(), os.getpid(), "boot", "", "mpifarm run", "0", 1, 3, 8, node_names=("node1",))
    run = queue.open_run(info)
    queue.name_file(run, str(path))
    writer, packer = Writer(path, {"run": str(run)}, [("node1", 1, 8)]), ChunkPacker(Limits().chunk_bytes)
    now = time.time()
    while blocks := queue.lease(run, 10_000, 16 << 20, Needs(64)).blocks:
        for block in blocks:
            rows = []
            for task in range(block.lo, block.hi):
                text, lo = output_of(task, size), packer.extent_count
                packer.add((block.lease, task, block.attempt), STDOUT, text)
                rows.append(_row(block.lease, block.job, task, now + task // 8 * TASK_S, text, lo, packer.extent_count))
            packed = packer.take()
            appended = writer.append(Output(0, b"".join(rows), packed.extents, packed.chunks, {}))
            outcomes: list[tuple[AttemptRow, int | None, bytes | None]] = [
                (row, appended.first_row + i, None) for i, row in enumerate(unpack_rows(appended.rows))
            ]
            queue.record(run, Batch(outcomes=outcomes, done=[block.lease]))
    writer.sync()
    writer.close()
    queue.close_run(run)
    queue.close()


def _row(lease: LeaseId, job: JobId, task: int, now: float, text: bytes, lo: int, hi: int) -> bytes:
    return AttemptRow(
        lease=lease, job=job, task=task, attempt=1, state=0, failure=0, exit_code=0, signal=0, node=0, slot=0, cpus=1,
        started=now, ended=now + TASK_S, stdout_bytes=len(text), stdout_crc32=zlib.crc32(text),
        extent_lo=lo, extent_hi=hi,
    ).packed()  # fmt: skip


def piped(command: list[str], cwd: Path, environ: dict[str, str]) -> tuple[float, int, resource.struct_rusage]:
    """(seconds, bytes, what it used) of a command whose output goes into a pipe and is thrown away."""
    start = time.perf_counter()
    process = subprocess.Popen(command, cwd=cwd, env=environ, stdout=subprocess.PIPE)
    assert process.stdout is not None
    buffer, count = bytearray(READ_BYTES), 0
    while got := process.stdout.readinto(buffer):  # type: ignore[attr-defined]
        count += got
    _, status, used = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    process.stdout.close()
    if process.returncode:
        sys.exit(f"{' '.join(command)} ended with {process.returncode}")
    return time.perf_counter() - start, count, used


def mpifarm(*arguments: str) -> list[str]:
    return [sys.executable, "-m", "mpifarm", *arguments]


def one_task(cwd: Path, environ: dict[str, str], tasks: int, rounds: int) -> None:
    """Started and connected, against the output of one task besides; in turn."""
    chance = random.Random(1)
    started: list[float] = []
    had: list[float] = []
    cpu: tuple[list[float], list[float]] = [], []
    for _ in range(rounds):
        asked = mpifarm("report", "scan", "--tasks", str(chance.randrange(1, tasks + 1)))
        for command, seconds, used_s in ((mpifarm("runs"), started, cpu[0]), (asked, had, cpu[1])):
            took, _, used = piped(command, cwd, environ)
            seconds.append(took)
            used_s.append(used.ru_utime + used.ru_stime)
    version = statistics.median(piped(mpifarm("--version"), cwd, environ)[0] for _ in range(rounds))
    emit("report", "mpifarm --version", version, "s", rounds=rounds)
    emit("report", "started and connected", statistics.median(started), "s", rounds=rounds)
    emit("report", "one task of all", statistics.median(had), "s", tasks=tasks, rounds=rounds)
    more = statistics.median(had) - statistics.median(started)
    more_cpu = round(statistics.median(cpu[1]) - statistics.median(cpu[0]), 3)
    emit("report", "one task, beyond starting and connecting", more, "s", tasks=tasks, rounds=rounds, cpu_s=more_cpu)


def looks(cwd: Path) -> Iterator[tuple[str, list[str]]]:
    yield "all outputs", mpifarm("report", "scan", "--tasks", "1-")
    yield "grep in all outputs", mpifarm("report", "scan", "--grep", "step 3 energy 6.99")
    yield "tasks --format csv", mpifarm("tasks", "scan", "--format", "csv")
    yield "export", mpifarm("export", "scan", str(cwd / "scan.h5"), "--force")
    yield "all outputs of the export", mpifarm("report", str(cwd / "scan.h5"), "--tasks", "1-")
    yield "verify", mpifarm("verify", "scan", "--quiet")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--tasks", type=int, default=1_000_000)
    parser.add_argument("--bytes", type=int, default=500, help="of output per task")
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    with scratch_farm() as (cwd, environ):
        tasks, size = options.tasks, options.bytes
        file = cwd / "mpifarm-run-1.h5"
        if (child := os.fork()) == 0:  # a process that starts others counts as their peak of memory: stay small
            fill(file, environ, tasks, size)
            os._exit(0)
        os.waitpid(child, 0)
        shape = {"tasks": tasks, "task_bytes": size}
        emit("report", "stored", file.stat().st_size / tasks, "bytes/task", **shape)
        one_task(cwd, environ, tasks, options.rounds)
        flat = cwd / "flat"
        with open(flat, "wb") as out:
            for task in range(1, tasks + 1):
                out.write(output_of(task, size))
        for name, command in looks(cwd):
            if command[-1] == "1-":
                command[-1] = f"1-{tasks}"
            seconds, count, used = piped(command, cwd, environ)
            more = {**shape, "seconds": round(seconds, 2), "out_bytes": count}
            more |= {"cpu_s": round(used.ru_utime + used.ru_stime, 2), "peak_mib": round(used.ru_maxrss / 1024, 1)}
            if name.startswith("all outputs"):
                assert count == tasks * size, count
                cat = piped(["cat", str(flat)], cwd, environ)[0]
                emit("report", name, count / seconds / 1e6, "MB/s", cat_mb_s=round(count / cat / 1e6), **more)
            else:
                emit("report", name, tasks / seconds, "tasks/s", **more)


if __name__ == "__main__":
    main()
