"""What does the queue cost per task: to load, to lease and to record, at 10 thousand and at a million tasks?

    python -m benchmarks.queue [--tasks 1000000] [--runs 1 4 16] [--block 5000]

Load is `mpifarm submit FILE`, parsing included, against raw COPY of the same rows into an equal table of that server.
Lease and record are done by processes that play runs and execute nothing; with `snapshot` another session holds a
snapshot open for the whole drain, as a forgotten psql or a backup does.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psycopg

from benchmarks.figures import emit, farm, scratch_farm
from mpifarm.core.model import Block, RunId
from mpifarm.core.row import AttemptRow
from mpifarm.core.verbs import Batch, RunInfo
from mpifarm.queue import embedded
from mpifarm.queue.dsn import Dsn
from mpifarm.queue.postgres import PostgresQueue

BYTES_MAX = 64 << 20


def write_tasks(path: Path, tasks: int) -> None:
    with path.open("w") as file:
        file.writelines(f"./simulate --seed {number} --out result-{number}.dat\n" for number in range(tasks))


def raw_copy(conninfo: str, tasks: int) -> float:
    """Tasks per second of COPY, binary to binary, of the rows that the last job has."""
    with psycopg.connect(conninfo, autocommit=True) as connection:
        job = connection.execute("SELECT max(id) FROM mpifarm.job").fetchone()
        select = f"SELECT job, no, command, entry FROM mpifarm.task WHERE job = {job[0] if job else 0} ORDER BY no"
        with connection.cursor().copy(f"COPY ({select}) TO STDOUT (FORMAT BINARY)".encode()) as out:
            pieces = [bytes(piece) for piece in out]
        whole = b"".join(pieces)
        connection.execute("CREATE TABLE raw (LIKE mpifarm.task INCLUDING ALL)")
        start = time.perf_counter()
        with connection.cursor().copy("COPY raw (job, no, command, entry) FROM STDIN (FORMAT BINARY)") as into:
            for place in range(0, len(whole), 1 << 20):
                into.write(whole[place : place + (1 << 20)])
        seconds = time.perf_counter() - start
        connection.execute("DROP TABLE raw")
    return tasks / seconds


def _ended(block: Block, task: int) -> AttemptRow:
    """A row of a task that succeeded at once, with one cpu and no output."""
    now = time.time()
    who = block.lease, block.job, task, block.attempt
    return AttemptRow(*who, 0, 0, 0, 0, 0, 0, 1, now, now, 0.0, 0.0, 0, 0, 0, 0, 0, 0, 0, 0, 0)


def drain(conninfo: str, block: int) -> None:
    """One run that executes nothing: prints its tasks and the seconds it leased and recorded."""
    queue = PostgresQueue.connect(Dsn(conninfo, "benchmark"))
    info = RunInfo("benchmark", os.getpid(), "", "", "", "", 1, 1, 1, ("node",))
    run: RunId = queue.open_run(info)
    tasks, lease_s, record_s = 0, 0.0, 0.0
    while True:
        start = time.perf_counter()
        grant = queue.lease(run, block, BYTES_MAX, 1 << 15)
        lease_s += time.perf_counter() - start
        if not grant.blocks:
            if grant.ready_left:
                continue
            break
        batch = Batch()
        for given in grant.blocks:
            rows = [_ended(given, task) for task in range(given.lo, given.hi)]
            batch.outcomes.extend((row, 0, None) for row in rows)
            batch.done.append(given.lease)
        start = time.perf_counter()
        assert not queue.record(run, batch)
        record_s += time.perf_counter() - start
        tasks += len(batch.outcomes)
    queue.close_run(run)
    queue.close()
    print(tasks, lease_s, record_s)


@contextmanager
def snapshot(conninfo: str, held: bool) -> Iterator[None]:
    """Another session's open snapshot, or none."""
    if not held:
        yield
        return
    with psycopg.connect(conninfo) as connection:
        connection.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ")
        connection.execute("SELECT count(*) FROM mpifarm.job")
        yield


def drained(conninfo: str, runs: int, block: int, **more: Any) -> None:
    """Drain what is queued with so many runs at once, and print the figures."""
    command = [sys.executable, "-m", "benchmarks.queue", "--drain", conninfo, "--block", str(block)]
    start = time.perf_counter()
    players = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(runs)]
    said = [player.communicate()[0].split() for player in players]
    seconds = time.perf_counter() - start
    assert all(player.returncode == 0 for player in players)
    tasks = sum(int(words[0]) for words in said)
    in_calls = sum(float(words[1]) + float(words[2]) for words in said)
    emit("queue", "lease + record, all runs", tasks / seconds, "tasks/s", runs=runs, block=block, tasks=tasks, **more)
    emit("queue", "lease + record, in the calls", 1e6 * in_calls / tasks, "us/task", runs=runs, block=block, **more)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--tasks", type=int, default=1_000_000)
    parser.add_argument("--runs", type=int, nargs="+", default=[1, 4, 16])
    parser.add_argument("--block", type=int, default=5000)
    parser.add_argument("--drain", metavar="CONNINFO", help="be one of the runs (used by this program itself)")
    options = parser.parse_args()
    if options.drain:
        drain(options.drain, options.block)
        return
    with scratch_farm() as (cwd, environ), embedded.server(environ) as conninfo:
        file = cwd / "tasks.txt"
        for tasks in sorted({10_000, options.tasks}):
            write_tasks(file, tasks)
            for runs in options.runs:
                for held in (False, True) if runs == 1 else (False,):
                    start = time.perf_counter()
                    farm(["submit", str(file)], cwd, environ)
                    per_s = tasks / (time.perf_counter() - start)
                    if runs == options.runs[0] and not held:
                        raw = raw_copy(conninfo, tasks)
                        emit("queue", "mpifarm submit FILE", per_s, "tasks/s", tasks=tasks)
                        emit("queue", "raw COPY", raw, "tasks/s", tasks=tasks)
                        emit("queue", "submit / raw COPY", per_s / raw, "ratio", tasks=tasks)
                    with snapshot(conninfo, held):
                        drained(conninfo, runs, options.block, job_tasks=tasks, snapshot_held=held)


if __name__ == "__main__":
    main()
