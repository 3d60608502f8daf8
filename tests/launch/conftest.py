"""A node to launch on; whatever a test does to it, nothing of it outlives the test."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.launch.node import OneNode, lives, until


@pytest.fixture
def make_node(tmp_path: Path) -> Iterator[Callable[..., OneNode]]:
    """Makes nodes, with `slots` as wanted."""
    nodes: list[OneNode] = []

    def make(slots: int = 2) -> OneNode:
        nodes.append(OneNode(tmp_path, slots))
        return nodes[-1]

    yield make
    for node in nodes:
        node.close()
    until(lambda: not any(lives(node.launcher.pid) or lives(node.launcher.guardian) for node in nodes), 5)


@pytest.fixture
def node(make_node: Callable[..., OneNode]) -> OneNode:
    """A node with two slots."""
    return make_node()
