"""A command line without a database: `typed(...)` runs one against a fake client and gives back what came out."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from typing import NamedTuple

import pytest

from mpifarm.cli import main
from mpifarm.queue.client import Client
from tests.reporting.rows import FakeClient


class Said(NamedTuple):
    code: int
    out: str
    err: str


@pytest.fixture
def client(monkeypatch: pytest.MonkeyPatch) -> FakeClient:
    """What every command connects to instead of a queue."""
    client = FakeClient()
    monkeypatch.setattr(Client, "connect", lambda *_: nullcontext(client))
    return client


@pytest.fixture
def typed(client: FakeClient, capfd: pytest.CaptureFixture[str]) -> Callable[..., Said]:  # noqa: ARG001
    def run(*argv: str) -> Said:
        code = main.main(argv)
        sys.stdout.flush()
        return Said(code, *capfd.readouterr())

    return run


@pytest.fixture(autouse=True)
def _same_everywhere(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """No batch system, no MPI, no debugging, UTC."""
    for name in ("SLURM_JOB_ID", "FLUX_JOB_ID", "MPIFARM_DEBUG", "NO_COLOR"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr("shutil.which", lambda name: "/usr/bin/mpiexec" if name == "mpiexec" else None)
    monkeypatch.setattr("os.sched_getaffinity", lambda _pid: {0, 1, 2, 3})
    monkeypatch.setenv("TZ", "UTC")
    time.tzset()
    yield
    monkeypatch.undo()
    time.tzset()
