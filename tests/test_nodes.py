"""Ranks add up to nodes, with as many slots as there can be files for."""

from __future__ import annotations

import pytest

from mpifarm.core.roles import assign
from mpifarm.errors import SiteError
from mpifarm.rank.nodes import NodeTerms, RankHello, node_shapes


def hello(host: str, *cpus: int, files: int = 1 << 20) -> RankHello:
    return RankHello(host, cpus, ("1", 1), "", False, files)


def test_nodes_are_what_their_ranks_add_up_to() -> None:
    hellos = [hello("a", 0, 1), hello("a", 1, 2), hello("b", 0)]
    nodes, said = node_shapes(assign([0, 0, 2]), hellos)
    assert [(node.name, node.cpus, node.slots) for node in nodes] == [("a", (0, 1, 2), 3), ("b", (0,), 1)]
    assert not said
    nodes, _ = node_shapes(assign([0, 0, 2]), hellos, NodeTerms(5))
    assert [node.slots for node in nodes] == [5, 5]


def test_a_node_has_no_more_slots_than_there_can_be_files_for() -> None:
    """Each slot wants seven; `ulimit -n 1024` with 256 slots was a traceback."""
    hellos = [hello("a", 0, files=1024), hello("b", 0)]
    nodes, said = node_shapes(assign([0, 1]), hellos, NodeTerms(256))
    assert [node.slots for node in nodes] == [137, 256]
    assert said.startswith("137 slots on a instead of 256: so many want 1,856 files, and a process may have 1,024")
    assert "1,856" in said and "ulimit -Hn" in said
    _, said = node_shapes(assign([0, 1]), [hello("a", 0, files=1024), hello("b", 0, files=512)], NodeTerms(256))
    assert said.startswith("64 slots on b (and fewer than wanted on 1 more node) instead of 256")
    with pytest.raises(SiteError, match="0 slots on a instead of 1"):
        node_shapes(assign([0]), [hello("a", 0, files=60)])
