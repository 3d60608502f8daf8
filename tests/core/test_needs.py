"""What a task needs is arithmetic: nothing is lost, nothing is over-committed, and a room says how many it holds."""

from __future__ import annotations

import json

from hypothesis import given
from hypothesis import strategies as st

from mpifarm.core.needs import MILLIS, Needs

GIB = 1 << 30
amounts = st.integers(0, 1000)
resources = st.dictionaries(st.sampled_from(["licence", "disk", "port"]), st.integers(1, 5000)).map(
    lambda found: tuple(sorted(found.items()))
)
needs = st.builds(
    Needs,
    cpus=st.integers(1, 64),
    memory_bytes=amounts,
    gpu_millis=amounts,
    resources=resources,
    nodes=st.integers(0, 3),
    ranks=st.integers(1, 9),
    time_limit_s=st.floats(0, 1e6),
    time_request_s=st.floats(0, 1e6),
    category=st.sampled_from(["", "dock"]),
)
rooms = st.builds(Needs, st.integers(0, 128), amounts, amounts, resources, nodes=st.integers(1, 4))


def test_fits_looks_at_every_amount() -> None:
    room = Needs(8, 4 * GIB, 2 * MILLIS, (("disk", 5), ("licence", 1000)), nodes=2)
    assert Needs().fits(room) and Needs(8, 4 * GIB, 2 * MILLIS, room.resources, nodes=2, ranks=16).fits(room)
    for more in (
        {"cpus": 9}, {"memory_bytes": 4 * GIB + 1}, {"gpu_millis": 2001}, {"resources": (("disk", 6),)},
        {"resources": (("port", 1),)}, {"nodes": 3},
    ):  # fmt: skip
        assert not Needs()._replace(**more).fits(room), more


@given(needs, needs, rooms)
def test_what_is_taken_and_put_back_was_there(one: Needs, other: Needs, room: Needs) -> None:
    if one.fits(room):
        left = room.minus(one)
        assert left.plus(one) == room
        assert one.plus(other)._replace(nodes=1).fits(room) == other._replace(nodes=1).fits(left)
        assert min(left[:3]) >= 0 and all(amount > 0 for _, amount in left.resources)


@given(needs, st.integers(0, 50), st.integers(0, 50))
def test_times_is_plus_again_and_again(one: Needs, few: int, more: int) -> None:
    assert one.times(1) == one
    assert one.times(few).plus(one.times(more)) == one.times(few + more)
    assert one.times(few).times(more) == one.times(few * more)


@given(needs, rooms)
def test_a_room_holds_so_many_and_no_more(one: Needs, room: Needs) -> None:
    count = one.count_in(room)
    assert one.fits(room) == (count > 0)
    assert count == 0 or one.times(count).fits(room)
    assert not one.times(count + 1).fits(room)


@given(needs)
def test_json_and_back(one: Needs) -> None:
    told = json.loads(json.dumps(one.to_json()))
    assert Needs.from_json(told) == one
    assert hash(Needs.from_json(told)) == hash(one)
    assert ("cpus" in told) == (one.cpus != 1)


def test_what_needs_nothing_special_says_nothing() -> None:
    assert Needs().to_json() == {}
    assert Needs.from_json({"time_limit_s": 60}) == Needs(time_limit_s=60.0)
