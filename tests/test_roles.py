"""Who plays what, for the shapes of world that people start."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mpifarm.core.roles import assign


@pytest.mark.parametrize(
    ("leader_of", "leaders", "recorder"),
    [
        ([0], (0,), 0),
        ([0, 0], (0,), 1),
        ([0, 1], (0, 1), 1),
        ([0, 0, 0], (0,), 1),
        ([0, 1, 1], (0, 1), 2),
        ([0, 1, 2, 3], (0, 1, 2, 3), 3),
        ([0, 1, 0, 1], (0, 1), 2),
    ],
)
def test_roles(leader_of: list[int], leaders: tuple[int, ...], recorder: int) -> None:
    roles = assign(leader_of)
    assert (roles.leaders, roles.recorder) == (leaders, recorder)


@given(st.lists(st.integers(0, 4), min_size=1, max_size=40))
def test_every_rank_has_its_leader(nodes: list[int]) -> None:
    leader_of = [nodes.index(node) for node in nodes]
    roles = assign(leader_of)
    assert [roles.leader_of(rank) for rank in range(len(nodes))] == leader_of
    assert roles.leaders[0] == 0
    alone = len(roles.leaders) == len(nodes)
    assert alone or roles.recorder not in roles.leaders
