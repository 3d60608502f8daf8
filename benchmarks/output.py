"""What does it cost to have all outputs in one file, against tasks that write files of their own?

    python -m benchmarks.output [--rounds 3] [--quick] [--only bare|writer|flood]

bare: the yardstick is a bare posix_spawn loop with as many in flight as the run has slots, whose tasks write straight
to one file each; its files are synced at the end, since mpifarm's bytes are on disk when it says so. The same tasks,
in turn. writer: the writer of the run file alone, with what leaders send it for a million attempts of 100 bytes.
flood: a few tasks that print without end go through one run; how far do its processes grow?
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import statistics
import threading
import time
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from benchmarks.figures import emit, farm, scratch_farm
from mpifarm.core.model import JobId, LeaseId, Limits
from mpifarm.core.protocol.messages import Output
from mpifarm.core.row import STDOUT, AttemptRow
from mpifarm.rank.local import find_mpiexec
from tests.runfile.packer import ChunkPacker

SIZES = ((1000, 1 << 20), (20_000, 50 << 10))
"""(tasks, bytes of output each)"""
FLOOD_BYTES = 3_000_000_000
ATTEMPTS, ATTEMPT_BYTES, MESSAGE_ATTEMPTS = 1_000_000, 100, 1000


def make_sources(cwd: Path) -> list[Path]:
    """What the tasks print: numbers as text, which deflates to about half; and noise, which does not."""
    text = b"".join(b"%d %.9f\n" % (i, (i * 0.6180339887498949) % 1) for i in range(60_000))
    made = []
    for name, content in (("text", (text * 2)[: 1 << 20]), ("noise", os.urandom(1 << 20))):
        made.append(cwd / name)
        made[-1].write_bytes(content)
    return made


def bare(source: Path, tasks: int, size: int, in_flight: int, cwd: Path) -> float:
    """MB/s of the loop, files synced."""
    folder = cwd / "files"
    folder.mkdir()
    argv = ["head", "-c", str(size), str(source)]
    program = shutil.which("head") or "/usr/bin/head"
    start = time.perf_counter()
    running = 0
    for number in range(tasks):
        if running == in_flight:
            os.wait()
            running -= 1
        flags = os.O_WRONLY | os.O_CREAT
        actions = [(os.POSIX_SPAWN_OPEN, 1, str(folder / str(number)), flags, 0o644)]
        os.posix_spawn(program, argv, os.environ, file_actions=actions)
        running += 1
    while running:
        os.wait()
        running -= 1
    os.sync()
    seconds = time.perf_counter() - start
    shutil.rmtree(folder)
    return tasks * size / seconds / 1e6


def farmed(source: Path, tasks: int, size: int, cwd: Path, environ: dict[str, str]) -> tuple[float, int]:
    """(MB/s of the run, bytes of its file)."""
    (cwd / "tasks.txt").write_text(f"head -c {size} {source}\n" * tasks)
    farm(["submit", "tasks.txt"], cwd, environ)
    farm(["run", "--quiet"], cwd, environ, prefix=[find_mpiexec() or "mpiexec", "-n", "3"])
    report = json.loads(farm(["report", "last", "--json"], cwd, environ))
    assert report["tasks"]["succeeded"] == tasks, report
    run = report["runs"][-1]
    file = Path(run["file"])
    stored = file.stat().st_size
    file.unlink()
    return tasks * size / (run["ended"] - run["started"]) / 1e6, stored


@contextmanager
def memory_of(cwd: Path) -> Iterator[dict[str, list[int]]]:
    """While it lasts, the private resident bytes of each process of mpifarm in `cwd`, by kind, all the readings."""
    readings: dict[str, list[int]] = {}
    over = threading.Event()

    def look() -> None:
        while not over.wait(0.1):
            for folder in Path("/proc").iterdir():
                try:
                    if folder.name.isdigit() and Path(os.readlink(folder / "cwd")) == cwd:
                        line = (folder / "cmdline").read_bytes()
                        status = (folder / "status").read_text()
                        kind = line.split(b"\0")[0].decode()
                        if b"-m\0mpifarm\0run" in line and b"mpiexec" not in line:
                            kind = f"rank process {folder.name}"
                        elif not kind.startswith("mpifarm-"):
                            continue
                        readings.setdefault(kind, []).append(int(status.split("RssAnon:")[1].split()[0]) << 10)
                except (OSError, IndexError):
                    continue

    thread = threading.Thread(target=look)
    thread.start()
    try:
        yield readings
    finally:
        over.set()
        thread.join()


def flood(cwd: Path, environ: dict[str, str], size: int) -> None:
    """Growth of every process between a quarter of the time and the end."""
    tasks = 4
    (cwd / "tasks.txt").write_text(f"yes 'a line of text, the same again' | head -c {size // tasks}\n" * tasks)
    farm(["submit", "tasks.txt"], cwd, environ)
    with memory_of(cwd) as readings:
        farm(["run", "--quiet"], cwd, environ, prefix=[find_mpiexec() or "mpiexec", "-n", "3"])
    file = Path(json.loads(farm(["report", "last", "--json"], cwd, environ))["runs"][-1]["file"])
    file.unlink()
    for kind, seen in sorted(readings.items()):
        if len(seen) > 8:
            early = max(seen[: len(seen) // 4])
            more = {"process": kind.rstrip("0123456789 "), "early_MiB": early >> 20, "output_bytes": size}
            emit("output", "growth of a process in a flood", (max(seen) - early) / 2**20, "MiB", **more)


def messages(attempts: int) -> Iterator[Output]:
    """What a leader sends for so many attempts of ATTEMPT_BYTES bytes."""
    packer = ChunkPacker(Limits().chunk_bytes)
    for start in range(0, attempts, MESSAGE_ATTEMPTS):
        rows = []
        for task in range(start + 1, start + MESSAGE_ATTEMPTS + 1):
            text = (b"energy %d %.9f " % (task, (task * 0.6180339887498949) % 1)).ljust(ATTEMPT_BYTES - 1, b".") + b"\n"
            lo = packer.extent_count
            packer.add((1, task, 1), STDOUT, text)
            row = AttemptRow(
                lease=LeaseId(1), job=JobId(1), task=task, attempt=1, state=0, failure=0, exit_code=0, signal=0,
                node=0, slot=3, cpus=1, started=1e9, ended=1e9 + 2, user_s=0.5, system_s=0.25, max_rss_kib=1024,
                stdout_bytes=len(text), stdout_crc32=zlib.crc32(text), extent_lo=lo, extent_hi=lo + 1,
            )  # fmt: skip
            rows.append(row.packed())
        packed = packer.take()
        yield Output(0, b"".join(rows), packed.extents, packed.chunks, {})


def writer_alone(cwd: Path, attempts: int) -> None:
    from mpifarm.runfile.writer import Writer

    writer, seconds, content = Writer(cwd / "direct.h5", {}, [("node", 1, 1)]), 0.0, 0
    for number, output in enumerate(messages(attempts)):
        content += sum(len(data) for _, data in output.chunks)
        start = time.perf_counter()
        writer.append(output)
        if number % 10 == 9:
            writer.sync()
        seconds += time.perf_counter() - start
    start = time.perf_counter()
    writer.sync()
    writer.close()
    seconds += time.perf_counter() - start
    more = {"attempts": attempts, "attempt_bytes": ATTEMPT_BYTES}
    emit("output", "Writer alone, syncs included", attempts / seconds, "attempts/s", **more)
    overhead = (writer.path.stat().st_size - content) / attempts
    emit("output", "run file beside the output itself", overhead, "bytes/attempt", **more)
    writer.path.unlink()


def against_bare(cwd: Path, environ: dict[str, str], rounds: int, divisor: int) -> None:
    slots = len(os.sched_getaffinity(0))
    for source in make_sources(cwd):
        for tasks, size in SIZES:
            count = tasks // divisor
            ratios = []
            for number in range(rounds):
                before = bare(source, count, size, slots, cwd)
                per_s, stored = farmed(source, count, size, cwd, environ)
                limit = (before + bare(source, count, size, slots, cwd)) / 2
                ratios.append(per_s / limit)
                more = {"tasks": count, "task_bytes": size, "content": source.name, "round": number}
                load = round(os.getloadavg()[0], 1)  # others on the machine
                emit("output", "bare loop into files", limit, "MB/s", files=count, **more)
                emit("output", "mpifarm into one file", per_s, "MB/s", files=1, stored_bytes=stored, load=load, **more)
            more = {"tasks": count, "task_bytes": size, "content": source.name, "rounds": rounds}
            emit("output", "mpifarm / bare loop, median", statistics.median(ratios), "ratio", **more)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--quick", action="store_true", help="a tenth of everything")
    parser.add_argument("--only", choices=("bare", "writer", "flood"))
    options = parser.parse_args()
    divisor = 10 if options.quick else 1
    with scratch_farm() as (cwd, environ):
        if options.only in (None, "writer"):
            writer_alone(cwd, ATTEMPTS // divisor)
        if options.only in (None, "flood"):
            flood(cwd, environ, FLOOD_BYTES // divisor)
        if options.only in (None, "bare"):
            against_bare(cwd, environ, options.rounds, divisor)


if __name__ == "__main__":
    main()
