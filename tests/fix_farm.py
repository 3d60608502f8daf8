"""A farm as a user has it: the `mpifarm` commands as processes, in a directory of their own, on a real queue."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from mpifarm.server.dsn import Dsn
from tests.fix_mpi import MPI_SETTINGS, ROOT, mpiexec

DEADLINE_S = 120.0


class Farm:
    """One user's directory and queue."""

    def __init__(self, cwd: Path, dsn: str) -> None:
        self.cwd = cwd
        self.environ = {k: v for k, v in os.environ.items() if not k.startswith("MPIFARM_")}
        self.environ.update(MPI_SETTINGS)
        self.environ["MPIFARM_DSN"] = dsn
        self.environ["PYTHONPATH"] = str(ROOT)
        self._running: list[subprocess.Popen[bytes]] = []

    def start(self, *arguments: str, ranks: int = 0, **more: Any) -> subprocess.Popen[bytes]:
        """Start `mpifarm ARGUMENTS`, with `ranks` under mpiexec, in a session of its own."""
        prefix = [mpiexec(), "-n", str(ranks)] if ranks else []
        command = [*prefix, sys.executable, "-m", "mpifarm", *arguments]
        process = subprocess.Popen(
            command,
            cwd=more.pop("cwd", self.cwd),
            env={**self.environ, **more.pop("environ", {})},
            stdin=more.pop("stdin", subprocess.DEVNULL),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            start_new_session=True,
            **more,
        )
        self._running.append(process)
        return process

    def finish(
        self, process: subprocess.Popen[bytes], code: int | None = 0, deadline_s: float = DEADLINE_S
    ) -> tuple[bytes, str]:
        """(stdout, stderr) of a started command; AssertionError unless it ends with `code` in time."""
        try:
            out, err = process.communicate(timeout=deadline_s)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            out, err = process.communicate()
            raise AssertionError(f"no end within {deadline_s} s\n{out!r}\n{err.decode()}") from None
        said = err.decode(errors="replace")
        assert code is None or process.returncode == code, f"exit {process.returncode}: {process.args}\n{out!r}\n{said}"
        return out, said

    def run(self, *arguments: str, ranks: int = 0, code: int | None = 0, **more: Any) -> tuple[bytes, str]:
        """Run a command to its end."""
        return self.finish(self.start(*arguments, ranks=ranks, **more), code)

    def submit(self, lines: list[str] | bytes, name: str = "job", *options: str) -> None:
        """Submit a task file made of these lines."""
        file = self.cwd / f"{name}.txt"
        file.write_bytes(lines if isinstance(lines, bytes) else "".join(line + "\n" for line in lines).encode())
        self.run("submit", *options, "--name", name, str(file))

    def report(self, job: str = "job") -> dict[str, Any]:
        report: dict[str, Any] = json.loads(self.run("report", job, "--json")[0])
        return report

    def tasks(self, job: str = "job", *options: str) -> list[dict[str, Any]]:
        tasks: list[dict[str, Any]] = json.loads(self.run("tasks", job, "--json", *options)[0])
        return tasks

    def output(self, tasks: str, job: str = "job", *options: str) -> bytes:
        return self.run("report", job, "--tasks", tasks, *options)[0]

    def close(self) -> None:
        for process in self._running:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
            if process.stdout is not None and not process.stdout.closed:
                process.communicate()


def wait_for(fact: Callable[[], Any], what: str, deadline_s: float = 30.0) -> Any:
    """Ask until the fact holds; its value. AssertionError after the deadline."""
    end = time.monotonic() + deadline_s
    while True:
        value = fact()
        if value:
            return value
        assert time.monotonic() < end, f"not within {deadline_s} s: {what}"
        os.sched_yield()
        signal.sigtimedwait([], 0.02)  # a rest, not a synchronisation: the fact is asked again


def task_processes(mark: str) -> list[int]:
    """Processes of this machine whose command line holds `mark`."""
    found = []
    for folder in Path("/proc").iterdir():
        if folder.name.isdigit():
            try:
                if mark.encode() in (folder / "cmdline").read_bytes():
                    found.append(int(folder.name))
            except OSError:
                continue
    return [pid for pid in found if pid != os.getpid()]


@pytest.fixture
def farm(tmp_path: Path, pg_dsn: Dsn) -> Iterator[Farm]:
    """A farm with an empty queue."""
    made = Farm(tmp_path, pg_dsn.text)
    try:
        yield made
    finally:
        made.close()
