"""How close to a bare posix_spawn loop is the whole farm, with 10,000 /bin/true at `mpiexec -n 3`?

    python -m benchmarks.spawn [--tasks 10000] [--rounds 3]

The bare loop starts the same command with as many in flight as the run has slots, keeps no output and records
nothing: the physical limit of the machine. The farm's time is that of its run, from its registration in the queue
to its last record. `mpiexec_s` also holds the start of Python, MPI and the ranks, which a longer run does not
notice.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import statistics
import time
from pathlib import Path

from benchmarks.figures import emit, farm, scratch_farm
from mpifarm.rank.local import find_mpiexec

RANKS = 3


def bare(tasks: int, in_flight: int) -> float:
    """Tasks per second of the loop."""
    environ = dict(os.environ)
    start = time.perf_counter()
    running = 0
    for _ in range(tasks):
        if running == in_flight:
            os.wait()
            running -= 1
        os.posix_spawn("/bin/true", ["/bin/true"], environ)
        running += 1
    while running:
        os.wait()
        running -= 1
    return tasks / (time.perf_counter() - start)


def _cpu_s() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def farmed(cwd: Path, environ: dict[str, str], tasks: int) -> dict[str, float]:
    """Figures of one run of the farm; its queue and file are made anew."""
    (cwd / "tasks.txt").write_text("/bin/true\n" * tasks)
    farm(["submit", "tasks.txt"], cwd, environ)
    mpiexec = find_mpiexec() or "mpiexec"
    cpu, start = _cpu_s(), time.perf_counter()
    farm(["run", "--quiet"], cwd, environ, prefix=[mpiexec, "-n", str(RANKS)])
    wall_s, cpu_s = time.perf_counter() - start, _cpu_s() - cpu
    report = json.loads(farm(["report", "last", "--json"], cwd, environ))
    assert report["tasks"]["succeeded"] == tasks, report
    run = report["runs"][-1]
    return {"run_s": run["ended"] - run["started"], "mpiexec_s": wall_s, "cpu_s": cpu_s, "slots": run["slots"]}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--tasks", type=int, default=10_000)
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    ratios, bares, farms = [], [], []
    with scratch_farm() as (cwd, environ):
        farmed(cwd, environ, 100)  # the database is made and warm
        for number in range(options.rounds):
            slots = len(os.sched_getaffinity(0))
            before = bare(options.tasks, slots)
            run = farmed(cwd, environ, options.tasks)
            assert run["slots"] == slots, "the run had another number of slots than the loop in flight"
            per_s = options.tasks / run["run_s"]
            limit = (before + bare(options.tasks, slots)) / 2
            bares.append(limit)
            farms.append(per_s)
            ratios.append(per_s / limit)
            more = {"tasks": options.tasks, "round": number, "slots": slots, "ranks": RANKS}
            emit("spawn", "bare loop", limit, "tasks/s", **more)
            emit("spawn", "mpifarm", per_s, "tasks/s", mpiexec_s=round(run["mpiexec_s"], 3), **more)
            emit("spawn", "cpu of everything but postgres", 1e3 * run["cpu_s"] / options.tasks, "ms/task", **more)
            emit("spawn", "mpifarm / bare loop", per_s / limit, "ratio", **more)
    emit("spawn", "mpifarm / bare loop, median", statistics.median(ratios), "ratio", rounds=options.rounds)


if __name__ == "__main__":
    main()
