"""Hostile and broken input on its way to a real database: a clear error or exact handling, never a traceback."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import psycopg
import pytest
from psycopg import sql

from mpifarm.cli.main import main
from mpifarm.core.model import Part, TaskText
from mpifarm.core.needs import Needs
from mpifarm.errors import QueueError, SchemaError
from mpifarm.queue import connection, schema
from mpifarm.queue.client import Client
from mpifarm.server.dsn import Dsn
from tests.fix_farm import Farm

pytestmark = pytest.mark.postgres

Run = Callable[..., tuple[int, str]]

ODD = [
    "it's",
    'a"b',
    "a\\b",
    "\udcff\udcfe",  # as Python has bytes that are no UTF-8
    "\udced\udca0\udc80",
    "x" * 10_000,
    "n\u00f6\u20ac\U0001f600",
    "a\nb",
    "",
    " ",
    "-",
    "../x",
    "%s",
    "%(job)s",
    "{x}",
    "$1",
    "a; DROP SCHEMA mpifarm",
    "1.5",
    "a.b",
    "all",
    "7",
]


@pytest.fixture
def run(pg_dsn: Dsn, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    """A command line, as (exit code, all that was said); it may not be a bug's."""
    monkeypatch.setenv("MPIFARM_DSN", pg_dsn.text)
    monkeypatch.chdir(tmp_path)

    def call(*words: str) -> tuple[int, str]:
        code = main(words)
        out, err = capsys.readouterr()
        said = out + err
        assert code in (0, 1, 2, 3, 4, 124), said
        assert "Traceback" not in said and "bug" not in said, said
        assert len(said) < 30_000, "the whole of what was wrong is no use to anybody"
        return code, said

    return call


def test_names_selectors_and_tags(run: Run) -> None:
    assert run("submit", "--name", "good", "--hold", "--", "true")[0] == 0
    for odd in ODD:
        code, said = run("submit", f"--name={odd}", "--", "true")
        assert code in (0, 2) and (code == 0 or "cannot be the name" in said), odd
        for verb in ("report", "tasks", "explain", "cancel", "retry", "drop", "rerun", "wait", "set"):
            more = {"drop": ["--yes", odd], "rerun": ["--force"], "wait": ["--timeout", "0.1s"], "set": ["--hold"]}
            assert run(verb, *more.get(verb, []), "--", odd)[0] in (0, 1, 2, 3, 124), (verb, odd)
        for task in (f"good.{odd}", f"good.{odd}-{odd}"):
            assert run("tasks", task)[0] in (0, 2)
        for tag in (f"k={odd}", f"{odd}=v"):
            code, said = run("set", "good", f"--tag={tag}")
            if code == 0:
                name, _, value = tag.partition("=")
                assert json.loads(run("report", "good", "--json")[1])["tags"][name] == value
            else:
                assert code == 2 and "tag" in said


def test_numbers_out_of_range(run: Run) -> None:
    run("submit", "--name", "good", "--", "true")
    for tasks in ("0", "-1", "99999999999999999999", "5-3", "1-", "\uff11", "1-99999999999", ""):
        for verb in ("tasks", "cancel", "retry", "explain"):
            code, said = run(verb, f"good.{tasks}")
            assert code == 2 and "mpifarm: " in said, (verb, tasks)
    for priority in ("99999999999", "-99999999999", "1e3", "x", ""):
        assert run("set", "good", f"--priority={priority}")[0] == 2
    for priority in (str(2**31 - 1), str(-(2**31))):
        assert run("set", "good", f"--priority={priority}")[0] == 0


def test_bytes_come_back_as_they_went_in(pg_dsn: Dsn) -> None:
    commands = [b"echo \xff\xfe", b"echo '\xf0\x9f\x98\x80' \\ \"", b"echo \x01\x7f\t", b"x" * 1_000_000]
    with Client.connect(pg_dsn) as client:
        job = client.submit("bytes", "n\udcff", b"/tmp/\xff", [Part(Needs(), [TaskText(c, c) for c in commands])])
        assert [line.command for line in client.tasks(job.id)] == commands
        assert [line.entry for line in client.tasks(job.id)] == commands
        assert client.find("bytes").cwd == b"/tmp/\xff" and client.find("bytes").source == "n\\udcff"


