"""A node never gives away what it does not have."""

from __future__ import annotations

from functools import reduce
from operator import or_

from hypothesis import given
from hypothesis import strategies as st

from mpifarm.core.launcher.packing import Domain, Node, real_needs
from mpifarm.core.needs import NODE, NODE_SHARES, Needs, share_of_node


def test_slots_are_the_lowest_free_cores() -> None:
    node = Node(Needs(4))
    assert [node.place(Needs(1)), node.place(Needs(2)), node.place(Needs(1))] == [0, 1, 3]
    node.free(1)
    node.free(0)
    assert node.place(Needs(2)) == 0
    assert node.place(Needs(1)) == 2
    assert node.free_cpus == 0


def test_fits_and_holds() -> None:
    node = Node(Needs(3))
    assert node.holds(Needs(3)) and not node.holds(Needs(4))
    node.place(Needs(2))
    assert node.fits(Needs(1)) and not node.fits(Needs(2)) and node.holds(Needs(3))


@given(st.integers(1, 300), st.lists(st.tuples(st.integers(1, 40), st.integers(0, 1 << 30)), max_size=80))
def test_never_over_committed(slots: int, steps: list[tuple[int, int]]) -> None:
    """Any order of placing and freeing: the sum of what is held and free is the node, slots are distinct."""
    node, held = Node(Needs(slots)), dict[int, int]()
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


DOMAINS = ((0b00001111, ((0b11, ()), (0b1100, ()))), (0b11110000, ()))


def test_cores_of_one_domain_where_they_fit() -> None:
    """Two NUMA nodes of four cores, the first of two caches: best fit, else whole domains."""
    node = Node(Needs(8), DOMAINS)
    cores = [node.held(node.place(Needs(cpus)))[0] for cpus in (1, 2, 3, 1, 1)]
    assert cores == [0b1, 0b1100, 0b1110000, 0b10, 0b10000000]
    node = Node(Needs(8), DOMAINS)
    assert node.held(node.place(Needs(6)))[0] == 0b00111111


def test_shares_of_a_gpu_lie_together() -> None:
    node = Node(Needs(8, gpu_millis=2000))
    share, rest = Needs(gpu_millis=600), Needs(gpu_millis=400)
    slots = [node.place(share), node.place(share), node.place(rest)]
    assert [node.held(slot)[1] for slot in slots] == [(0,), (1,), (0,)]
    assert not node.fits(Needs(gpu_millis=500)) and not node.fits(Needs(gpu_millis=1000))
    node.free(slots[0])
    node.free(slots[2])
    assert node.held(node.place(Needs(gpu_millis=1000)))[1] == (0,)


def test_who_takes_a_share_of_a_node_takes_its_cores() -> None:
    room = Needs(8, resources=((NODE, NODE_SHARES),))
    quarter = Needs(resources=((NODE, share_of_node(4)),))
    assert real_needs(quarter, room).cpus == 2
    assert quarter.count_in(room) == 4


ROOM = Needs(8, 64, 3000, (("disk", 5000), (NODE, NODE_SHARES)))
WANTED = st.builds(
    Needs,
    cpus=st.integers(1, 8),
    memory_bytes=st.integers(0, 64),
    gpu_millis=st.sampled_from([0, 0, 250, 600, 1000, 2000]),
    resources=st.sampled_from([(), (), (("disk", 2000),), ((NODE, share_of_node(3)),)]),
    nodes=st.just(1),
    ranks=st.just(1),
)


@given(st.lists(st.tuples(WANTED, st.booleans(), st.integers(0, 99)), max_size=60), st.sampled_from([(), DOMAINS]))
def test_nothing_is_over_committed_and_what_fits_has_a_place(
    steps: list[tuple[Needs, bool, int]], domains: tuple[Domain, ...]
) -> None:
    """Cores are one attempt's own; memory, resources and each GPU hold the sum of what lies on them; and what is free
    in each of them is enough exactly when it fits."""
    node, held = Node(ROOM, domains), dict[int, Needs]()
    for wanted, give_back, choice in steps:
        gpus = [1000] * 3
        for slot, needs in held.items():
            for gpu in node.held(slot)[1]:
                gpus[gpu] -= min(needs.gpu_millis, 1000)
        left = ROOM
        for needs in held.values():
            left = left.minus(needs)
        whole, share = divmod(wanted.gpu_millis, 1000)
        enough = gpus.count(1000) >= whole if whole else max(gpus) >= share
        assert node.fits(wanted) == (wanted.fits(left) and enough)
        if node.fits(wanted):
            slot = node.place(wanted)
            held[slot] = wanted
            cores = [node.held(other)[0] for other in held]
            assert node.held(slot)[0].bit_count() == wanted.cpus
            assert sum(mask.bit_count() for mask in cores) == reduce(or_, cores).bit_count()
            assert len(node.held(slot)[1]) == -(-wanted.gpu_millis // 1000)
        if give_back and held:
            slot = sorted(held)[choice % len(held)]
            node.free(slot)
            del held[slot]
    for slot in held:
        node.free(slot)
    assert node.fits(ROOM)
