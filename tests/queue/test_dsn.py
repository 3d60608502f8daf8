"""Where the queue is found, and that no password is ever shown, in a text or in an error."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path

import pytest

from mpifarm.errors import FarmError, QueueUnreachable, UsageError
from mpifarm.queue.client import Client
from mpifarm.server.dsn import Dsn, find_dsn


def write(file: Path, text: str) -> Path:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(text)
    return file


@pytest.fixture
def environ(tmp_path: Path) -> dict[str, str]:
    return {"HOME": str(tmp_path / "home")}


def test_the_order_of_the_places(tmp_path: Path, environ: dict[str, str]) -> None:
    deep = tmp_path / "project" / "runs" / "today"
    deep.mkdir(parents=True)
    assert find_dsn(None, environ, deep).embedded

    user = write(tmp_path / "home/.config/mpifarm/config.toml", 'dsn = "host=user"')
    assert find_dsn(None, environ, deep) == Dsn("host=user", str(user))
    xdg = write(tmp_path / "xdg/mpifarm/config.toml", 'dsn = "host=xdg"')
    environ["XDG_CONFIG_HOME"] = str(tmp_path / "xdg")
    assert find_dsn(None, environ, deep) == Dsn("host=xdg", str(xdg))
    project = write(tmp_path / "project/.mpifarm.toml", '# ours\ndsn = "host=project"')
    assert find_dsn(None, environ, deep) == Dsn("host=project", str(project))
    write(deep / ".mpifarm.toml", "# nothing yet")  # names no DSN: the search goes on
    assert find_dsn(None, environ, deep).text == "host=project"
    environ["MPIFARM_DSN"] = "host=variable"
    assert find_dsn(None, environ, deep) == Dsn("host=variable", "MPIFARM_DSN")
    assert find_dsn("host=option", environ, deep) == Dsn("host=option", "--dsn")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ('DSN = "host=a"', "line 1: DSN"),
        ('# ours\n\n[mpifarm]\ndsn = "host=a"', r"line 3: the table \[mpifarm\]"),
        ('dsn = "host=a"\ndns = "x"', "line 2: dns"),
        ('"d.s" = 1', "d.s"),
    ],
)
def test_what_a_file_says_is_not_ignored(tmp_path: Path, environ: dict[str, str], text: str, said: str) -> None:
    write(tmp_path / ".mpifarm.toml", text)
    with pytest.raises(UsageError, match=said):
        find_dsn(None, environ, tmp_path)


@pytest.mark.parametrize("kind", ["fifo", "directory", "device"])
def test_what_is_no_file_holds_nobody_up(tmp_path: Path, environ: dict[str, str], kind: str) -> None:
    path = tmp_path / ".mpifarm.toml"
    {"fifo": os.mkfifo, "directory": os.mkdir, "device": lambda at: at.symlink_to("/dev/full")}[kind](path)
    with pytest.raises(UsageError, match="is no regular file"):
        find_dsn(None, environ, tmp_path)


@pytest.mark.parametrize("text", ["dsn = 5", "dsn = host=secret", "\udcff"])
def test_a_bad_file_is_named_and_not_quoted(tmp_path: Path, environ: dict[str, str], text: str) -> None:
    (tmp_path / ".mpifarm.toml").write_bytes(text.encode(errors="surrogateescape"))
    with pytest.raises(UsageError, match=r"\.mpifarm\.toml") as caught:
        find_dsn(None, environ, tmp_path)
    assert "secret" not in str(caught.value)


def test_a_file_of_another_user_is_not_believed(
    tmp_path: Path, environ: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    write(tmp_path / ".mpifarm.toml", 'dsn = "host=evil"')
    owner = tmp_path.stat().st_uid
    monkeypatch.setattr(os, "geteuid", lambda: owner + 1)
    monkeypatch.setattr(os, "fstat", lambda _: os.stat_result((0o100644, 0, 0, 1, owner + 2, 0, 0, 0, 0, 0)))
    with pytest.raises(UsageError, match="another user"):
        find_dsn(None, environ, tmp_path)


SECRETS = [
    "postgresql://me:s3cret@db/farm",
    "postgres://me:s3cret@with@db:5432/farm?sslmode=require",
    "postgresql://me:s3/cret@db/farm",
    "postgresql://db/farm?user=me&password=s3cret&sslmode=disable",
    "host=db password=s3cret dbname=farm",
    "host=db password = 's3cret with \\' quote' dbname=farm",
    "host=db password='s3cret unterminated",
    "password=s3\\ cret host=db",
    "host=db sslpassword=s3cret",
    "HOST=db PASSWORD=s3cret",
]


@pytest.mark.parametrize("text", SECRETS)
def test_a_file_with_a_password_is_for_its_owner_alone(tmp_path: Path, environ: dict[str, str], text: str) -> None:
    files = [
        write(tmp_path / "it's mine" / ".mpifarm.toml", ""),
        write(tmp_path / "home/.config/mpifarm/config.toml", ""),
    ]
    for file in files:
        file.write_text(f"dsn = {json.dumps(text)}\n")
        file.chmod(0o600)
        assert find_dsn(None, environ, file.parent).text == text
        for mode in (0o640, 0o604, 0o620, 0o610):
            file.chmod(mode)
            with pytest.raises(UsageError) as caught:
                find_dsn(None, environ, file.parent)
            command = str(caught.value).split("type: ")[1].splitlines()[0]
            assert "cret" not in str(caught.value)
        subprocess.run(["sh", "-c", command], check=True, timeout=10)
        assert find_dsn(None, environ, file.parent).text == text
        file.unlink()


@pytest.mark.parametrize("text", ["host=db dbname=farm user=me", "postgresql://me@db:5432/farm", "passfile=/x host=db"])
def test_a_file_without_a_password_may_be_read_by_all(tmp_path: Path, environ: dict[str, str], text: str) -> None:
    file = write(tmp_path / ".mpifarm.toml", f"dsn = {json.dumps(text)}\n")
    file.chmod(0o664)
    assert find_dsn(None, environ, tmp_path).text == text
    file.chmod(0o666)  # whoever may write it decides which commands run here
    with pytest.raises(UsageError, match="chmod o-w"):
        find_dsn(None, environ, tmp_path)


@pytest.mark.parametrize("text", SECRETS)
def test_no_password_is_shown(text: str) -> None:
    dsn = Dsn(text, "--dsn")
    for shown in (str(dsn), repr(dsn), f"{dsn!s:>5}"):
        assert "cret" not in shown and "s3" not in shown and "with" not in shown
        assert "db" in shown or "unterminated" in text
    assert "--dsn" in str(dsn)


@pytest.mark.parametrize("text", [*SECRETS, "s3cret", "postgresql://me:s3cret@db:port/x", "host=db s3cret=1"])
def test_no_error_tells_the_password(text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """`db` resolves to nothing anywhere; what libpq cannot parse it would quote."""
    dsn = Dsn(text.replace("db", "127.0.0.1"), "MPIFARM_DSN")
    monkeypatch.setenv("PGPORT", "1")
    with pytest.raises(FarmError) as caught:
        Client.connect(dsn)
    error: BaseException | None = caught.value
    while error is not None:
        assert "cret" not in str(error)
        error = error.__cause__ or (None if error.__suppress_context__ else error.__context__)
    assert "MPIFARM_DSN" in str(caught.value)


def test_what_an_unreachable_server_is_told_about() -> None:
    with pytest.raises(QueueUnreachable) as caught:
        Client.connect(Dsn("host=127.0.0.1 port=1 sslmode=require password=s3cret", "/home/me/.mpifarm.toml"))
    said = str(caught.value)
    assert "127.0.0.1, port 1, sslmode require (DSN from /home/me/.mpifarm.toml)" in said
    assert "refused" in said and "pg_hba.conf" in said and "pgpass" in said


@pytest.mark.parametrize(
    "text",
    ["host=/tmp\0x", "host=\udcff", "host=a\nb", "postgresql://[::1", "postgresql://a%00b@x/", "host=x row_factory=1"],
)
def test_what_libpq_would_misread_is_refused(text: str) -> None:
    with pytest.raises(UsageError, match="the DSN from --dsn is not one that libpq understands"):
        Client.connect(Dsn(text, "--dsn"))


@pytest.mark.parametrize(
    "text",
    [
        "postgresql://user:S3cret/x@host/db",
        "postgres://u:p@S3cret@host/db",
        "postgres://u:12/S3cret@host/db",
        "host=a port=S3cret",
        "postgresql://u@h:1,h2:S3cret/db",
        "postgresql://u:S3cret:x@host:S3cret/db",
    ],
)
def test_no_piece_of_a_password_is_shown(text: str) -> None:
    with pytest.raises(FarmError) as caught:
        Client.connect(Dsn(text, "--dsn"))
    assert "S3cret" not in str(caught.value)
    assert isinstance(caught.value, UsageError)


@pytest.mark.parametrize("text", ["postgresql://u:p%40ss%2Fx@127.0.0.1:1/db", "host=127.0.0.1,::1 port=1,2"])
def test_what_is_escaped_is_tried(text: str) -> None:
    with pytest.raises(QueueUnreachable):
        Client.connect(Dsn(text, "--dsn"))


def test_a_number_that_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PGPORT", "1")
    with pytest.raises(UsageError, match=r"the DSN from --dsn: .*connect_timeout"):
        Client.connect(Dsn("host=127.0.0.1 connect_timeout=soon", "--dsn"))
