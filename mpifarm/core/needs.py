"""What one task needs, as one value: from the directive to the launcher, in a lease and in a leader's credit. Pure.

What a node has to give is said in the same words, and so is what is left of it: `needs.fits(room)`, and after
`room = room.minus(needs)` the rest is for others. Amounts are exact whole numbers, so that what was taken and put back
is what was there. A further resource is one more field before `resources`; one that only a site knows is a name in it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from math import inf
from operator import add, le, sub
from typing import NamedTuple, cast

MILLIS = 1000
"""Of a GPU, or of a named resource: shares are counted in thousandths."""

NODE = "node"
"""The resource of which every node has the same, for tasks that want a share of a node, whatever it is."""
NODE_SHARES = 1_000_000
"""How much of it."""


def share_of_node(count: int) -> int:
    """What each of so many takes, who share a node; of what each takes: how many they are, up to a thousand."""
    return NODE_SHARES // count


Resources = tuple[tuple[str, int], ...]


class Needs(NamedTuple):
    """Amounts are for each node that the task spans; where `nodes` is 0, for each of its ranks."""

    cpus: int = 1
    memory_bytes: int = 0
    gpu_millis: int = 0
    resources: Resources = ()
    """(name, thousandths), in order of the names, none of them 0."""
    nodes: int = 1
    """How many it spans; 0: those where its ranks find room. Of a room: how many such nodes there are."""
    ranks: int = 1
    """Processes, in all."""
    time_limit_s: float = 0.0
    """0: no limit."""
    time_request_s: float = 0.0
    """What must be left of an allocation for it to begin; 0: its time limit."""
    category: str = ""
    """Tasks of one category are expected to need alike; empty: told by their program."""

    @property
    def begins_with_s(self) -> float:
        """What must be left of an allocation for it to begin."""
        return self.time_request_s or self.time_limit_s

    def fits(self, room: Needs) -> bool:
        """Whether each of its nodes could be one that has this, and there are enough of them."""
        return (
            all(map(le, _amounts(self), _amounts(room)))
            and self.nodes <= room.nodes
            and (not self.resources or all(map(le, *_beside(self, room))))
        )

    def lacking(self, room: Needs) -> list[str]:
        """In words, each thing that it wants more of than a room has: `4 cores of 2`, `64 GiB of 16 GiB`."""
        rest = room.resources
        wanted = [(n, w, h) for n, w, h in zip(self._fields, _amounts(self), _amounts(room)) if w > h]
        wanted += [(n, w, dict(rest).get(n, 0)) for n, w in self.resources if w > dict(rest).get(n, 0)]
        return [f"{_spelled(name, amount)} of {_spelled(name, has)}" for name, amount, has in wanted]

    def said(self) -> str:
        """In words: `4 cores, 16 GiB, 0.5 GPUs`."""
        amounts = [*zip(self._fields, _amounts(self)), *((n, a) for n, a in self.resources if n != NODE)]
        return ", ".join(_spelled(name, amount) for name, amount in amounts if amount)

    def times(self, tasks: int) -> Needs:
        """What so many of these need, side by side."""
        resources = tuple((name, amount * tasks) for name, amount in self.resources if tasks)
        return self._with([amount * tasks for amount in _amounts(self)], resources)

    def plus(self, other: Needs) -> Needs:
        """This and the amounts of the other."""
        return self._with(map(add, _amounts(self), _amounts(other)), _each(add, self, other))

    def minus(self, other: Needs) -> Needs:
        """What is left of a room when something that fits has been taken."""
        return self._with(map(sub, _amounts(self), _amounts(other)), _each(sub, self, other))

    def count_in(self, room: Needs) -> int:
        """How many of these a room holds at once."""
        if self.nodes > room.nodes:
            return 0
        pairs = [*zip(_amounts(self), _amounts(room)), *zip(*_beside(self, room))]
        most = min((has // wanted for wanted, has in pairs if wanted), default=inf)
        assert most != inf, "what needs nothing cannot be counted"
        return int(most)

    def to_json(self) -> dict[str, object]:
        """Only what differs from the defaults."""
        told = {name: value for name, value in self._asdict().items() if value != self._field_defaults[name]}
        if self.resources:
            told["resources"] = dict(self.resources)
        return told

    @classmethod
    def from_json(cls, told: dict[str, object]) -> Needs:
        """What `to_json` made."""
        known = {name: type(cls._field_defaults[name])(value) for name, value in told.items()}  # 60 and 60.0 are one
        resources = told.get("resources")
        if isinstance(resources, dict):
            known["resources"] = tuple(sorted(resources.items()))
        return cls(**known)

    def _with(self, amounts: Iterable[int], resources: Resources) -> Needs:
        return Needs._make((*amounts, resources, *self[_AMOUNTS + 1 :]))


_AMOUNTS = Needs._fields.index("resources")
"""Fields before it are plain amounts."""


def _spelled(name: str, amount: int) -> str:
    if name == "cpus":
        return f"{amount} core{'s' if amount != 1 else ''}"
    if name == "memory_bytes":
        power, unit = next((p, u) for p, u in ((30, "GiB"), (20, "MiB"), (0, "bytes")) if amount >> p or not p)
        return f"{amount / (1 << power):.4g} {unit}"
    plain = f"{amount / MILLIS:g}"
    return f"{plain} GPU{'s' if amount != MILLIS else ''}" if name == "gpu_millis" else f"{plain} {name}"


def _amounts(needs: Needs) -> tuple[int, ...]:
    return cast("tuple[int, ...]", needs[:_AMOUNTS])


def _beside(needs: Needs, room: Needs) -> tuple[list[int], list[int]]:
    """Of each resource that is needed: how much of it, and how much there is."""
    there = dict(room.resources)
    return [amount for _, amount in needs.resources], [there.get(name, 0) for name, _ in needs.resources]


def _each(sign: Callable[[int, int], int], one: Needs, other: Needs) -> Resources:
    """The resources of both, added or subtracted."""
    if not other.resources:
        return one.resources
    first, second = dict(one.resources), dict(other.resources)
    sums = ((name, sign(first.get(name, 0), second.get(name, 0))) for name in sorted(first.keys() | second.keys()))
    return tuple((name, amount) for name, amount in sums if amount)
