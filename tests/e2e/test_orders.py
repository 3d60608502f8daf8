"""What a live run is told: cancel and drain from anywhere, and the terms it was started on."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import time
from collections import Counter

import psycopg
import pytest

from mpifarm.core.job.policy import Policy, RetryRule
from mpifarm.core.model import FailureClass, JobId, Parent, Part, RunId, TaskText
from mpifarm.core.needs import Needs
from mpifarm.core.plural import counted
from mpifarm.core.protocol.facts import Terms
from mpifarm.queue.client import Client
from mpifarm.server.dsn import Dsn
from tests.fix_farm import Farm, task_processes, wait_for
from tests.queue.proxy import Proxy

pytestmark = [pytest.mark.postgres, pytest.mark.mpi_outside]

WORK_LEFT = 7
STUBBORN = "trap '' TERM; echo begun; touch {mark}; while :; do sleep {seconds}; done"
FORKS = "(trap '' TERM; exec sleep {seconds}) & setsid sleep {seconds} & touch {mark}; wait"
TALKS = "seq 100000; touch {mark}; exec sleep {seconds}"


def states(client: Client, job: JobId) -> dict[str, int]:
    (line,) = (line for line in client.jobs() if line.id == job)
    names = ("waiting", "pending", "running", "succeeded", "failed", "cancelled")
    return dict(+Counter({name: getattr(line, name) for name in names}))


def waits_for(farm: Farm, *marks: str) -> None:
    wait_for(lambda: all((farm.cwd / mark).exists() for mark in marks), f"{marks} to begin")


def hears(run: subprocess.Popen[bytes], words: bytes) -> None:
    """Until the run says so."""
    stderr = run.stderr
    assert stderr is not None
    wait_for(lambda: words in stderr.readline(), f"the run to say {words!r}")


@pytest.mark.parametrize(("ranks", "nodes"), [(1, 1), (2, 1), (5, 3)])
def test_cancel_of_a_job_that_runs(farm: Farm, pg_dsn: Dsn, ranks: int, nodes: int) -> None:
    """Whatever its tasks make of a SIGTERM, within seconds; what waits never begins; other jobs go on."""
    seconds = f"100{os.getpid() % 1000:03}{ranks}"
    lines = [line.format(mark=f"m{n}", seconds=seconds) for n, line in enumerate((STUBBORN, FORKS, TALKS))]
    farm.submit([*lines, *["touch never; sleep 1000"] * 5000], "doomed")
    farm.submit(["until test -e go; do sleep 0.05; done; echo fine"], "other")
    farm.run("set", "other", "--priority", "1")
    options = ("--cpus", "4" if nodes == 1 else "2", "--jobs", "doomed,other")
    run = farm.start("run", *options, ranks=ranks, environ={"MPIR_CVAR_NUM_CLIQUES": str(nodes)})
    with Client.connect(pg_dsn) as client:
        waits_for(farm, "m0", "m1", "m2")
        done = client.cancel(JobId(1))
        assert done.runs == (RunId(1),) and done.asked >= 3
        wait_for(lambda: states(client, JobId(1)) == {"cancelled": 5003}, "all of it to be cancelled")
        lines_ = list(client.tasks(JobId(1), ranges=[(1, 4)]))
        assert [(line.state, line.failure) for line in lines_] == [("cancelled", "cancelled")] * 3
        assert (lines_[0].signal, lines_[2].signal) == (9, 15)
        assert client.find("other").running == 1
    assert not task_processes(f"sleep\0{seconds}")
    (farm.cwd / "go").touch()
    out, said = farm.finish(run)
    assert f"{counted(ranks, 'rank')}, {counted(nodes, 'node')}" in said and "cancelled, as ordered" in said
    assert b"1 succeeded, 0 failed, %d cancelled" % (3 if nodes == 1 else 5) in out
    assert (farm.cwd / "never").exists() is (nodes > 1)
    assert farm.output("1", "doomed") == b"begun\n"
    assert farm.output("3", "doomed") == b"".join(b"%d\n" % number for number in range(1, 100_001))


@pytest.mark.parametrize("ranks", [1, 2, 5])
def test_drain_lets_tasks_end_and_gives_the_rest_back(farm: Farm, pg_dsn: Dsn, ranks: int) -> None:
    farm.submit(["touch a; until test -e go; do sleep 0.05; done; echo done"] + ["sleep 1000"] * 300)
    farm.submit(["echo later"] * 300, "later")
    run = farm.start("run", "--cpus", "1", "--grace", "0s", ranks=ranks)
    waits_for(farm, "a")
    with Client.connect(pg_dsn) as client:
        assert client.drain(RunId(1))
        hears(run, b"stopping, as ordered")
        (farm.cwd / "go").touch()
        farm.finish(run, WORK_LEFT)
        assert states(client, JobId(1)) == {"succeeded": 1, "pending": 300}
        assert not client.drain(RunId(1))


def test_a_drain_can_be_hastened(farm: Farm, pg_dsn: Dsn) -> None:
    farm.submit(["touch a; sleep 1000"])
    run = farm.start("run", "--grace", "0s", ranks=3)
    waits_for(farm, "a")
    with Client.connect(pg_dsn) as client:
        client.drain(RunId(1))
        client.drain(RunId(1), now=True)
    out, _ = farm.finish(run, WORK_LEFT)
    assert b"1 cut short and returned" in out
    run = farm.start("run", "--grace", "0s", ranks=1)
    wait_for(lambda: farm.report()["tasks"]["running"] == 1, "it to run again")
    with Client.connect(pg_dsn) as client:
        client.drain(RunId(2))
    hears(run, b"as ordered")
    run.send_signal(signal.SIGUSR1)
    farm.finish(run, WORK_LEFT, deadline_s=20)
    assert farm.report()["tasks"]["pending"] == 1


def test_max_tasks_and_routing(farm: Farm, pg_dsn: Dsn) -> None:
    def submit(name: str, **tags: str) -> None:
        with Client.connect(pg_dsn) as client:
            tasks = [TaskText(b"echo x >> began")] * 20
            client.submit_on(Terms(tags=tags), name, os.fsencode(farm.cwd), [Part(Needs(), tasks)])

    submit("plain")
    submit("gpu", gpu="a100")
    submit("site", site="here")
    farm.run("run", "--cpus", "2", "--max-tasks", "7", "--tags", "gpu=a100,site", ranks=2)
    assert (farm.cwd / "began").read_text().count("x") == 7
    with Client.connect(pg_dsn) as client:
        assert [line.succeeded for line in client.jobs()] == [0, 7, 0]
        farm.run("run", "--cpus", "2", "--max-tasks", "20", "--tags", "gpu=a100,site", ranks=1)
        farm.run("run", "--cpus", "2", "--jobs", "plain", ranks=3)
        assert [line.succeeded for line in client.jobs()] == [20, 20, 7]
    assert "names nothing" in farm.run("run", "--jobs", "a,,b", ranks=1, code=2)[1]


def test_walltime(farm: Farm) -> None:
    """Nothing starts that cannot end, what runs is cut short in time for its record, nobody is charged."""
    farm.submit(["sleep 1000"] * 3, "long", "--time-limit", "1h")
    farm.submit(["echo begun; sleep 1000"] * 2 + ["echo short"])
    began = time.monotonic()
    out, said = farm.run("run", "--cpus", "3", "--walltime", "18s", "--grace", "2s", ranks=2, code=WORK_LEFT)
    assert time.monotonic() - began < 18 + 3
    assert "the time of this run is nearly over" in said
    assert b"1 succeeded, 0 failed, 2 cut short and returned" in out
    assert farm.report()["tasks"]["pending"] == 2 and farm.report("long")["tasks"]["pending"] == 3
    slurm = {"SLURM_JOB_ID": "17", "SLURM_JOB_END_TIME": str(int(time.time()) + 600)}
    out, said = farm.run("run", "--jobs", "long", ranks=1, environ=slurm)
    assert "in slurm 17, tasks may run for 10 min" in said
    assert "3 tasks stay in the queue: their time limit is longer" in said


def test_retries_dependants_and_max_fails(farm: Farm, pg_dsn: Dsn) -> None:
    """One run sees it through: what its own records release, and what its own failures charge."""
    count = b"echo x >> $MPIFARM_TASK; test $(wc -l < $MPIFARM_TASK) = %d"
    rules = (RetryRule(FailureClass.EXIT, 1, 2), RetryRule(FailureClass.SIGNAL, 9, 1))
    parts = [
        Part(Needs(), [TaskText(count % 3), TaskText(b"echo x >> 2; kill -9 $$"), TaskText(b"exit 3")]),
        Part(Needs(), [TaskText(b"echo after $MPIFARM_TASK")], (Parent(1, 2),)),
        Part(Needs(), [TaskText(b"echo never")], (Parent(2, 3),)),
        Part(Needs(), [TaskText(b"echo last")], (Parent(1, 6, any=True),)),
    ]
    with Client.connect(pg_dsn) as client:
        client.submit_on(Terms(policy=Policy(rules=rules)), "family", os.fsencode(farm.cwd), parts)
        out, _ = farm.run("run", "--cpus", "2", ranks=2)
        assert b"3 succeeded, 2 failed" in out and b"3 failed attempts to run again" in out
        lines = {line.task: (line.state, line.attempts) for line in client.tasks(JobId(1))}
    assert {task: lines[task] for task in (1, 2, 3, 4, 6)} == {
        1: ("succeeded", 3), 2: ("failed", 2), 3: ("failed", 1), 4: ("succeeded", 1), 6: ("succeeded", 1)
    }  # fmt: skip
    assert lines[5][0] == "cancelled"
    assert farm.output("4,6", "family") == b"after 4\nlast\n"


def test_too_many_failures_end_a_job_soon(farm: Farm) -> None:
    """More fail than may: the one too many, what runs beside it, and what ends until that is on disk and in the queue
    (well below a second; here two slots have three)."""
    farm.submit(["sleep 0.5; false"] * 60, "job", "--max-fails", "3")
    farm.run("run", "--cpus", "2", ranks=1)
    tasks = farm.report()["tasks"]
    assert 4 <= tasks["failed"] <= 3 + 1 + 2 + 2 * 3 / 0.5
    assert tasks["failed"] + tasks["cancelled"] == 60


def test_waiting_for_work(farm: Farm) -> None:
    run = farm.start("run", "--wait-for-work", "60s", "--idle-exit", "8s", ranks=2)
    wait_for(lambda: json.loads(farm.run("runs", "--json")[0]), "the run")
    farm.submit(["echo first"])
    wait_for(lambda: farm.report()["tasks"]["succeeded"] == 1, "it to be done")
    farm.submit(["echo second"], "more")
    out, said = farm.finish(run)
    assert b"2 succeeded" in out
    assert "nothing to do; waiting for work for 60 s" in said and "for 8 s" in said


def test_the_queue_goes_away_from_an_idle_run(farm: Farm, pg_dsn: Dsn) -> None:
    with Proxy(str(psycopg.conninfo.conninfo_to_dict(pg_dsn.text)["host"])) as proxy:
        dsn = psycopg.conninfo.make_conninfo(pg_dsn.text, host="127.0.0.1", port=proxy.port)
        farm.submit(["echo first"])
        options = ("--wait-for-work", "--queue-timeout", "2s")
        run = farm.start("run", *options, ranks=2, environ={"MPIFARM_DSN": dsn})
        wait_for(lambda: farm.report()["tasks"]["succeeded"] == 1, "work to be done")
        proxy.refuse()
        _, said = farm.finish(run, code=4)
        assert "no connection to the queue" in said
