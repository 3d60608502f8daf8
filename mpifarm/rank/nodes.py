"""What the ranks say of themselves at start-up, and the nodes that they add up to."""

from __future__ import annotations

import resource
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

from mpifarm.core.model import Limits, NodeShape
from mpifarm.core.needs import Needs, Resources
from mpifarm.core.plural import counted
from mpifarm.core.roles import Roles
from mpifarm.errors import SiteError
from mpifarm.rank.offers import NOTHING, Offer

TOO_FEW_FILES = """{slots} on {where} instead of {wanted:,}: so many want {needed:,} files, and a process may \
have {files:,}
  raise the hard limit (`ulimit -Hn` shows it; those who run the machine set it) before the ranks are started"""


class NodeTerms(NamedTuple):
    """What of a node this run shall use; None, 0: what is found."""

    cpus: int | None = None
    memory_bytes: int | None = None
    gpus: int | None = None
    resources: Resources = ()
    reserve_cores: int = 0
    pin: bool = True


AS_FOUND = NodeTerms()


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
    offer: Offer = NOTHING


def files_allowed() -> int:
    """The hard limit: up to there a launcher raises its own."""
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    return 1 << 30 if hard == resource.RLIM_INFINITY else hard


def node_shapes(
    roles: Roles, hellos: list[RankHello], asked: NodeTerms = AS_FOUND
) -> tuple[tuple[NodeShape, ...], str]:
    """Nodes as the ranks on them add up: the union of their affinity masks and GPUs, or what is asked; and what to say
    where that is more than there can be files for. Raises SiteError where there cannot be any."""
    shapes: list[NodeShape] = []
    short: list[tuple[str, int, int, int]] = []
    limits = Limits()
    hosts = Counter(hellos[leader].host for leader in roles.leaders)
    before: Counter[str] = Counter()
    for number, leader in enumerate(roles.leaders):
        members = [hello for rank, hello in enumerate(hellos) if roles.node_of[rank] == number]
        cpus = tuple(sorted(set().union(*(member.cpus for member in members))))
        host = hellos[leader].host
        # Several shared-memory groups on one host (a test world) must still have names of their own.
        name = host if hosts[host] == 1 else f"{host}.{number}"
        wanted = asked.cpus or max(1, len(cpus) - asked.reserve_cores)
        files = hellos[leader].files
        most = (files - limits.launcher_files) // limits.slot_files
        if most < wanted:
            short.append((name, max(most, 0), wanted, files))
        shape = NodeShape(name, cpus, min(wanted, most), resources=asked.resources)
        shapes.append(_with_offer(shape, [hello.offer for hello in members], asked, (before[host], hosts[host])))
        before[host] += 1
    if not short:
        return _pinned(shapes, [hellos[leader].host for leader in roles.leaders], asked), ""
    name, fewer, wanted, files = min(short, key=lambda one: one[1])
    where = name if len(short) == 1 else f"{name} (and fewer than wanted on {counted(len(short) - 1, 'more node')})"
    needed = limits.launcher_files + wanted * limits.slot_files
    told = TOO_FEW_FILES.format(slots=counted(fewer, "slot"), where=where, wanted=wanted, files=files, needed=needed)
    if not fewer:
        raise SiteError(told)
    return _pinned(shapes, [hellos[leader].host for leader in roles.leaders], asked), told


def _with_offer(shape: NodeShape, offers: list[Offer], asked: NodeTerms, share: tuple[int, int]) -> NodeShape:
    """With memory and GPUs. `share`: which of so many groups of ranks on the host it is; they share what was found."""
    nth, of = share
    found = sorted({gpu for offer in offers for gpu in offer.gpus}, key=lambda gpu: (len(gpu), gpu))[nth::of]
    memory = offers[0].memory_bytes // of if asked.memory_bytes is None else asked.memory_bytes
    gpus = tuple(found)
    if asked.gpus is not None:
        gpus = gpus[: asked.gpus] if asked.gpus <= len(gpus) else tuple(map(str, range(asked.gpus)))
    variable = next((offer.gpu_variable for offer in offers if offer.gpu_variable), "")
    return replace(shape, memory_bytes=memory, gpus=gpus, gpu_variable=variable)


def _pinned(shapes: list[NodeShape], hosts: list[str], asked: NodeTerms) -> tuple[NodeShape, ...]:
    """Each slot has a core of its own where there are as many, for all groups of ranks on a host together."""
    wanted: Counter[str] = Counter()
    cores: dict[str, set[int]] = {}
    for shape, host in zip(shapes, hosts):
        wanted[host] += shape.slots
        cores.setdefault(host, set()).update(shape.cpus)
    pinned: list[NodeShape] = []
    used: dict[str, set[int]] = {}
    for shape, host in zip(shapes, hosts):
        taken = used.setdefault(host, set())
        free = [cpu for cpu in shape.cpus if cpu not in taken]
        pin = asked.pin and wanted[host] <= len(cores[host]) and shape.slots <= len(free)
        if pin:
            taken.update(free[: shape.slots])
            shape = replace(shape, pin=True, cpus=(*free, *(cpu for cpu in shape.cpus if cpu in taken - {*free})))
        pinned.append(shape)
    return tuple(pinned)


def room_of_all(shapes: Sequence[NodeShape]) -> Needs:
    """What each of the nodes has, at least; but the cores of the widest."""
    rooms = [shape.room for shape in shapes]
    common = {name: min(dict(room.resources).get(name, 0) for room in rooms) for name, _ in rooms[0].resources}
    return Needs(
        max(room.cpus for room in rooms),
        min(room.memory_bytes for room in rooms),
        min(room.gpu_millis for room in rooms),
        tuple(sorted((name, amount) for name, amount in common.items() if amount)),
    )