def test_a_file_whose_name_is_no_utf8(run: Run, tmp_path: Path) -> None:
    (tmp_path / "t\udcff.txt").write_text("true\n")
    for _ in range(2):
        assert run("submit", "t\udcff.txt")[0] == 0
    assert "submitted before" in run("submit", "t\udcff.txt")[1]


@pytest.mark.mpi_outside
def test_a_run_in_a_directory_whose_name_is_no_utf8(farm: Farm) -> None:
    odd = farm.cwd / "d\udcff\udcfe"
    odd.mkdir()
    farm.run("submit", "--name", "job", "--", "echo", "hi", cwd=odd)
    farm.run("run", "--local", "1", cwd=odd, environ={"SLURM_JOB_ID": "\udcff7"})
    assert farm.output("1") == b"hi\n"
    assert "\\udcff7" in farm.run("runs")[0].decode()


# --- databases that are not what they should be -------------------------------------------------------------------


@pytest.mark.parametrize("encoding", ["LATIN1", "SQL_ASCII"])
def test_another_encoding_is_refused(pg_server: str, encoding: str) -> None:
    name = sql.Identifier(f"odd_{encoding.lower()}")
    with psycopg.connect(pg_server, autocommit=True) as server:
        words = {"name": name, "encoding": sql.Literal(encoding)}
        make = "CREATE DATABASE {name} TEMPLATE template0 ENCODING {encoding} LC_COLLATE 'C' LC_CTYPE 'C'"
        server.execute(sql.SQL(make).format(**words))
        dsn = Dsn(psycopg.conninfo.make_conninfo(server.info.dsn, dbname=name.as_string(server).strip('"')), "the test")
        with pytest.raises(QueueError, match=rf"is in {encoding}; make another: CREATE DATABASE .* ENCODING 'UTF8'"):
            Client.connect(dsn)
        server.execute(sql.SQL("DROP DATABASE {name} WITH (FORCE)").format(**words))


def test_the_encoding_of_the_terminal_does_not_matter(pg_dsn: Dsn, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PGCLIENTENCODING", "LATIN1")
    text = psycopg.conninfo.make_conninfo(pg_dsn.text, client_encoding="SQL_ASCII")
    with Client.connect(Dsn(text, "the test")) as client:
        job = client.submit("job", "\u20ac\u0416", b"/tmp", [Part(Needs(), [TaskText(b"true")])])
        assert client.find(str(job.id)).source == "\u20ac\u0416"


def test_a_server_that_is_too_old(pg_dsn: Dsn, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connection, "OLDEST", 990000)
    with pytest.raises(QueueError, match=r"needs PostgreSQL 99 or newer, .* has 1[0-9]\.[0-9]+$"):
        Client.connect(pg_dsn)


def test_rows_of_another_version_are_left_alone(pg_dsn: Dsn) -> None:
    with Client.connect(pg_dsn) as client:
        client.submit("job", "source", b"/tmp", [Part(Needs(), [TaskText(b"true")])])
    with psycopg.connect(pg_dsn.text, autocommit=True) as other:
        for version, advice in ((schema.VERSION + 5, "upgrade mpifarm"), (schema.VERSION - 1, "mpifarm db upgrade")):
            other.execute("UPDATE mpifarm.meta SET version = %s", [version])
            with pytest.raises(SchemaError, match=advice):
                Client.connect(pg_dsn)
        assert other.execute("SELECT count(*) FROM mpifarm.task").fetchone() == (1,)


def test_a_schema_of_that_name_that_is_no_queue(pg_empty: Dsn) -> None:
    with psycopg.connect(pg_empty.text, autocommit=True) as other:
        other.execute("CREATE SCHEMA mpifarm")
        with pytest.raises(QueueError, match="the database refuses"):
            Client.connect(pg_empty)
        other.execute("CREATE TABLE mpifarm.meta (version integer)")
        with pytest.raises(QueueError):
            Client.connect(pg_empty)
