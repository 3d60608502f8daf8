"""Everything at once: three runs on one queue in one directory, jobs whose tasks wait for each other, fail, are run
again, are cancelled, fork and refuse to end; any set of processes is killed or frozen, the database is cut off, writes
fail, run files are taken away, stops come. The tasks' own log is held against the queue and the outputs: nothing lost,
doubled after it was recorded, or run before what it waits for; no process is left behind for ten seconds.

What is left out, since nothing could be saved then: kill -9 of a run that has not yet seen that its file is gone, and
writes that fail while it saves it. A file written over in place is in test_broken_file.

MPIFARM_CHAOS_FAULTS=1000 and MPIFARM_CHAOS_SEED=1 say how long the long one is and where it begins; no two go the same
way. In its directory `faults` says what was done, `said-N` what run N said, `log` what really ran.
"""

from __future__ import annotations

import os
import random
import shutil
import signal
import subprocess
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest

from mpifarm.queue.client import Client
from mpifarm.server.dsn import Dsn
from tests.e2e.chaos import Site
from tests.e2e.chaos_tasks import CANCELLED, SCRIPT, Journal, Line, Name, Outcome, Spec, contradictions, draw, runs
from tests.fix_farm import Farm, wait_for
from tests.torture import keep

pytestmark = [pytest.mark.postgres, pytest.mark.mpi_outside]

FAULTS = int(os.environ.get("MPIFARM_CHAOS_FAULTS", "1000"))
SEED = int(os.environ.get("MPIFARM_CHAOS_SEED", "1"))
LAST_RUNS_S = 180.0


