"""Real MPI worlds for tests: start mpiexec, give it a deadline, show every rank's last lines when something is wrong.

`mpi_world(n, "tests/world/checks_comm.py")` runs that file's `mpi` tests with pytest on every rank of a world of n.
Ranks write to files of their own, dump their stacks before the deadline, and are killed with their whole tree after
it. Inside, an `assert` on one rank alone would leave the others waiting: use `collective_assert`.
"""

from __future__ import annotations

import faulthandler
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from mpifarm.rank.local import find_mpiexec

ROOT = Path(__file__).resolve().parent.parent
LINES_SHOWN = 100

# Open MPI refuses root and more ranks than cores, and binds ranks to cores, unless told otherwise.
MPI_SETTINGS = {
    "OMPI_ALLOW_RUN_AS_ROOT": "1",
    "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM": "1",
    "OMPI_MCA_rmaps_base_oversubscribe": "1",
    "PRTE_MCA_rmaps_default_mapping_policy": "slot:oversubscribe",
    "PRTE_MCA_hwloc_default_binding_policy": "none",
    "OMPI_MCA_btl": "self,sm,tcp",
}


if dump := os.environ.get("MPIFARM_TEST_DUMP"):  # this is a rank, started by tests.rank_log
    _left_s = max(float(dump.split()[0]) - time.monotonic(), 0.1)
    faulthandler.dump_traceback_later(_left_s, file=open(dump.split(" ", 1)[1], "a"))  # noqa: SIM115


def mpiexec() -> str:
    """The mpiexec of this environment; without one the tests that need it fail, they do not pass unseen."""
    found = find_mpiexec()
    assert found is not None, "no mpiexec: pip install -e '.[test]'"
    return found


def collective_assert(comm: Any, ok: bool, text: str = "") -> None:
    """Fail on every rank when one says no."""
    answers = comm.allgather((bool(ok), text))
    wrong = [f"rank {rank}: {said}" for rank, (fine, said) in enumerate(answers) if not fine]
    assert not wrong, "; ".join(wrong)


def run_ranks(ranks: int, command: list[str], log_dir: Path, deadline_s: float, **environ: str) -> None:
    """Run COMMAND on every rank of a world; AssertionError with all ranks' last lines unless it ends well in time."""
    log_dir.mkdir(parents=True, exist_ok=True)
    wrapped = [sys.executable, "-m", "tests.rank_log", str(log_dir), str(time.monotonic() + deadline_s - 5), *command]
    process = subprocess.Popen(
        [mpiexec(), "-n", str(ranks), *wrapped],
        cwd=ROOT,
        env={**os.environ, **MPI_SETTINGS, **environ},
        start_new_session=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )
    try:
        said, _ = process.communicate(timeout=deadline_s)
        why = f"exit code {process.returncode}"
    except subprocess.TimeoutExpired:
        why = f"no end within {deadline_s:g} s"
        said = b""
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
            process.communicate()
    if why != "exit code 0":
        logs = "\n".join(
            f"--- {path.name}\n" + "\n".join(path.read_text(errors="replace").splitlines()[-LINES_SHOWN:])
            for path in sorted(log_dir.glob("rank-*.log"))
        )
        raise AssertionError(f"world of {ranks}: {why}\n{said.decode(errors='replace')}\n{logs}")


@pytest.fixture
def mpi_world(tmp_path: Path) -> Callable[[int, str], None]:
    """Run a file of `mpi` tests on every rank of a world."""

    def run(ranks: int, file: str, deadline_s: float = 60.0) -> None:
        pytest_ = [sys.executable, "-m", "pytest", "-x", "--with-mpi", "-m", "mpi", "-p", "no:cacheprovider", file]
        run_ranks(ranks, pytest_, tmp_path / f"world-{ranks}", deadline_s)

    return run
