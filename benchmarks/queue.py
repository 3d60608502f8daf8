"""What does the queue cost per task: to load, to lease and record, to report, at 10 thousand, a million, ten million?

    python -m benchmarks.queue [--tasks 1000000] [--runs 1 4 16] [--rounds 3] [--only load drain jobs link memory]

load    `mpifarm submit FILE`, parsing included, against raw COPY of the same rows into an equal table of that server
drain   lease and record by 1, 4 and 16 processes that play runs and execute nothing, and by one while another session
        holds a snapshot open for the whole drain, as a forgotten psql or a backup does
jobs    the same with a thousand jobs active at once
link    a whole run of short tasks over a wire of 20 ms round trip, against the same run without
memory  peak resident memory of the clients of a submit and of a listing of all tasks
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psycopg

from benchmarks.figures import emit, farm, scratch_farm
from benchmarks.slow_wire import SlowWire
from mpifarm.core.model import Block, RunId
from mpifarm.core.needs import Needs
from mpifarm.core.protocol.verbs import Batch, RunInfo
from mpifarm.core.row import AttemptRow
from mpifarm.queue.run_verbs import PostgresQueue
from mpifarm.rank.local import find_mpiexec
from mpifarm.server import embedded
from mpifarm.server.dsn import Dsn

BYTES_MAX = 64 << 20
PARTS = ("load", "drain", "jobs", "link", "memory")


def write_tasks(path: Path, tasks: int) -> None:
    with path.open("w") as file:
        file.writelines(f"./simulate --seed {number} --out result-{number}.dat\n" for number in range(tasks))


# --- load -------------------------------------------------------------------------------------------------------


def raw_copy(conninfo: str, tasks: int) -> float:
    """Tasks per second of COPY, binary to binary, of the rows that the last job has."""
    with psycopg.connect(conninfo, autocommit=True) as connection:
        job = connection.execute("SELECT max(id) FROM mpifarm.job").fetchone()
        select = f"SELECT job, no, body, entry FROM mpifarm.task WHERE job = {job[0] if job else 0} ORDER BY no"
        with connection.cursor().copy(f"COPY ({select}) TO STDOUT (FORMAT BINARY)".encode()) as out:
            whole = b"".join([bytes(piece) for piece in out])
        connection.execute("CREATE TABLE raw (LIKE mpifarm.task INCLUDING ALL)")
        start = time.perf_counter()
        with connection.cursor().copy("COPY raw (job, no, body, entry) FROM STDIN (FORMAT BINARY)") as into:
            for place in range(0, len(whole), 1 << 20):
                into.write(whole[place : place + (1 << 20)])
        seconds = time.perf_counter() - start
        connection.execute("DROP TABLE raw")
    return tasks / seconds


def load(cwd: Path, environ: dict[str, str], conninfo: str, sizes: list[int], rounds: int) -> None:
    for tasks in sizes:
        write_tasks(cwd / "tasks.txt", tasks)
        ratios = []
        for _ in range(rounds):
            start = time.perf_counter()
            farm(["submit", "tasks.txt"], cwd, environ)
            per_s = tasks / (time.perf_counter() - start)
            raw = raw_copy(conninfo, tasks)
            ratios.append(per_s / raw)
            emit("queue", "mpifarm submit FILE", per_s, "tasks/s", tasks=tasks)
            emit("queue", "raw COPY", raw, "tasks/s", tasks=tasks)
            farm(["drop", "last", "--yes", _last(conninfo)], cwd, environ)
        emit("queue", "submit / raw COPY, median", statistics.median(ratios), "ratio", tasks=tasks, rounds=rounds)


def _last(conninfo: str) -> str:
    with psycopg.connect(conninfo) as connection:
        row = connection.execute("SELECT name FROM mpifarm.job ORDER BY id DESC LIMIT 1").fetchone()
        assert row is not None
        return str(row[0])


# --- lease and record -------------------------------------------------------------------------------------------


def _ended(block: Block, task: int) -> AttemptRow:
    """A row of a task that succeeded at once, with one cpu and no output."""
    now = time.time()
    return AttemptRow(
        lease=block.lease, job=block.job, task=task, attempt=block.attempt, state=0, failure=0, exit_code=0, signal=0,
        node=0, slot=0, cpus=1, started=now, ended=now,
    )  # fmt: skip


def play(conninfo: str, block: int) -> None:
    """One run that executes nothing: prints its tasks and the seconds it leased and recorded."""
    queue = PostgresQueue.connect(Dsn(conninfo, "benchmark"))
    info = RunInfo("benchmark", os.getpid(), "", "", "", "", 1, 1, 1, ("node",))
    run: RunId = queue.open_run(info)
    tasks, lease_s, record_s = 0, 0.0, 0.0
    while True:
        start = time.perf_counter()
        grant = queue.lease(run, block, BYTES_MAX, Needs(1 << 15))
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


def drained(conninfo: str, runs: int, block: int, **more: Any) -> float:
    """Drain what is queued with so many runs at once and print the figures. Returns microseconds per task in the
    calls."""
    command = [sys.executable, "-m", "benchmarks.queue", "--play", conninfo, "--block", str(block)]
    start = time.perf_counter()
    players = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(runs)]
    said = [player.communicate()[0].split() for player in players]
    seconds = time.perf_counter() - start
    assert all(player.returncode == 0 for player in players)
    tasks = sum(int(words[0]) for words in said)
    in_calls = sum(float(words[1]) + float(words[2]) for words in said)
    cost = 1e6 * in_calls / tasks
    emit("queue", "lease + record, all runs", tasks / seconds, "tasks/s", runs=runs, block=block, tasks=tasks, **more)
    emit("queue", "lease + record, in the calls", cost, "us/task", runs=runs, block=block, tasks=tasks, **more)
    return cost


def drain(cwd: Path, environ: dict[str, str], conninfo: str, sizes: list[int], options: argparse.Namespace) -> None:
    base, block = 0.0, options.block
    for tasks in sizes:
        write_tasks(cwd / "tasks.txt", tasks)
        for runs, held in [*((runs, False) for runs in options.runs), (1, True)]:
            farm(["submit", "tasks.txt"], cwd, environ)
            with snapshot(conninfo, held):
                cost = drained(conninfo, runs, block, snapshot_held=held)
            if runs == 1:
                base = base or cost
                figure = f"cost per task / that at {sizes[0]:,}"
                emit("queue", figure, cost / base, "ratio", tasks=tasks, snapshot_held=held)
            farm(["drop", "last", "--yes", _last(conninfo)], cwd, environ)


def many_jobs(cwd: Path, environ: dict[str, str], conninfo: str, block: int) -> None:
    """A thousand jobs of a thousand tasks against one job of a million."""
    costs = []
    for jobs, each in ((1, 1_000_000), (1000, 1000)):
        write_tasks(cwd / "tasks.txt", each)
        with psycopg.connect(conninfo, autocommit=True) as connection:
            farm(["submit", "tasks.txt"], cwd, environ)
            for number in range(1, jobs):  # by SQL: a thousand starts of Python say nothing about the queue
                connection.execute(
                    b"""WITH made AS (
                        INSERT INTO mpifarm.job (name, source, cwd, total, mean_bytes)
                        SELECT name || '.' || %(number)s, source, cwd, total, mean_bytes
                        FROM mpifarm.job ORDER BY id LIMIT 1 RETURNING id, total
                    ), tasks AS (
                        INSERT INTO mpifarm.task (job, no, body) SELECT id, no, 'true'
                        FROM made, generate_series(1, made.total) AS no
                    ), shapes AS (
                        INSERT INTO mpifarm.shape (job, kind, needs) SELECT id, 0, '{}' FROM made RETURNING job, id
                    ), their_tasks AS (
                        INSERT INTO mpifarm.task_shape (job, lo, hi, shape)
                        SELECT made.id, 1, total + 1, shapes.id FROM made JOIN shapes ON shapes.job = made.id
                    )
                    INSERT INTO mpifarm.ready (job, attempt, lo, hi, shape)
                    SELECT made.id, 1, 1, total + 1, shapes.id FROM made JOIN shapes ON shapes.job = made.id""",
                    {"number": number},
                )
            costs.append(drained(conninfo, 1, block, jobs=jobs))
            tables = b", ".join(b"mpifarm.%b" % name for name in (b"job", b"task", b"outcome", b"shape", b"task_shape"))
            connection.execute(b"TRUNCATE %b CASCADE" % tables)
    emit("queue", "cost per task with 1,000 jobs / with one", costs[1] / costs[0], "ratio")


# --- the whole run over a slow wire ------------------------------------------------------------------------------


def slow_link(cwd: Path, environ: dict[str, str], conninfo: str) -> None:
    given = psycopg.conninfo.conninfo_to_dict(conninfo)
    mpiexec = [find_mpiexec() or "mpiexec", "-n", "3"]
    for command, tasks in (("/bin/true", 10_000), ("sleep 0.05", 1000)):
        (cwd / "tasks.txt").write_text(f"{command}\n" * tasks)
        rates: dict[float, list[float]] = {0.0: [], 0.02: []}
        for _ in range(3):
            for delay_s, found in rates.items():
                folder = cwd / "wire"
                folder.mkdir(exist_ok=True)
                with SlowWire(str(given["host"]), folder, delay_s / 2):
                    dsn = psycopg.conninfo.make_conninfo(conninfo, host=str(folder))
                    farm(["submit", "tasks.txt"], cwd, environ)
                    start = time.perf_counter()
                    farm(["run", "--quiet", "--cpus", "8"], cwd, {**environ, "MPIFARM_DSN": dsn}, prefix=mpiexec)
                    found.append(tasks / (time.perf_counter() - start))
                farm(["drop", "last", "--yes", _last(conninfo)], cwd, environ)
        for delay_s, found in rates.items():
            emit("queue", "whole run, median", sorted(found)[1], "tasks/s", command=command, round_trip_s=delay_s)
        ratio = sorted(rates[0.02])[1] / sorted(rates[0.0])[1]
        emit("queue", "whole run at 20 ms / at 0 ms", ratio, "ratio", command=command, tasks=tasks)


# --- memory -----------------------------------------------------------------------------------------------------


def peak_mib(arguments: list[str], cwd: Path, environ: dict[str, str]) -> float:
    """Peak resident memory of one mpifarm command, MiB."""
    with open(os.devnull, "wb") as nowhere:
        command = [sys.executable, "-m", "mpifarm", *arguments]
        process = subprocess.Popen(command, cwd=cwd, env=environ, stdout=nowhere, stderr=nowhere)
        _, status, used = os.wait4(process.pid, 0)
    assert status == 0, arguments
    return used.ru_maxrss / 1024


def memory(cwd: Path, environ: dict[str, str], conninfo: str, sizes: list[int]) -> None:
    for tasks in sizes:
        write_tasks(cwd / "tasks.txt", tasks)
        for what in (["submit", "tasks.txt"], ["report", "last"], ["tasks", "last", "--format", "csv"]):
            emit("queue", f"peak memory of mpifarm {what[0]}", peak_mib(what, cwd, environ), "MiB", tasks=tasks)
        farm(["drop", "last", "--yes", _last(conninfo)], cwd, environ)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--tasks", type=int, default=1_000_000, help="the largest job")
    parser.add_argument("--only", nargs="+", choices=PARTS, default=PARTS)
    parser.add_argument("--runs", type=int, nargs="+", default=[1, 4, 16], help="so many at once (drain)")
    parser.add_argument("--rounds", type=int, default=3, help="of load")
    parser.add_argument("--block", type=int, default=5000)
    parser.add_argument("--play", metavar="CONNINFO", help="be one of the runs (used by this program itself)")
    options = parser.parse_args()
    if options.play:
        play(options.play, options.block)
        return
    sizes = sorted({10_000, options.tasks})
    with scratch_farm() as (cwd, environ), embedded.server(environ) as conninfo:
        if "load" in options.only:
            load(cwd, environ, conninfo, sizes, options.rounds)
        if "drain" in options.only:
            drain(cwd, environ, conninfo, sizes, options)
        if "jobs" in options.only:
            many_jobs(cwd, environ, conninfo, options.block)
        if "link" in options.only:
            slow_link(cwd, environ, conninfo)
        if "memory" in options.only:
            memory(cwd, environ, conninfo, sizes)


if __name__ == "__main__":
    main()
