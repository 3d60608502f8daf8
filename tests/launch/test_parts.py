"""The small parts of the launcher, each by itself."""

from __future__ import annotations

import os
import socket
import subprocess
from pathlib import Path

import pytest

from mpifarm.core.protocol.messages import Drain, Ended, LauncherLog, LinkMessage
from mpifarm.launch.environ import scrubbed
from mpifarm.launch.guard import Children
from mpifarm.launch.link import Link
from mpifarm.launch.memory_killer import MemoryKiller

pytestmark = pytest.mark.slow


def pair() -> tuple[Link, Link]:
    one, two = socket.socketpair()
    return Link(one), Link(two)


def test_link_carries_whole_messages() -> None:
    near, far = pair()
    sent: list[LinkMessage] = [Drain(1.0), LauncherLog("x" * 3_000_000), Ended(b"\0\xff", {}), Drain(2.0)]
    for message in sent:
        near.send(message)
    assert near.pending > 2_000_000
    received: list[LinkMessage] = []
    while len(received) < len(sent):
        near.flush()
        received += far.receive()
    assert received == sent and near.pending == 0
    near.close()
    far.send(Drain(3.0))
    assert far.pending == 0
    far.close()


def test_link_delivers_the_last_words() -> None:
    near, far = pair()
    near.send(Drain(1.0))
    near.close()
    assert far.receive() == [Drain(1.0)]
    assert far.receive() == []
    assert not far.open
    far.close()


@pytest.mark.parametrize("listed", [True, False], ids=["kernel lists them", "found in /proc"])
def test_children(listed: bool) -> None:
    children = Children()
    if not listed:
        children._fd = None
    before = children.count()
    with subprocess.Popen(["sleep", "1000"]) as child:
        assert children.count() == before + 1
        assert child.pid in children.pids()
        child.kill()
    assert child.pid not in children.pids()


def test_many_children_are_all_listed() -> None:
    """More than the kernel hands out at a time."""
    children = Children()
    before = children.count()
    pids = [os.posix_spawn("/bin/sleep", ["sleep", "1000"], {}) for _ in range(700)]
    try:
        assert children.count() == before + 700
        assert set(pids) <= set(children.pids())
    finally:
        for pid in pids:
            os.kill(pid, 9)
        for pid in pids:
            os.waitpid(pid, 0)


def test_memory_killer(tmp_path: Path) -> None:
    counters = tmp_path / "vmstat"
    counters.write_text("pgfault 12\noom_kill 3\nzswpin 0\n")
    killer = MemoryKiller(counters)
    assert not killer.has_killed(10.0)
    counters.write_text("pgfault 13\noom_kill 5\nzswpin 0\n")
    assert killer.has_killed(20.0) and killer.has_killed(20.5)
    assert not killer.has_killed(30.0)
    assert not MemoryKiller(tmp_path / "missing").has_killed(0.0)


ADDED = {b"PYTHONUNBUFFERED": b"1"}


def test_scrubbed_keeps_what_is_not_of_the_launch() -> None:
    mine = {
        b"HOME": b"/h", b"MPICC": b"cc", b"MPI_HOME": b"/opt/mpi", b"OMPI_MCA_pml": b"ucx", b"PRTE_MCA_x": b"1",
        b"GFORTRAN_UNBUFFERED_PRECONNECTED": b"y", b"SLURM_JOB_ID": b"1", b"SLURM_OVERLAP": b"0", b"I_MPI_PIN": b"1",
    }  # fmt: skip
    assert mine.items() <= scrubbed(mine).items()
    assert scrubbed({b"PMI_FD": b"3", b"GFORTRAN_UNBUFFERED_PRECONNECTED": b"y"}) == ADDED
    assert scrubbed({b"MPIR_CVAR_CH3_INTERFACE_HOSTNAME": b"n", b"SRUN_DEBUG": b"3", b"OMPI_MCA_orte_x": b"1"}) == ADDED
