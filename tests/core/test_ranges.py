"""The laws of half-open ranges."""

from __future__ import annotations

from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from mpifarm.core.ranges import disjoint, extend, pieces, runs_of

number = st.integers(0, 40)
a_range = st.tuples(number, st.integers(1, 12)).map(lambda pair: (pair[0], sum(pair)))
many = st.lists(a_range, max_size=6)


def numbers(ranges: list[tuple[int, int]]) -> set[int]:
    return {each for lo, hi in ranges for each in range(lo, hi)}


def apart(ranges: list[tuple[int, int]]) -> bool:
    return all(lo < hi for lo, hi in ranges) and all(a[1] < b[0] for a, b in pairwise(ranges))


@given(many)
def test_disjoint_keeps_every_number_in_one_range(ranges: list[tuple[int, int]]) -> None:
    found = disjoint(ranges)
    assert apart(found) and numbers(found) == numbers(ranges)
    assert disjoint(found) == found == disjoint(reversed(ranges))


@given(st.sets(number))
def test_runs_are_the_fewest_ranges_of_numbers(members: set[int]) -> None:
    found = runs_of(sorted(members))
    assert apart(found) and numbers(found) == members
    grown: list[tuple[int, int]] = []
    for member in sorted(members):
        extend(grown, member)
    assert grown == found == disjoint((member, member + 1) for member in members)


@given(a_range, many)
def test_pieces_are_the_whole_in_order(whole: tuple[int, int], ranges: list[tuple[int, int]]) -> None:
    found = list(pieces(*whole, sorted(ranges)))
    assert all(lo < hi for lo, hi, _ in found)
    assert [lo for lo, _, _ in found] + [whole[1]] == [whole[0], *(hi for _, hi, _ in found)]
    assert numbers([(lo, hi) for lo, hi, inside in found if inside]) == numbers([whole]) & numbers(ranges)
