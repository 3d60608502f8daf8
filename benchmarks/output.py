"""What does it cost to have all outputs in one file, against tasks that write files of their own?

    python -m benchmarks.output [--rounds 3] [--quick]

The yardstick is a bare posix_spawn loop with as many in flight as the run has slots, whose tasks write straight to
one file each; its files are synced at the end, since mpifarm's bytes are on disk when it says so. The same tasks,
in turn.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import statistics
import time
from pathlib import Path

from benchmarks.figures import emit, farm, scratch_farm
from mpifarm.local import find_mpiexec

SIZES = ((1000, 1 << 20), (20_000, 50 << 10))
"""(tasks, bytes of output each)"""


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


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--quick", action="store_true", help="a tenth of the tasks")
    options = parser.parse_args()
    slots = len(os.sched_getaffinity(0))
    with scratch_farm() as (cwd, environ):
        for source in make_sources(cwd):
            for tasks, size in SIZES:
                count = tasks // 10 if options.quick else tasks
                ratios = []
                for number in range(options.rounds):
                    before = bare(source, count, size, slots, cwd)
                    per_s, stored = farmed(source, count, size, cwd, environ)
                    limit = (before + bare(source, count, size, slots, cwd)) / 2
                    ratios.append(per_s / limit)
                    more = {"tasks": count, "task_bytes": size, "content": source.name, "round": number}
                    emit("output", "bare loop into files", limit, "MB/s", files=count, **more)
                    emit("output", "mpifarm into one file", per_s, "MB/s", files=1, stored_bytes=stored, **more)
                more = {"tasks": count, "task_bytes": size, "content": source.name, "rounds": options.rounds}
                emit("output", "mpifarm / bare loop, median", statistics.median(ratios), "ratio", **more)


if __name__ == "__main__":
    main()
