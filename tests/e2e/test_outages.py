"""Whole runs while their database is cut off, stalled, restarted or gone: they go on with what they hold, come back,
and every task is recorded once."""

from __future__ import annotations

import os
import shutil
import signal
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psycopg
import pytest

from mpifarm.core.model import Limits
from mpifarm.queue.client import Client
from mpifarm.server.dsn import Dsn
from mpifarm.server.embedded import EmbeddedServer
from tests.fix_farm import Farm, wait_for
from tests.queue.proxy import Proxy

pytestmark = [pytest.mark.postgres, pytest.mark.mpi_outside]

RUN = ("run", "--cpus", "8", "--grace", "2s")


@pytest.fixture
def proxy(pg_dsn: Dsn) -> Iterator[Proxy]:
    with Proxy(str(psycopg.conninfo.conninfo_to_dict(pg_dsn.text)["host"])) as proxy:
        yield proxy


def through(proxy: Proxy, dsn: Dsn, **more: object) -> dict[str, str]:
    return {"MPIFARM_DSN": psycopg.conninfo.make_conninfo(dsn.text, host="127.0.0.1", port=proxy.port, **more)}


def recorded(dsn: Dsn) -> int:
    with Client.connect(dsn) as client:
        return client.find("job").succeeded


def check(farm: Farm, dsn: Dsn, tasks: int) -> None:
    """Every task is recorded once, nothing is misplaced, and the outputs are there."""
    with Client.connect(dsn) as client:
        job = client.find("job")
        assert (job.succeeded, job.total) == (tasks, tasks)
        assert client.misplaced(job.id) == []
    assert farm.output(f"1-{tasks}") == b"".join(b"output of %d\n" % number for number in range(1, tasks + 1))


def starts(farm: Farm) -> dict[int, int]:
    """How often each task was begun."""
    begun: dict[int, int] = {}
    for line in (farm.cwd / "begun").read_text().split():
        begun[int(line)] = begun.get(int(line), 0) + 1
    return begun


def submit(farm: Farm, tasks: int, seconds: float) -> None:
    farm.submit([f"echo {n} >> begun; sleep {seconds}; echo output of {n}" for n in range(1, tasks + 1)])


def outage(how: str, proxy: Proxy, seconds: float) -> None:
    getattr(proxy, how)()
    healed_at = time.monotonic() + seconds
    wait_for(lambda: time.monotonic() > healed_at, "the end of the outage", deadline_s=seconds + 30)
    proxy.heal()


def test_a_run_goes_on_through_every_kind_of_outage(farm: Farm, proxy: Proxy, pg_dsn: Dsn) -> None:
    tasks = 300
    submit(farm, tasks, 0.2)
    run = farm.start(*RUN, ranks=3, environ=through(proxy, pg_dsn))
    for how, seconds in (("cut", 0), ("lose_next_answer", 0.5), ("stall", 1.5), ("refuse", 1.5)):
        before = recorded(pg_dsn)
        wait_for(lambda before=before: recorded(pg_dsn) > before, f"records before {how}")  # type: ignore[misc]
        assert run.poll() is None
        outage(how, proxy, seconds)
    _, said = farm.finish(run)
    assert "running tasks go on, their outcomes are kept" in said
    assert "Traceback" not in said and "error ignored" not in said
    check(farm, pg_dsn, tasks)
    assert set(starts(farm).values()) == {1}  # an outage shorter than a lease makes nobody begin anything twice


@pytest.fixture
def own_server() -> Iterator[tuple[Dsn, Callable[[], None], Callable[[], None]]]:
    """A server of this test alone: its DSN, how it crashes, how it comes back."""
    folder = Path(tempfile.mkdtemp(prefix="mpifarm-outage-"))
    folder.chmod(0o711)
    servers = [EmbeddedServer(folder / "pg")]
    servers[0].enter()

    def crash() -> None:
        pid = int((folder / "pg" / "data" / "postmaster.pid").read_text().split()[0])
        os.kill(pid, signal.SIGQUIT)
        wait_for(lambda: not Path(f"/proc/{pid}").exists(), "the end of the server")

    def start() -> None:
        servers.append(EmbeddedServer(folder / "pg"))
        servers[-1].enter()

    yield Dsn(servers[0].conninfo, "the test"), crash, start
    for server in servers:
        server.leave()
    shutil.rmtree(folder)


