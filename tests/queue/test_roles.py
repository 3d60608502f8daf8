"""`mpifarm db init --roles` on a real server: each role can do its verbs, through the real code, and no others."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass

import psycopg
import pytest
from psycopg import sql

from mpifarm.core.model import FailureClass, JobId, Parent, Part, RunId, State, TaskText
from mpifarm.core.needs import Needs
from mpifarm.core.protocol.facts import Terms
from mpifarm.core.protocol.verbs import Batch, Return
from mpifarm.errors import QueueError, SchemaError
from mpifarm.queue import administration, schema
from mpifarm.queue.client import Client
from mpifarm.queue.run_verbs import PostgresQueue
from mpifarm.server.dsn import Dsn
from tests.queue.worlds import HERE, LEASE_S, ended, lease, one, span

pytestmark = pytest.mark.postgres

WORDS = ("submitter", "runner", "reader")
PEOPLE = {word: f"test_{word}" for word in (*WORDS, "nobody")}


@dataclass(frozen=True)
class Site:
    owner: Dsn
    people: dict[str, Dsn]


def alone(dsn: Dsn, statement: str) -> None:
    with psycopg.connect(dsn.text, autocommit=True) as connection:
        connection.execute(statement.encode())


@pytest.fixture
def site(pg_dsn: Dsn) -> Iterator[Site]:
    """A queue with roles, and a login for each of them and for somebody without any."""
    administration.upgrade(pg_dsn, roles=True)
    for word, name in PEOPLE.items():
        alone(pg_dsn, f"CREATE ROLE {name} LOGIN")
        if word in WORDS:
            alone(pg_dsn, f"GRANT mpifarm_{word} TO {name}")
    yield Site(pg_dsn, {word: _as(pg_dsn, name) for word, name in PEOPLE.items()})
    for name in PEOPLE.values():
        alone(pg_dsn, f"DROP OWNED BY {name}")
        alone(pg_dsn, f"DROP ROLE {name}")


def _as(dsn: Dsn, user: str) -> Dsn:
    return Dsn(psycopg.conninfo.make_conninfo(dsn.text, user=user), dsn.source)


def part(count: int, *parents: Parent) -> Part:
    return Part(Needs(), [TaskText(b"true")] * count, parents)


def _failed_job(site: Site, *, with_dead_run: bool = False) -> JobId:
    """A job of eight: 1 succeeded, 2 failed, 6 is cancelled, 7 waits for 3, 8 was to wait for 2, the others pend."""
    with Client.connect(site.owner) as client:
        parts = [part(6), part(1, Parent(3, 4)), part(1, Parent(2, 3))]
        summary = client.submit_on(Terms("job", max_fails=1), "tasks.txt", b"/tmp", parts).job
        assert summary is not None
        job = summary.id
        client.cancel(job, ranges=[(6, 7)])
    with closing(PostgresQueue.connect(site.owner)) as queue:
        run = queue.open_run(HERE)
        block = one(queue, run, 2)
        queue.record(run, Batch([ended(block, 1), ended(block, 2, State.FAILED)], [], [block.lease]))
        if with_dead_run:
            assert lease(queue, run, 1).blocks
            alone(site.owner, f"UPDATE mpifarm.run SET ended = now() WHERE id = {run}")
        else:
            queue.close_run(run)
    return job


# --- the verbs, as whoever `dsn` is -----------------------------------------------------------------------------


def submit(dsn: Dsn, job: JobId) -> None:
    with Client.connect(dsn) as client:
        client.submit("new", "tasks.txt", b"/tmp", [part(3)])
        for dedupe in (True, False):
            terms = Terms(None, job=job, dedupe=dedupe)
            more = client.submit_on(
                terms, "more", b"/tmp", [part(1), Part(Needs(2), [TaskText(b"more")], (Parent(1, 2),))]
            )
            assert more.tasks == 1 + (not dedupe)
        terms = Terms("from-file", path=b"/tmp/tasks.txt", digest=lambda: b"digest", after=(Parent(1, 3, job=job),))
        assert client.submit_on(terms, "tasks.txt", b"/tmp", [part(1)]).tasks == 1


def set_(dsn: Dsn, job: JobId) -> None:
    with Client.connect(dsn) as client:
        client.set_job(job, priority=7, held=False, tags={"a": "b"})
        assert client.find(str(job)).priority == 7


def retry(dsn: Dsn, job: JobId) -> None:
    with Client.connect(dsn) as client:
        assert client.retry(job) >= 3
        counts = client.counts(job, [(1, 9)])
        assert (counts["pending"], counts["waiting"]) == (5, 2)


def rerun(dsn: Dsn, job: JobId) -> None:
    with Client.connect(dsn) as client:
        assert client.rerun(job) >= 4


def cancel(dsn: Dsn, job: JobId) -> None:
    with Client.connect(dsn) as client:
        assert client.cancel(job).tasks == 4
        assert client.holdings(job) == []


def drain(dsn: Dsn, _job: JobId) -> None:
    with Client.connect(dsn) as client:
        assert client.drain(RunId(10**6)) is False


def run(dsn: Dsn, _job: JobId) -> None:
    """A run's whole life: what it gives back, dependants that it releases, and a job that it stops because too many
    have failed, with the order to itself that this brings."""
    with closing(PostgresQueue.connect(dsn)) as queue:
        dead, run_ = queue.open_run(HERE), queue.open_run(HERE)
        assert lease(queue, dead, 1).blocks
        queue.renew(run_)
        queue.name_file(run_, "/tmp/run.h5")
        queue.close_run(dead)
        assert queue.expire(LEASE_S) == 0
        first, rest = lease(queue, run_, 3).blocks
        batch = Batch([ended(first, first.lo)], [Return(span(rest, rest.lo, rest.lo + 1), FailureClass.LOST)], [])
        for _ in range(2):  # the second time as after a lost answer
            assert not queue.record(run_, batch)
            queue._record_lost = True
        failed = Batch([ended(rest, rest.lo + 1, State.FAILED)], [], [])
        assert not queue.record(run_, failed)
        assert queue.renew(run_)
        queue.close_run(run_)
        queue._answer_lost = True
        with pytest.raises(QueueError, match="has ended"):
            lease(queue, run_)


def recover(dsn: Dsn, _job: JobId) -> None:
    with Client.connect(dsn) as client:
        assert sum(holding.tasks for holding in client.recover()) == 1


def report(dsn: Dsn, job: JobId) -> None:
    with Client.connect(dsn) as client:
        assert [line.task for line in client.tasks(job)] == [1, 2, 3, 4, 5, 6, 7, 8]
        assert len(list(client.tasks(job, states=["failed", "cancelled"]))) == 3
        assert client.find("job").total == 8 and client.jobs() and client.runs(job)
        assert client.failures(job) and client.durations(job) and client.shapes(job) and client.pending(job)
        assert client.attempts(job, 1) == [] and client.taken_back(client.runs()[0].id) == []
        assert (
            client.needed(job, 7)
            and client.misplaced(job) == []
            and client.holdings() == []
            and client.leased_when(1) is None
        )


def drop(dsn: Dsn, job: JobId) -> None:
    with Client.connect(dsn) as client:
        client.drop(job)


def upgrade(dsn: Dsn, _job: JobId) -> None:
    with psycopg.connect(dsn.text, autocommit=True) as connection:
        connection.execute("UPDATE mpifarm.meta SET version = version")


Verb = Callable[[Dsn, JobId], None]
VERBS: list[Verb] = [submit, set_, retry, rerun, cancel, drain, run, recover, report, drop, upgrade]
MAY: dict[str, list[Verb]] = {
    "submitter": [submit, set_, retry, rerun, cancel, drain, report],
    "runner": [run, recover, drain],
    "reader": [report],
    "nobody": [],
}


@pytest.mark.parametrize("word", MAY)
def test_each_role_can_do_its_verbs_and_no_others(site: Site, word: str) -> None:
    dsn = site.people[word]
    for verb in VERBS:
        job = _failed_job(site, with_dead_run=verb is recover)
        if verb in MAY[word]:
            verb(dsn, job)
        else:
            with pytest.raises((QueueError, psycopg.errors.InsufficientPrivilege)) as caught:
                verb(dsn, job)
            assert "permission denied" in str(caught.value), verb
            if isinstance(caught.value, QueueError):
                assert "mpifarm db init --roles" in str(caught.value)
        with Client.connect(site.owner) as client:
            for found in client.jobs():
                assert client.misplaced(found.id) == []
                client.drop(found.id)


def test_roles_may_be_made_again_and_by_several_at_once(site: Site) -> None:
    errors: list[BaseException] = []

    def make() -> None:
        try:
            administration.upgrade(site.owner, roles=True)
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=make) for _ in range(5)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert errors == []
    submit(site.people["submitter"], _failed_job(site))


def test_rights_given_by_hand_or_for_an_older_version_are_taken_back(site: Site) -> None:
    alone(
        site.owner,
        "GRANT DELETE ON mpifarm.task TO mpifarm_reader; GRANT UPDATE (name) ON mpifarm.job TO mpifarm_reader",
    )
    administration.upgrade(site.owner, roles=True)
    with psycopg.connect(site.people["reader"].text, autocommit=True) as reader:
        for statement in ("DELETE FROM mpifarm.task", "UPDATE mpifarm.job SET name = 'x'"):
            with pytest.raises(psycopg.errors.InsufficientPrivilege):
                reader.execute(statement.encode())


def test_every_table_is_spoken_of(site: Site) -> None:
    """A new table must be thought about: it stands in roles.sql by name, or nobody but the owner changes it."""
    from mpifarm.queue.statements import roles

    said = roles().decode()
    with psycopg.connect(site.owner.text) as connection:
        tables = connection.execute(
            "SELECT relname FROM pg_class WHERE relnamespace = 'mpifarm'::regnamespace AND relkind = 'r'"
        ).fetchall()
    assert tables
    assert [name for (name,) in tables if f"mpifarm.{name} TO" not in said] == []


@pytest.mark.usefixtures("site")
def test_an_owner_who_may_not_make_roles_may_use_those_there_are(pg_empty: Dsn) -> None:
    alone(pg_empty, f"GRANT CREATE ON DATABASE {_name(pg_empty)} TO {PEOPLE['nobody']}")
    owner = _as(pg_empty, PEOPLE["nobody"])
    # The roles are there already: this needs no right to make them.
    assert administration.upgrade(owner, roles=True)[1].version == schema.VERSION
    report_of_nothing = Client.connect(_as(pg_empty, PEOPLE["reader"]))
    assert report_of_nothing.jobs() == []
    report_of_nothing.close()
    alone(pg_empty, f"REVOKE ALL ON DATABASE {_name(pg_empty)} FROM {PEOPLE['nobody']}")
    alone(pg_empty, "DROP SCHEMA mpifarm CASCADE")


@pytest.mark.usefixtures("site")
def test_without_the_right_to_make_roles_nothing_is_changed(pg_empty: Dsn, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(schema, "ROLES", (*schema.ROLES, "mpifarm_missing"))
    alone(pg_empty, f"GRANT CREATE ON DATABASE {_name(pg_empty)} TO {PEOPLE['nobody']}")
    with pytest.raises(QueueError, match=r"in psql, then try again: CREATE ROLE mpifarm_missing;$"):
        administration.upgrade(_as(pg_empty, PEOPLE["nobody"]), roles=True)
    assert administration.status(pg_empty).version is None
    alone(pg_empty, f"REVOKE ALL ON DATABASE {_name(pg_empty)} FROM {PEOPLE['nobody']}")


def test_a_wrong_version_is_told_to_everybody(site: Site) -> None:
    alone(site.owner, "ALTER TABLE mpifarm.meta DROP CONSTRAINT meta_version_check")
    for version, match in ((schema.VERSION + 1, "upgrade mpifarm"), (0, "mpifarm db upgrade")):
        alone(site.owner, f"UPDATE mpifarm.meta SET version = {version}")
        for word in WORDS:
            with pytest.raises(SchemaError, match=match):
                Client.connect(site.people[word])


@pytest.mark.usefixtures("site")
def test_somebody_without_rights_is_refused_in_an_empty_database(pg_empty: Dsn) -> None:
    with pytest.raises(QueueError, match="GRANT CREATE ON DATABASE"):
        Client.connect(_as(pg_empty, PEOPLE["nobody"]))


def _name(dsn: Dsn) -> str:
    return str(psycopg.conninfo.conninfo_to_dict(dsn.text)["dbname"])


def test_only_the_owner_upgrades_and_makes_roles(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    for word in WORDS:
        assert administration.upgrade(site.people[word])[0] == schema.VERSION  # nothing to do is no error
        with pytest.raises(QueueError, match="who owns the queue's tables, may change them"):
            administration.upgrade(site.people[word], roles=True)
    alone(site.owner, f"UPDATE mpifarm.meta SET version = {schema.VERSION + 1}")
    with pytest.raises(SchemaError, match="upgrade mpifarm"):
        administration.upgrade(site.owner, roles=True)
    alone(site.owner, f"UPDATE mpifarm.meta SET version = {schema.VERSION}")
    monkeypatch.setattr(schema, "VERSION", schema.VERSION + 1)
    with pytest.raises(QueueError, match="who owns the queue's tables, may change them"):
        administration.upgrade(site.people["submitter"])


def test_an_upgrade_gives_the_rights_anew(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    alone(site.owner, "REVOKE ALL ON mpifarm.run FROM mpifarm_runner")
    assert administration.upgrade(site.owner)[0] == schema.VERSION  # nothing to upgrade, nothing given
    job = _failed_job(site)
    with pytest.raises(QueueError, match="permission denied"):
        run(site.people["runner"], job)
    monkeypatch.setattr(schema, "VERSION", schema.VERSION + 1)
    steps = [*schema.migrations(), b"CREATE TABLE mpifarm.later (x integer)"]
    monkeypatch.setattr(schema, "migrations", lambda: steps)
    administration.upgrade(site.owner)
    run(site.people["runner"], job)
    with psycopg.connect(site.people["reader"].text) as reader:
        assert reader.execute(sql.SQL("SELECT count(*) FROM mpifarm.later")).fetchone() == (0,)
