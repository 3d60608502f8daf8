"""The door to MPI in real worlds of 1, 2 and 5 ranks, on one node and on several."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.fix_mpi import run_ranks

pytestmark = pytest.mark.mpi_outside

World = Callable[[int, str], None]


@pytest.mark.parametrize("ranks", [1, 2, 5])
def test_comm(mpi_world: World, ranks: int) -> None:
    mpi_world(ranks, "tests/world/checks_comm.py")


def test_a_hang_ends_by_itself_and_shows_where(tmp_path: Path) -> None:
    """On a busy machine it takes ranks longer to come to where they hang."""
    command = [sys.executable, "-m", "pytest", "--with-mpi", "-p", "no:cacheprovider", "tests/world/hangs.py"]
    said = ""
    for deadline_s in (9, 40, 160):
        with pytest.raises(AssertionError) as caught:
            run_ranks(2, command, tmp_path, float(deadline_s))
        said = str(caught.value)
        assert f"no end within {deadline_s} s" in said
        assert "rank-0.log" in said
        assert "rank-1.log" in said
        if said.count("in test_hang") == 2:
            return
    raise AssertionError(said)


def test_comm_across_nodes(mpi_world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """MPICH can pretend that the ranks sit on several nodes: messages then take another path."""
    monkeypatch.setenv("MPIR_CVAR_NUM_CLIQUES", "3")
    mpi_world(7, "tests/world/checks_comm.py")
