"""PG* variables: none reaches our own server, those that reach another are named when there is no connection."""

from __future__ import annotations

import os
import threading
from pathlib import Path

import pytest
from psycopg import pq

from mpifarm.errors import QueueUnreachable
from mpifarm.queue.client import Client
from mpifarm.queue.connection import Connection, Database
from mpifarm.queue.libpq_variables import none_of_them
from mpifarm.server.dsn import Dsn

VARIABLES = [entry.envvar.decode() for entry in pq.Conninfo.get_defaults() if entry.envvar]
SPOILT = dict.fromkeys((*VARIABLES, "PGTZ", "PGDATESTYLE", "PGSERVICEFILE"), "nonsense") | {
    "PGHOSTADDR": "192.0.2.1",
    "PGTARGETSESSIONATTRS": "read-only",
    "PGREQUIREAUTH": "scram-sha-256",
    "PGOPTIONS": "-c search_path=nowhere -c default_transaction_read_only=on",
}


def whatever(_: Connection) -> None:
    """Is in the database."""


@pytest.mark.postgres
@pytest.mark.parametrize("names", [*([name] for name in SPOILT), [*SPOILT]], ids=lambda names: ",".join(names)[:30])
def test_none_reaches_our_own_server(
    pg_server: str, pg_folder: Path, monkeypatch: pytest.MonkeyPatch, names: list[str]
) -> None:
    """Neither the first connection to it nor a second one for another thread; afterwards they are as they were."""
    assert pg_server
    monkeypatch.setenv("MPIFARM_PG_DIR", str(pg_folder / "session"))
    for name in names:
        monkeypatch.setenv(name, SPOILT[name])
    before = dict(os.environ)
    first = Database(Dsn("", "no DSN given"), whatever)
    second = first.another()
    for database in (first, second):
        with database.using() as connection:
            said = connection.execute("SELECT current_setting('transaction_read_only'), current_user").fetchone()
            assert said == ("off", "mpifarm")
    second.close()
    first.close()
    assert dict(os.environ) == before


def test_they_come_back_whoever_looks_meanwhile(monkeypatch: pytest.MonkeyPatch) -> None:
    """Several threads connect at once."""
    monkeypatch.setenv("PGHOST", "elsewhere")

    def look() -> None:
        for _ in range(200):
            with none_of_them():
                assert "PGHOST" not in os.environ

    threads = [threading.Thread(target=look) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert os.environ["PGHOST"] == "elsewhere"


def test_those_that_took_part_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    """Not their values, and not those that the DSN overrules."""
    for name in VARIABLES:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("PGPASSWORD", "S3cret")
    monkeypatch.setenv("PGHOSTADDR", "127.0.0.1")
    monkeypatch.setenv("PGPORT", "2")
    monkeypatch.setenv("PGAPPNAME", "overruled")
    with pytest.raises(QueueUnreachable) as caught:
        Client.connect(Dsn("host=db.site.org port=1 user=me dbname=farm", "--dsn"))
    assert "set in the environment and used: PGHOSTADDR, PGPASSWORD\n" in str(caught.value)
    assert "S3cret" not in str(caught.value)
    monkeypatch.delenv("PGPASSWORD")
    with pytest.raises(QueueUnreachable) as caught:
        Client.connect(Dsn("host=127.0.0.1 hostaddr=127.0.0.1 port=1 user=me dbname=farm", "--dsn"))
    assert "environment" not in str(caught.value)
