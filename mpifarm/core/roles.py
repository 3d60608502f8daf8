"""Which rank plays which roles, decided once at start-up from the map rank -> node."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

DISPATCHER = 0
"""The dispatcher is rank 0: the only rank that opens a socket."""


@dataclass(frozen=True, slots=True)
class Roles:
    leaders: tuple[int, ...]
    """Rank of each node's leader, by node number."""
    node_of: tuple[int, ...]
    """Node number of each rank."""
    recorder: int

    def leader_of(self, rank: int) -> int:
        return self.leaders[self.node_of[rank]]


def assign(leader_of: Sequence[int]) -> Roles:
    """Roles of a world in which rank `r` has `leader_of[r]`, the lowest rank it shares memory with.

    The recorder gets a rank that leads no node, near the dispatcher if possible; when every rank leads a node (one rank
    per node), the last one carries it besides; alone, rank 0 plays everything.
    """
    leaders = tuple(sorted(set(leader_of)))
    number = {leader: node for node, leader in enumerate(leaders)}
    node_of = tuple(number[leader] for leader in leader_of)
    followers = [rank for rank, leader in enumerate(leader_of) if rank != leader]
    near = [rank for rank in followers if node_of[rank] == node_of[DISPATCHER]]
    recorder = (near or followers or [len(leader_of) - 1])[0]
    return Roles(leaders, node_of, recorder)
