"""A node never gives away what it does not have."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from mpifarm.core.launcher.packing import Node
from mpifarm.core.needs import Needs


def test_slots_are_the_lowest_free_cores() -> None:
    node = Node(4)
    assert [node.place(Needs(1)), node.place(Needs(2)), node.place(Needs(1))] == [0, 1, 3]
    node.free(1)
    node.free(0)
    assert node.place(Needs(2)) == 0
    assert node.place(Needs(1)) == 2
    assert node.free_cpus == 0


def test_fits_and_holds() -> None:
    node = Node(3)
    assert node.holds(Needs(3)) and not node.holds(Needs(4))
    node.place(Needs(2))
    assert node.fits(Needs(1)) and not node.fits(Needs(2)) and node.holds(Needs(3))


@given(st.integers(1, 300), st.lists(st.tuples(st.integers(1, 40), st.integers(0, 1 << 30)), max_size=80))
def test_never_over_committed(slots: int, steps: list[tuple[int, int]]) -> None:
    """Any order of placing and freeing: the sum of what is held and free is the node, slots are distinct."""
    node, held = Node(slots), dict[int, int]()
    for cpus, choice in steps:
        if node.fits(Needs(cpus)):
            slot = node.place(Needs(cpus))
            assert 0 <= slot < slots and slot not in held
            held[slot] = cpus
        elif held:
            slot = sorted(held)[choice % len(held)]
            node.free(slot)
            del held[slot]
        assert node.free_cpus + sum(held.values()) == slots
    for slot in held:
        node.free(slot)
    assert node.free_cpus == slots and node.place(Needs(slots)) == 0
