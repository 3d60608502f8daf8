"""Where the queue is: finds the DSN a user means, and never shows the password in it. Must never import psycopg.

The order: --dsn, MPIFARM_DSN, `.mpifarm.toml` in the working directory or above it, the user's own configuration, and
without any of these the embedded server of this user (`server.embedded`): by its socket, or by way of its gate
(`server.tls_proxy`) where `mpifarm db start` has opened it on another host that shares its directory.
"""

from __future__ import annotations

import os
import re
import shlex
import socket
import stat
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mpifarm.errors import UsageError
from mpifarm.startup.handed_down import WITHHELD

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

PROJECT_FILE = ".mpifarm.toml"

_URI_PASSWORD = re.compile(r"^([a-z]+://[^:/?#@]*):.*@", re.DOTALL)  # greedy: an unescaped @ belongs to the password
_WORD_PASSWORD = re.compile(r"((?:ssl)?password\s*=\s*)('(?:\\.|[^'\\])*'?|(?:\\.|[^\s&\\])+)", re.IGNORECASE)


@dataclass(frozen=True)
class Dsn:
    """A libpq connection string and where it was found. Its text forms hide passwords."""

    text: str
    """Empty: the embedded server."""
    source: str

    @property
    def embedded(self) -> bool:
        return not self.text

    @property
    def holds_password(self) -> bool:
        return bool(_URI_PASSWORD.search(self.text) or _WORD_PASSWORD.search(self.text))

    def __str__(self) -> str:
        if self.embedded:
            return "of this machine (embedded server)"
        shown = _WORD_PASSWORD.sub(r"\1***", _URI_PASSWORD.sub(r"\1:***@", self.text))
        return f"{shown} ({self.source})"

    def __repr__(self) -> str:
        return f"Dsn({str(self)!r})"


def find_dsn(option: str | None, environ: Mapping[str, str], cwd: Path) -> Dsn:
    """The queue to use. Raises UsageError when a configuration file cannot be believed."""
    if option:
        return Dsn(option, "--dsn")
    if environ.get("MPIFARM_DSN"):
        return Dsn(environ["MPIFARM_DSN"], "MPIFARM_DSN")
    if environ.get(WITHHELD):
        raise UsageError(
            "this is a task, and its run does not hand its DSN down: start the run with --pass-dsn, or name the queue"
            " with --dsn"
        )
    for file in (*_project_files(cwd), user_file(environ)):
        settings = read_settings(file)
        _refuse_unknown(file, settings)
        dsn = _dsn_in(file, settings)
        if dsn:
            return Dsn(dsn, str(file))
    file = opened_file(environ)
    opened = read_settings(file)
    if opened.get("host", socket.gethostname()) != socket.gethostname():
        return Dsn(_dsn_in(file, opened), str(file))
    return Dsn("", "no DSN given")


def cut_is_doubtful(text: str, ports: str) -> bool:
    """Whether a piece of a password may stand where libpq reads a host, port or database, which messages show: an
    unescaped @ or / within it. `ports`: as libpq reads them."""
    if not re.fullmatch(r"[0-9]*(,[0-9]*)*", ports):
        return True
    uri = re.match(r"postgres(?:ql)?://([^/?]*)([^?]*)", text)
    return uri is not None and (uri[1].count("@") > 1 or "@" in uri[2])


def quoted(value: str) -> str:
    """As a value of a connection string."""
    if re.fullmatch(r"[A-Za-z0-9_./:-]+", value):
        return value
    escaped = value.replace("\\", "\\\\").replace("'", "\\'")
    return f"'{escaped}'"


def server_folder(environ: Mapping[str, str]) -> Path:
    """Where the database of this user lives. Root's is not below /root, which the server's user may not enter."""
    if environ.get("MPIFARM_PG_DIR"):
        return Path(environ["MPIFARM_PG_DIR"]).absolute()
    if environ.get("XDG_DATA_HOME"):
        return Path(environ["XDG_DATA_HOME"]).absolute() / "mpifarm" / "pg"
    if os.geteuid() == 0:
        return Path("/var/lib/mpifarm/pg")
    return Path(environ.get("HOME") or Path.home()).absolute() / ".local" / "share" / "mpifarm" / "pg"