@pytest.fixture(scope="module")
def shim(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A library that makes writes fail; empty where there is no C compiler: then they do not."""
    made = tmp_path_factory.mktemp("faulty") / "faulty.so"
    compiler = shutil.which("gcc") or shutil.which("cc")
    if compiler is None:
        return ""
    source = Path(__file__).parent.parent / "runfile" / "faulty.c"
    subprocess.run([compiler, "-shared", "-fPIC", "-O1", "-o", made, source, "-ldl"], check=True)
    return str(made)


class Campaign:
    """The jobs, what was done, and what has been seen to end."""

    def __init__(self, site: Site, dsn: Dsn, seed: int, tasks: int) -> None:
        self.site, self.dsn, self.tasks = site, dsn, tasks
        self._chance = random.Random(seed)
        self.jobs: dict[str, list[Spec]] = {}
        self.journal = Journal(site.farm.cwd / "log")
        site.ends_with.callback(self.journal.close)
        self.outcomes: dict[Name, Outcome] = {}
        self.running: dict[Name, Line] = {}
        """When each was begun last."""
        self.asked: set[Name] = set()
        self.done: Counter[str] = Counter()
        (site.farm.cwd / "chaos.sh").write_text(SCRIPT)

    def submit(self) -> None:
        name = f"job-{len(self.jobs) + 1}"
        specs = draw(self._chance, self.tasks)
        self.jobs[name] = specs
        more = ("--retries", "1", "--crash-limit", "never")
        self.site.farm.submit([spec.line() for spec in specs], name, *more)

    @property
    def left(self) -> int:
        return sum(map(len, self.jobs.values())) - len(self.outcomes)

    def look(self) -> None:
        """What has ended by now; nothing of what had ended at the last look may have begun since."""
        before = self.outcomes
        self.outcomes = self._recorded()
        for line in self.journal.grow():
            if line.what == "start":
                assert line.name not in before, f"{line} after it was {before[line.name]}"
                earlier = self.running.get(line.name)
                assert earlier is None or not runs(earlier), f"{line} beside {earlier}"
                self.running[line.name] = line
        gone = {name: before[name] for name in before if self.outcomes.get(name) != before[name]}
        assert not gone, f"outcomes that were recorded are gone or others: {gone}"
        orphans = self.site.orphans()
        assert not orphans, "\n".join(orphans)

    def _recorded(self) -> dict[Name, Outcome]:
        found: dict[Name, Outcome] = {}
        with psycopg.connect(self.dsn.text) as connection:
            query = "SELECT name, no, state, attempt FROM mpifarm.outcome JOIN mpifarm.job ON job.id = outcome.job"
            for job, task, state, attempt in connection.execute(query):
                found[job, task] = Outcome(state, attempt)
            query = "SELECT name, lo, hi FROM mpifarm.cancelled JOIN mpifarm.job ON job.id = cancelled.job"
            for job, low, high in connection.execute(query):
                assert not any((job, task) in found for task in range(low, high)), f"{job}.{low}-{high} twice"
                found.update(((job, task), Outcome(CANCELLED, 0)) for task in range(low, high))
        return found

    def cancel(self) -> str:
        """A task that runs, or one that does not yet."""
        job = self._chance.choice(list(self.jobs))
        tasks = [task for task in range(1, self.tasks + 1) if (job, task) not in self.outcomes]
        if self._chance.random() < 0.7:
            begun = {line.name for line in self.journal.lines[-100:]}
            tasks = [task for task in tasks if (job, task) in begun]
        if not tasks:
            return ""
        task = self._chance.choice(tasks)
        self.asked.add((job, task))
        with Client.connect(self.dsn) as client:
            client.cancel(client.find(job).id, ranges=[(task, task + 1)])
        return "cancel"

    def run(self, faults: int) -> None:
        """So many faults, then peace until all has ended."""
        while self.done.total() < faults:
            self.site.start()
            if self.left < self.tasks // 2:
                self.submit()
            what = self.cancel() if self._chance.random() < 0.05 else self.site.fault()
            if what:
                self.done[what.split()[0]] += 1
                with (self.site.farm.cwd / "faults").open("a") as file:
                    file.write(
                        f"{time.time():.2f} {self.done.total()} {self.left} left, run {self.site.started}: {what}\n"
                    )
            end = time.monotonic() + self._chance.expovariate(1.0)
            while time.monotonic() < end:
                signal.sigtimedwait([], 0.1)
                self.site.tick()
                self.look()
        self.site.calm()
        wait_for(self._ended, "the end of all tasks", deadline_s=LAST_RUNS_S)
        wait_for(lambda: all(run.over for run in self.site.runs), "the end of all runs")

    def _ended(self) -> bool:
        self.look()
        if self.left:
            self.site.start()
        return not self.left

    def check(self) -> None:
        self.look()
        wrong = contradictions(self.jobs, self.outcomes, self.journal.lines, self.asked)
        assert not wrong, "\n".join(wrong)
        farm = self.site.farm
        for job, specs in self.jobs.items():
            whole = [task for task in range(1, len(specs) + 1) if self.outcomes[job, task].state != CANCELLED]
            ranges = ",".join(map(str, whole))
            assert farm.output(ranges, job) == b"".join(specs[task - 1].output(job, task) for task in whole), job
            errors = farm.output(ranges, job, "--stderr")
            assert errors == b"".join(b"error of %d\n" % task for task in whole), job
        farm.run("verify")
        for run in [*self.site.ended, *self.site.runs]:
            said = run.said()  # a SIGINT may come while Python itself starts, before a line of ours
            assert said.count("Traceback") == said.count("Fatal Python error: init_import_site"), said


@pytest.fixture
def site(farm: Farm, pg_dsn: Dsn, shim: str, request: pytest.FixtureRequest) -> Iterator[Site]:
    site = Site(farm, pg_dsn.text, shim, random.Random(getattr(request, "param", 1)))
    try:
        yield site
    finally:
        site.close()


@pytest.mark.parametrize("site", [7], indirect=True)
def test_a_little_chaos(site: Site, pg_dsn: Dsn) -> None:
    campaign = Campaign(site, pg_dsn, 7, tasks=60)
    campaign.run(15)
    campaign.check()


@pytest.mark.torture
@pytest.mark.parametrize("site", [SEED], indirect=True)
def test_chaos(site: Site, pg_dsn: Dsn) -> None:
    start = time.monotonic()
    campaign = Campaign(site, pg_dsn, SEED, tasks=200)
    campaign.run(FAULTS)
    campaign.check()
    tasks = sum(map(len, campaign.jobs.values()))
    counts = {"faults": campaign.done.total(), **campaign.done, "runs": site.started, "tasks": tasks}
    begun = sum(line.what == "start" for line in campaign.journal.lines)
    seconds = round(time.monotonic() - start)
    keep("chaos", {"seed": SEED, **counts, "cancels": len(campaign.asked), "begun": begun, "seconds": seconds})
