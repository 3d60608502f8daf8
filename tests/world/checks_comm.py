"""Runs on every rank of a real world (see test_worlds.py): messages, roles, start-up collectives."""

from __future__ import annotations

import time

import pytest

from mpifarm.core.protocol.messages import Exit, Want, Written
from mpifarm.core.roles import assign
from mpifarm.rank.comm import World
from tests.fix_mpi import collective_assert


@pytest.fixture(scope="module")
def world() -> World:
    return World()


def _gather(world: World, count: int, deadline_s: float = 20.0) -> list[object]:
    """Poll until `count` messages are there."""
    messages: list[object] = []
    end = time.monotonic() + deadline_s
    while len(messages) < count and time.monotonic() < end:
        messages += world.poll(bulk=True)
        assert world.sending in (True, False)  # asking makes progress
    return messages


@pytest.mark.mpi
def test_messages_from_everyone_arrive_whole_and_in_order(world: World) -> None:
    from mpi4py import MPI

    rounds = 200
    for number in range(rounds):
        world.send(0, Want(world.rank, number, 0))
    got = _gather(world, rounds * world.size) if world.rank == 0 else []
    if world.rank == 0:
        by_rank: dict[int, list[int]] = {}
        for message in got:
            assert isinstance(message, Want)
            by_rank.setdefault(message.rank, []).append(message.cpus)
        ok = by_rank == {rank: list(range(rounds)) for rank in range(world.size)}
    else:
        ok = True
    _gather(world, 0)
    collective_assert(MPI.COMM_WORLD, ok, "messages lost or out of order")


@pytest.mark.mpi
def test_large_messages_pass_without_anyone_blocking(world: World) -> None:
    from mpi4py import MPI

    from mpifarm.core.protocol.messages import Output

    payload = bytes(range(256)) * 4096 * 3
    after = (world.rank + 1) % world.size
    world.send(after, Output(world.rank, payload, b"", (), {}))
    end = time.monotonic() + 20.0
    got: list[object] = []
    while time.monotonic() < end and (world.sending or not got):
        got += world.poll(bulk=True)
    ok = len(got) == 1 and isinstance(got[0], Output) and got[0].rows == payload
    collective_assert(MPI.COMM_WORLD, ok and not world.sending, "3 MiB to the next rank")


@pytest.mark.mpi
def test_outputs_wait_with_their_senders_while_all_else_is_heard(world: World) -> None:
    from mpi4py import MPI

    from mpifarm.core.protocol.messages import Output

    world.send(0, Output(world.rank, b"", b"", (), {}))
    world.send(0, Want(world.rank, 1, 0))
    got: list[object] = []
    end = time.monotonic() + 20.0
    while world.rank == 0 and len(got) < world.size and time.monotonic() < end:
        got += world.poll(bulk=False)
    ok = all(isinstance(message, Want) for message in got)
    outputs = _gather(world, world.size) if world.rank == 0 else []
    while world.sending and time.monotonic() < end:
        pass
    ok = ok and all(isinstance(message, Output) for message in outputs)
    ok = ok and len(got) == len(outputs) == (world.size if world.rank == 0 else 0)
    collective_assert(MPI.COMM_WORLD, ok, "outputs came unasked, or not at all")


@pytest.mark.mpi
def test_everyone_knows_the_same_roles(world: World) -> None:
    from mpi4py import MPI

    roles = assign(world.leader_of_ranks())
    same = MPI.COMM_WORLD.allgather(roles)
    collective_assert(MPI.COMM_WORLD, all(other == roles for other in same), f"{same}")
    collective_assert(MPI.COMM_WORLD, roles.leader_of(world.rank) <= world.rank, "a leader is the lowest of its node")


@pytest.mark.mpi
def test_start_up_collectives(world: World) -> None:
    from mpi4py import MPI

    gathered = world.gather(world.rank)
    ok = gathered == list(range(world.size)) if world.rank == 0 else gathered is None
    collective_assert(MPI.COMM_WORLD, ok, str(gathered))
    told = world.everywhere(Exit() if world.rank == 0 else None)
    collective_assert(MPI.COMM_WORLD, told == Exit(), str(told))
    world.send(0, Written(2))
    count = len(_gather(world, world.size)) if world.rank == 0 else world.size
    collective_assert(MPI.COMM_WORLD, count == world.size, f"{count}")


@pytest.mark.mpi
def test_no_kill_leaves_shared_memory_behind(world: World) -> None:
    """What has no name any more goes with the last that uses it."""
    from mpi4py import MPI

    assert world.size
    with open("/proc/self/maps") as maps:
        shared = [line.strip() for line in maps if "/dev/shm/" in line]
    collective_assert(MPI.COMM_WORLD, all(line.endswith("(deleted)") for line in shared), str(shared))
