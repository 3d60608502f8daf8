"""Runs on every rank: rank 0 waits for a message that nobody sends, and the others for rank 0."""

from __future__ import annotations

import pytest


@pytest.mark.mpi
def test_hang() -> None:
    from mpi4py import MPI

    if MPI.COMM_WORLD.rank == 0:
        MPI.COMM_WORLD.recv(source=0)
    MPI.COMM_WORLD.Barrier()
