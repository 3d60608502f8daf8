"""What fits on one node: the slots of its cores, taken and given back.

A slot is named by the lowest core index its attempt holds, and an attempt always gets the lowest free indices: a total
order, nothing is left to chance. A further resource (memory, GPUs) is one more amount that `fits` compares and that
`place` and `free` move. Pure: imports nothing but the model.
"""

from __future__ import annotations

from mpifarm.core.needs import Needs


class Node:
    """The capacity of one node. Core indices are 0 to slots - 1; sets of them are bit masks."""

    __slots__ = ("_free", "_taken", "free_cpus", "slots")

    def __init__(self, slots: int) -> None:
        assert slots > 0
        self.slots = slots
        self.free_cpus = slots
        self._free = (1 << slots) - 1
        self._taken: dict[int, int] = {}

    def holds(self, needs: Needs) -> bool:
        """Whether an attempt that needs this fits when the node is empty."""
        return needs.cpus <= self.slots

    def fits(self, needs: Needs) -> bool:
        """Whether an attempt that needs this fits now."""
        return needs.cpus <= self.free_cpus

    def place(self, needs: Needs) -> int:
        """Take the lowest free cores and return the slot. It must fit."""
        assert 0 < needs.cpus <= self.free_cpus
        rest = self._free
        for _ in range(needs.cpus):
            rest &= rest - 1  # without its lowest bit
        taken = self._free ^ rest
        slot = (taken & -taken).bit_length() - 1
        self._free = rest
        self._taken[slot] = taken
        self.free_cpus -= needs.cpus
        return slot

    def free(self, slot: int) -> None:
        """Give back what the attempt in `slot` holds."""
        taken = self._taken.pop(slot)
        self._free |= taken
        self.free_cpus = self._free.bit_count()