def test_a_server_that_crashes_and_comes_back(
    tmp_path: Path, own_server: tuple[Dsn, Callable[[], None], Callable[[], None]]
) -> None:
    dsn, crash, start = own_server
    farm = Farm(tmp_path, dsn.text)
    tasks = 120
    submit(farm, tasks, 0.2)
    run = farm.start(*RUN, ranks=2)
    try:
        for _ in range(2):
            before = recorded(dsn)
            wait_for(lambda before=before: recorded(dsn) > before, "records")  # type: ignore[misc]
            crash()
            assert run.poll() is None
            start()
        _, said = farm.finish(run)
        assert "queue: the database does not answer now" in said and "Traceback" not in said
        check(farm, dsn, tasks)
        assert set(starts(farm).values()) == {1}
    finally:
        farm.close()


def test_no_server_when_a_run_starts(farm: Farm, proxy: Proxy, pg_dsn: Dsn) -> None:
    farm.submit(["true"])
    proxy.refuse()
    _, said = farm.run("run", ranks=2, code=4, environ=through(proxy, pg_dsn))
    assert "no connection to the queue at 127.0.0.1" in said and "usual causes" in said
    proxy.heal()
    proxy.stall()
    _, said = farm.run("run", ranks=2, code=4, environ=through(proxy, pg_dsn, connect_timeout=2))
    assert "timeout" in said
    assert farm.report()["tasks"]["pending"] == 1


def test_a_run_gives_up_when_it_has_nothing_left_to_do(farm: Farm, proxy: Proxy, pg_dsn: Dsn) -> None:
    """Not before: what runs goes on to its end, however long the queue is away."""
    farm.submit(["sleep 3; touch ended"])
    impatient = ("--queue-timeout", "1s", "--idle-exit", "100s")
    busy = farm.start(*RUN, *impatient, ranks=2, environ=through(proxy, pg_dsn))
    wait_for(lambda: farm.report()["tasks"]["running"], "the task")
    proxy.refuse()
    _, said = farm.finish(busy, code=4, deadline_s=40)
    assert (farm.cwd / "ended").exists()
    assert "no connection to the queue" in said and "Traceback" not in said
    proxy.heal()
    farm.run("run", "--cpus", "8", ranks=1)  # the outcome that could not be recorded: its task runs again
    with Client.connect(pg_dsn) as client:
        job = client.find("job")
        assert job.succeeded == 1 and client.misplaced(job.id) == []


def test_a_run_told_to_stop_does_not_wait_for_the_queue(farm: Farm, proxy: Proxy, pg_dsn: Dsn) -> None:
    """No longer than its grace and what it gives its leaders on top."""
    farm.submit(["sleep 100", "sleep 100"])
    run = farm.start("run", "--grace", "0s", ranks=2, environ=through(proxy, pg_dsn))
    wait_for(lambda: farm.report()["tasks"]["running"] == 2, "the tasks")
    proxy.refuse()
    run.send_signal(signal.SIGINT)
    _, said = farm.finish(run, code=4, deadline_s=60)
    assert "no connection to the queue" in said and "Traceback" not in said


@pytest.mark.torture
def test_a_link_that_stalls_for_good_is_replaced(farm: Farm, proxy: Proxy, pg_dsn: Dsn) -> None:
    """Longer than a run waits for an answer, then longer than a lease, which nobody else is there to take back."""
    tasks = 1000
    submit(farm, tasks, 0.5)
    run = farm.start(*RUN, ranks=3, environ=through(proxy, pg_dsn))
    for seconds in (Limits().answer_s + 5, Limits().lease_s + 5):
        before = recorded(pg_dsn)
        wait_for(lambda before=before: recorded(pg_dsn) > before, "records")  # type: ignore[misc]
        outage("stall", proxy, seconds)
    _, said = farm.finish(run, deadline_s=300)
    assert "silent for 20 s" in said
    check(farm, pg_dsn, tasks)