def opened_file(environ: Mapping[str, str]) -> Path:
    """What `mpifarm db start` writes for other hosts: `dsn` and `host` (see `server.opened`)."""
    return server_folder(environ) / "gate" / "connection.toml"


def user_file(environ: Mapping[str, str]) -> Path:
    home = environ.get("XDG_CONFIG_HOME") or Path(environ.get("HOME") or Path.home()) / ".config"
    return Path(home) / "mpifarm" / "config.toml"


def _project_files(cwd: Path) -> list[Path]:
    return [folder / PROJECT_FILE for folder in (cwd, *cwd.parents)]


def read_settings(file: Path) -> dict[str, Any]:
    """What a file says, nothing without one. Raises UsageError when it cannot be believed."""
    try:
        found, text = _read(file)
        content = tomllib.loads(text.decode())
    except (FileNotFoundError, NotADirectoryError, PermissionError):
        return {}
    except (tomllib.TOMLDecodeError, UnicodeDecodeError):
        # The parser's message could quote the line, password and all.
        raise UsageError(f'{file} is not valid TOML; it needs a line like: dsn = "host=db dbname=farm"') from None
    mode = stat.S_IMODE(found.st_mode)
    if mode & 0o077 and Dsn(str(content.get("dsn", "")), "").holds_password:
        raise UsageError(
            f"{file} holds a password and other users may read it (mode {mode:04o});"
            f" type: chmod 600 {shlex.quote(str(file))}\n  and change the password, if they may have read it by now"
        )
    return content


def _read(file: Path) -> tuple[os.stat_result, bytes]:
    """The file's owner and mode, and its bytes. Raises OSError, UsageError."""
    # Without waiting: a neighbour's FIFO of that name would hold every command here for ever.
    descriptor = os.open(file, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        found = os.fstat(descriptor)
        if not stat.S_ISREG(found.st_mode):
            raise UsageError(
                f"{file} is no regular file and is not read: remove it, or name the queue with MPIFARM_DSN or --dsn"
            )
        _check_owner(file, found)
        with open(descriptor, "rb", closefd=False) as stream:
            return found, stream.read()
    finally:
        os.close(descriptor)


def _refuse_unknown(file: Path, settings: Mapping[str, Any]) -> None:
    """A key with a slip in it, or below a table, would silently mean another queue. Raises UsageError."""
    for key in settings:
        if key == "dsn":
            continue
        begins = re.compile(rf"\s*\[?\s*[\"']?{re.escape(key)}\b")
        number = next(
            (n for n, line in enumerate(file.read_text(errors="replace").splitlines(), 1) if begins.match(line)), 1
        )
        named = f"the table [{key}]" if isinstance(settings[key], dict) else key
        raise UsageError(
            f"{file}, line {number}: {named} is not known; the one key is dsn, at the top of the file, not below a"
            ' table: dsn = "host=db dbname=farm"'
        )


def _dsn_in(file: Path, content: Mapping[str, Any]) -> str:
    dsn = content.get("dsn", "")
    if not isinstance(dsn, str):
        raise UsageError(f"{file}: dsn must be a string")
    return dsn


def _check_owner(file: Path, found: os.stat_result) -> None:
    """Whoever says where the queue is says which commands run here: the user must, not a neighbour in /tmp."""
    if found.st_uid not in (os.geteuid(), 0):
        raise UsageError(
            f"{file} belongs to another user (uid {found.st_uid}) and is not believed;"
            " name its DSN with MPIFARM_DSN or --dsn, or copy the file"
        )
    if found.st_mode & stat.S_IWOTH:
        raise UsageError(
            f"every user may write {file}, so it is not believed: look into it, then type:"
            f" chmod o-w {shlex.quote(str(file))}"
        )
