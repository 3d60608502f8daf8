"""Runs other programs: to their end (initdb, pg_ctl and the like), or beside this one. The only importer of subprocess.

Tasks are not started here but by the launcher.
"""

from __future__ import annotations

import os
import pwd
import subprocess
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from typing import IO

from mpifarm.errors import SiteError

_LINES_SHOWN = 8
_CHECK_S = 60.0


def run_program(
    argv: Sequence[str],
    *,
    timeout_s: float,
    user: str | None = None,
    env: Mapping[str, str] | None = None,
    cwd: str | None = None,
) -> bytes:
    """Run a program in a session of its own (Ctrl-C does not reach it) and return what it wrote to stdout.

    `user`: who it runs as, which only root may say. Raises SiteError with the last lines of its stderr.
    """
    # Files and not pipes: a daemon that the program leaves behind would hold a pipe open, and we would wait for it.
    with tempfile.TemporaryFile() as stdout, tempfile.TemporaryFile() as stderr:
        try:
            process = subprocess.Popen(
                argv,
                stdin=subprocess.DEVNULL,
                stdout=stdout,
                stderr=stderr,
                env=env,
                cwd=cwd,
                user=user,
                group=_group_of(user),
                extra_groups=None if user is None else [],
                start_new_session=True,
            )
        except OSError as error:
            raise SiteError(f"cannot start {argv[0]}: {error.strerror or error}") from None
        try:
            code = process.wait(timeout_s)
        except subprocess.TimeoutExpired:
            _kill(process)
            raise SiteError(f"{argv[0]} did not end within {timeout_s:g} s{_tail(stderr, stdout)}") from None
        except BaseException:
            _kill(process)
            raise
        if code != 0:
            how = f"failed with exit code {code}" if code > 0 else f"was killed by signal {-code}"
            raise SiteError(f"{argv[0]} {how}{_tail(stderr, stdout)}")
        stdout.seek(0)
        return stdout.read()


def check_script(script: bytes) -> tuple[int, str] | None:
    """What bash says of a script that it reads and does not run: its exit code and stderr. None: nobody can tell."""
    env = {name: value for name, value in os.environ.items() if name not in ("BASH_ENV", "ENV")} | {"LC_ALL": "C"}
    with tempfile.TemporaryFile() as stdin:
        stdin.write(script)
        stdin.seek(0)
        try:
            done = subprocess.run(
                ["bash", "-n"],
                stdin=stdin,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.PIPE,
                env=env,
                timeout=_CHECK_S,
                check=False,
            )
        except (OSError, subprocess.TimeoutExpired):
            return None
    return done.returncode, done.stderr.decode(errors="backslashreplace")


def _group_of(user: str | None) -> int | None:
    return None if user is None else pwd.getpwnam(user).pw_gid


def _kill(process: subprocess.Popen[bytes]) -> None:
    with suppress(ProcessLookupError):
        os.killpg(process.pid, 9)
    process.wait()


def _tail(*streams: IO[bytes]) -> str:
    """The last lines of the first stream that holds any."""
    for stream in streams:
        stream.seek(0)
        lines = stream.read().decode(errors="backslashreplace").splitlines()[-_LINES_SHOWN:]
        if lines:
            return ":\n" + "\n".join(f"  {line}" for line in lines)
    return ""


class Program:
    """One that goes on beside this process."""

    def __init__(self, argv: Sequence[str], env: Mapping[str, str]) -> None:
        self._process = subprocess.Popen(argv, stdin=subprocess.DEVNULL, env=env, start_new_session=True)

    def poll(self) -> int | None:
        """Its exit code, once it has ended."""
        return self._process.poll()

    def stop(self, kill_after_s: float) -> None:
        """SIGTERM, and SIGKILL should it not end of it."""
        self._process.terminate()
        try:
            self._process.wait(kill_after_s)
        except subprocess.TimeoutExpired:
            _kill(self._process)


@contextmanager
def running_program(argv: Sequence[str], env: Mapping[str, str], kill_after_s: float = 30.0) -> Iterator[Program]:
    """Started here, in a session of its own, and stopped at the end. Raises SiteError."""
    try:
        program = Program(argv, env)
    except OSError as error:
        raise SiteError(f"cannot start {argv[0]}: {error.strerror or error}") from None
    try:
        yield program
    finally:
        program.stop(kill_after_s)
