"""What the ranks say of themselves at start-up, and the nodes that they add up to."""

from __future__ import annotations

import resource
from collections import Counter
from dataclasses import dataclass

from mpifarm.core.model import Limits, NodeShape
from mpifarm.core.roles import Roles
from mpifarm.errors import SiteError

TOO_FEW_FILES = """{slots:,} slots on {where} instead of {wanted:,}: so many want {needed:,} files, and a process may \
have {files:,}
  raise the hard limit (`ulimit -Hn` shows it; those who run the machine set it) before the ranks are started"""


@dataclass(frozen=True, slots=True)
class RankHello:
    """What a rank says of itself at start-up."""

    host: str
    cpus: tuple[int, ...]
    version: tuple[str, int]
    arena: str
    """Where the memory of its launcher can be opened."""
    interrupted: bool
    files: int
    """It may have open at most."""


def files_allowed() -> int:
    """The hard limit: up to there a launcher raises its own."""
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    return 1 << 30 if hard == resource.RLIM_INFINITY else hard


def node_shapes(roles: Roles, hellos: list[RankHello], slots: int | None) -> tuple[tuple[NodeShape, ...], str]:
    """Nodes as the ranks on them add up: the union of their affinity masks, or `slots` per node if given; and what to
    say where that is more than there can be files for. Raises SiteError where there cannot be any."""
    shapes = []
    short: list[tuple[str, int, int, int]] = []
    limits = Limits()
    hosts = Counter(hellos[leader].host for leader in roles.leaders)
    for number, leader in enumerate(roles.leaders):
        members = [hello for rank, hello in enumerate(hellos) if roles.node_of[rank] == number]
        cpus = tuple(sorted(set().union(*(member.cpus for member in members))))
        host = hellos[leader].host
        # Several shared-memory groups on one host (a test world) must still have names of their own.
        name = host if hosts[host] == 1 else f"{host}.{number}"
        wanted = slots or len(cpus)
        files = hellos[leader].files
        most = (files - limits.launcher_files) // limits.slot_files
        if most < wanted:
            short.append((name, max(most, 0), wanted, files))
        shapes.append(NodeShape(name, cpus, min(wanted, most)))
    if not short:
        return tuple(shapes), ""
    name, fewer, wanted, files = min(short, key=lambda one: one[1])
    where = name if len(short) == 1 else f"{name} (and fewer than wanted on {len(short) - 1:,} more nodes)"
    needed = limits.launcher_files + wanted * limits.slot_files
    told = TOO_FEW_FILES.format(slots=fewer, where=where, wanted=wanted, files=files, needed=needed)
    if not fewer:
        raise SiteError(told)
    return tuple(shapes), told
