"""What a run asks of the queue and what it is told: the arguments and answers of the queue's verbs, as plain data."""

from __future__ import annotations

from dataclasses import dataclass, field

from mpifarm.core.model import Block, FailureClass, JobText, LeaseId, Span
from mpifarm.core.row import AttemptRow


@dataclass(frozen=True, slots=True)
class RunInfo:
    """What a run says of itself when it starts."""

    host: str
    pid: int
    boot: str
    allocation: str
    command: str
    version: str
    nodes: int
    ranks: int
    slots: int
    node_names: tuple[str, ...] = ()
    """By node number."""


@dataclass(frozen=True, slots=True)
class Grant:
    """The answer to `lease`: blocks, each with a lease row of its own, in the order they should run."""

    blocks: tuple[Block, ...] = ()
    jobs: tuple[JobText, ...] = ()
    ready_left: int = 0
    """Tasks still claimable by this run."""
    too_wide: int = 0
    """Tasks nobody holds that need more cores than a node of this run has."""
    silent: int = 0
    """Tasks leased by other runs that have missed several heartbeats: they may come back soon."""


@dataclass(frozen=True, slots=True)
class Batch:
    """What one `record` transaction writes."""

    outcomes: list[tuple[AttemptRow, int, bytes | None]] = field(default_factory=list)
    """(row, its number in the run file, tail of stderr) of attempts that ended in a final state."""
    returned: list[tuple[Span, FailureClass]] = field(default_factory=list)
    """Tasks that go back to `ready`. NONE: never started, allowed only when their lease is in `done`."""
    done: list[LeaseId] = field(default_factory=list)
    """Leases with nothing left: their rows are deleted."""

    def __bool__(self) -> bool:
        return bool(self.outcomes or self.returned or self.done)
