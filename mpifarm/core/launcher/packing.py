"""What fits on one node: its cores, memory, GPUs and named resources, taken and given back. Pure.

A slot is named by the lowest core index its attempt holds. An attempt gets cores of as few domains (NUMA nodes, caches)
as can be: of the fullest that holds it, else whole ones first; in a domain the lowest free indices. A share of a GPU
goes to the fullest that has it. A total order: nothing is left to chance.
"""

from __future__ import annotations

from collections.abc import Sequence

from mpifarm.core.needs import MILLIS, NODE, NODE_SHARES, Needs

Domain = tuple[int, "Sequence[Domain]"]
"""Core indices as a bit mask, and the domains within."""


class Node:
    """The capacity of one node. Core indices are 0 to slots - 1; sets of them are bit masks."""

    __slots__ = ("_domains", "_free", "_gpus", "_rest", "_taken", "free_cpus", "room", "slots")

    def __init__(self, room: Needs, domains: Sequence[Domain] = ()) -> None:
        """`domains`: disjoint, and together all cores; none: it is one."""
        assert room.cpus > 0
        self.room = room
        self.slots = room.cpus
        self.free_cpus = room.cpus
        self._free = (1 << room.cpus) - 1
        self._domains = domains
        self._gpus = [MILLIS] * (room.gpu_millis // MILLIS)
        self._rest = room
        self._taken: dict[int, tuple[int, Needs, tuple[int, ...]]] = {}

    def holds(self, needs: Needs) -> bool:
        """Whether an attempt that needs this fits when the node is empty."""
        return needs.fits(self.room)

    def fits(self, needs: Needs) -> bool:
        """Whether an attempt that needs this fits now."""
        if needs.cpus > self.free_cpus:
            return False
        if not (needs.memory_bytes or needs.gpu_millis or needs.resources):
            return True
        return needs.fits(self._rest) and (not needs.gpu_millis or self._choose_gpus(needs.gpu_millis) is not None)

    def place(self, needs: Needs) -> int:
        """Take what it needs and return the slot. It must fit."""
        assert 0 < needs.cpus <= self.free_cpus
        taken = self._choose(needs.cpus, self._free, self._domains)
        slot = (taken & -taken).bit_length() - 1
        gpus: tuple[int, ...] = ()
        if needs.gpu_millis:
            chosen = self._choose_gpus(needs.gpu_millis)
            assert chosen is not None
            gpus = chosen
            for gpu in gpus:
                self._gpus[gpu] -= min(needs.gpu_millis, MILLIS)
        if needs.memory_bytes or needs.gpu_millis or needs.resources:
            self._rest = self._rest.minus(needs._replace(cpus=0))
        self._free ^= taken
        self._taken[slot] = taken, needs, gpus
        self.free_cpus -= needs.cpus
        return slot

    def free(self, slot: int) -> None:
        """Give back what the attempt in `slot` holds."""
        taken, needs, gpus = self._taken.pop(slot)
        self._free |= taken
        self.free_cpus += needs.cpus
        for gpu in gpus:
            self._gpus[gpu] += min(needs.gpu_millis, MILLIS)
        if needs.memory_bytes or needs.gpu_millis or needs.resources:
            self._rest = self._rest.plus(needs._replace(cpus=0))

    def held(self, slot: int) -> tuple[int, tuple[int, ...]]:
        """The cores that the attempt in `slot` holds, and the GPUs, wholly or in part."""
        taken, _, gpus = self._taken[slot]
        return taken, gpus

    def _choose_gpus(self, millis: int) -> tuple[int, ...] | None:
        """None: they are not free."""
        free = self._gpus
        if millis < MILLIS:
            fullest = min(((left, gpu) for gpu, left in enumerate(free) if left >= millis), default=None)
            return None if fullest is None else (fullest[1],)
        whole = [gpu for gpu, left in enumerate(free) if left == MILLIS][: millis // MILLIS]
        return tuple(whole) if len(whole) == millis // MILLIS else None

    def _choose(self, count: int, free: int, domains: Sequence[Domain]) -> int:
        """So many of these free cores."""
        taken = 0
        parts = [(free & mask, within) for mask, within in domains]
        while count and parts:
            enough = [part for part in parts if part[0].bit_count() >= count]
            if enough:
                mask, within = min(enough, key=lambda part: part[0].bit_count())
                return taken | self._choose(count, mask, within)
            part = max(parts, key=lambda part: part[0].bit_count())
            parts.remove(part)
            taken |= part[0]
            count -= part[0].bit_count()
        rest = free
        for _ in range(count):
            rest &= rest - 1  # without its lowest bit
        return taken | (free ^ rest)


def real_needs(needs: Needs, room: Needs) -> Needs:
    """What a task takes of such a node: who takes a share of it takes that of its cores, too."""
    share = dict(needs.resources).get(NODE, 0)
    return needs._replace(cpus=max(needs.cpus, room.cpus * share // NODE_SHARES)) if share else needs
