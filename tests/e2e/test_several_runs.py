"""Many runs on one queue, some of them frozen past their lease and woken again, some killed: every task is recorded
once, and what comes too late is refused."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import time
from pathlib import Path

import psycopg
import pytest

from mpifarm.core.model import Limits
from mpifarm.queue.client import Client
from mpifarm.server.dsn import Dsn
from tests.fix_farm import Farm, wait_for

pytestmark = [pytest.mark.postgres, pytest.mark.mpi_outside]

RUN = ("run", "--cpus", "4", "--quiet")


class Site:
    """Some runs of a farm, as processes with all that they started."""

    def __init__(self, farm: Farm, dsn: Dsn) -> None:
        self.farm = farm
        self.dsn = dsn
        self.runs: list[subprocess.Popen[bytes]] = []

    def start(self, ranks: int) -> subprocess.Popen[bytes]:
        self.runs.append(self.farm.start(*RUN, ranks=ranks))
        return self.runs[-1]

    def signal(self, run: subprocess.Popen[bytes], number: int) -> None:
        """To the whole of a run at once: mpiexec, ranks, launchers, tasks."""
        for pid in descendants(run.pid):
            try:
                os.kill(pid, number)
            except ProcessLookupError:
                continue

    def recorded(self) -> int:
        with Client.connect(self.dsn) as client:
            return client.find("job").succeeded

    def holding(self, run: subprocess.Popen[bytes]) -> int:
        """The id of a run that holds tasks now; 0 when it does not."""
        with psycopg.connect(self.dsn.text) as connection:
            query = "SELECT run.id FROM mpifarm.run JOIN mpifarm.lease ON lease.run = run.id WHERE run.pid = ANY(%s)"
            row = connection.execute(query, [descendants(run.pid)]).fetchone()
        return int(row[0]) if row else 0

    def pass_time(self, run: int) -> None:
        """For the database a run has been silent for longer than a lease."""
        with psycopg.connect(self.dsn.text) as connection:
            age = "make_interval(secs => %s)"
            late = f"UPDATE mpifarm.heartbeat SET beat = clock_timestamp() - {age} WHERE run = %s"
            connection.execute(late.encode(), [Limits().lease_s + 1, run])

    def check(self, tasks: int) -> None:
        with Client.connect(self.dsn) as client:
            job = client.find("job")
            assert (job.succeeded, job.total) == (tasks, tasks)
            assert client.misplaced(job.id) == []
            assert sum(run.succeeded for run in client.runs()) == tasks
            assert client.holdings() == []
        outputs = self.farm.output(f"1-{tasks}")
        assert outputs == b"".join(b"output of %d\n" % number for number in range(1, tasks + 1))


def descendants(pid: int) -> list[int]:
    """A process and all that came of it."""
    children: dict[int, list[int]] = {}
    for process in Path("/proc").iterdir():
        if process.name.isdigit():
            try:
                parent = int((process / "stat").read_text().rpartition(")")[2].split()[1])
            except (OSError, IndexError):
                continue
            children.setdefault(parent, []).append(int(process.name))
    found, new = [pid], [pid]
    while new:
        new = [child for one in new for child in children.get(one, [])]
        found += new
    return found


def submit(farm: Farm, tasks: int, seconds: float) -> None:
    farm.submit([f"echo {n} >> begun; sleep {seconds}; echo output of {n}" for n in range(1, tasks + 1)])


def test_seven_runs_two_frozen_past_their_lease_two_killed(farm: Farm, pg_dsn: Dsn) -> None:
    tasks = 700
    submit(farm, tasks, 0.2)
    site = Site(farm, pg_dsn)
    frozen, killed = [site.start(ranks=2), site.start(ranks=1)], [site.start(ranks=1), site.start(ranks=1)]
    others = [site.start(ranks=1) for _ in range(3)]
    for run in [*frozen, *killed]:
        wait_for(lambda run=run: site.holding(run), "a run that holds tasks")  # type: ignore[misc]
    for run in frozen:
        site.signal(run, signal.SIGSTOP)
    for run in killed:
        site.signal(run, signal.SIGKILL)
        run.communicate()

    def let_go() -> bool:
        """Again, where a statement of a frozen run was still on its way."""
        for number in filter(None, map(site.holding, frozen)):
            site.pass_time(number)
        farm.run("recover")
        return [site.holding(run) for run in frozen] == [0, 0]

    wait_for(let_go, "that the frozen hold nothing any more")
    before = site.recorded()
    wait_for(lambda: site.recorded() > before, "records of the others")
    for run in frozen:
        site.signal(run, signal.SIGCONT)
    for run in others:
        farm.finish(run)
    for run in frozen:
        assert "was taken back by the queue; its late outcomes are dropped" in farm.finish(run)[1]
    site.check(tasks)
    begun = (farm.cwd / "begun").read_text().split()
    assert len(begun) > len(set(begun)) == tasks  # some ran twice, none was recorded twice


@pytest.mark.torture
@pytest.mark.parametrize("seed", range(2))
def test_eight_runs_frozen_and_killed_for_long(farm: Farm, pg_dsn: Dsn, seed: int) -> None:
    """With the real time of a lease; whoever is killed is replaced, whoever ends early too."""
    tasks = 15_000
    submit(farm, tasks, 0.3)
    site = Site(farm, pg_dsn)
    chance = random.Random(seed)
    live = [site.start(ranks=chance.choice((1, 2))) for _ in range(8)]
    frozen: dict[int, float] = {}
    deadline = time.monotonic() + 240
    refused = 0
    while time.monotonic() < deadline and site.recorded() < tasks:
        place = chance.randrange(len(live))
        run = live[place]
        if place in frozen:
            if time.monotonic() > frozen[place]:
                site.signal(run, signal.SIGCONT)
                del frozen[place]
        elif run.poll() is not None:
            refused += run.communicate()[1].count(b"was taken back by the queue")
            live[place] = site.start(ranks=1)
        elif chance.random() < 0.3 and len(frozen) < 3:
            site.signal(run, signal.SIGSTOP)
            frozen[place] = time.monotonic() + Limits().lease_s + 20
        elif chance.random() < 0.1:
            site.signal(run, signal.SIGKILL)
            run.communicate()
            live[place] = site.start(ranks=chance.choice((1, 2)))
        pause_until = time.monotonic() + 1
        wait_for(lambda until=pause_until: time.monotonic() > until, "a second")  # type: ignore[misc]
    for place in frozen:
        site.signal(live[place], signal.SIGCONT)
    for run in live:
        _, said = farm.finish(run, deadline_s=600)
        refused += said.count("was taken back by the queue")
    farm.run("run", "--cpus", "8", ranks=2)
    site.check(tasks)
    assert refused > 0, "no run came too late: nothing was shown"
