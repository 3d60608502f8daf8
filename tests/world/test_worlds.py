"""The door to MPI in real worlds of 1, 2 and 5 ranks, on one node and on several."""

from __future__ import annotations

from collections.abc import Callable

import pytest

pytestmark = pytest.mark.mpi_outside

World = Callable[[int, str], None]


@pytest.mark.parametrize("ranks", [1, 2, 5])
def test_comm(mpi_world: World, ranks: int) -> None:
    mpi_world(ranks, "tests/world/checks_comm.py")


def test_comm_across_nodes(mpi_world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """MPICH can pretend that the ranks sit on several nodes: messages then take another path."""
    monkeypatch.setenv("MPIR_CVAR_NUM_CLIQUES", "3")
    mpi_world(7, "tests/world/checks_comm.py")
