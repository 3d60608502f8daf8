"""Actions: what the pure machines want done. The loop of a rank performs them, one `match` for all roles.

And the events that are not messages: what the doors (queue, run file, launcher) answer.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import NamedTuple

from mpifarm.core.model import LeaseId, RunId
from mpifarm.core.needs import Needs
from mpifarm.core.protocol.messages import Event, LinkMessage, Message, OpenFile, Output
from mpifarm.core.protocol.verbs import Batch, Grant, Order

# --- actions ---------------------------------------------------------------------------------------------


class Send(NamedTuple):
    """To the role that `message` is for, on rank `to`."""

    to: int
    message: Message


@dataclass(frozen=True, slots=True)
class ToLauncher:
    message: LinkMessage


@dataclass(frozen=True, slots=True)
class HoldLauncher:
    """Stop (or go on) reading what the launcher says: its socket fills, and it starts nothing more."""

    hold: bool


@dataclass(frozen=True, slots=True)
class AskLease:
    tasks_max: int
    room: Needs
    """What the widest node has, and how many nodes there are."""


@dataclass(frozen=True, slots=True)
class AskRecord:
    batch: Batch


@dataclass(frozen=True, slots=True)
class AskName:
    """Tell the queue where the run file is."""

    path: str


@dataclass(frozen=True, slots=True)
class AskExpire:
    """Take back what dead runs held."""


@dataclass(frozen=True, slots=True)
class AskClose:
    """Close the run in the queue; whatever it still holds goes back."""


@dataclass(frozen=True, slots=True)
class OpenRunFile:
    order: OpenFile


@dataclass(frozen=True, slots=True)
class Pack:
    """Make chunks of (cell, bytes filled) of the node's arena, and give back `output` with them."""

    output: Output
    cells: tuple[tuple[int, int], ...]


@dataclass(frozen=True, slots=True)
class Append:
    output: Output


@dataclass(frozen=True, slots=True)
class AppendEvent:
    event: Event


@dataclass(frozen=True, slots=True)
class CloseRunFile:
    pass


@dataclass(frozen=True, slots=True)
class Say:
    """A line for the person watching and for the run's log."""

    text: str


@dataclass(frozen=True, slots=True)
class Finished:
    """The run is over. `error`: why it could not do its duty, for humans; `code` is then the exit code."""

    error: str = ""
    code: int = 0


Action = (
    Send | ToLauncher | HoldLauncher | AskLease | AskRecord | AskName | AskExpire | AskClose
    | OpenRunFile | Pack | Append | AppendEvent | CloseRunFile | Say | Finished
)  # fmt: skip

# --- events ----------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Tick:
    """Time has passed; nothing else."""


@dataclass(frozen=True, slots=True)
class RunOpened:
    run: RunId
    file: OpenFile


@dataclass(frozen=True, slots=True)
class Granted:
    grant: Grant


@dataclass(frozen=True, slots=True)
class Recorded:
    batch: Batch
    refused: frozenset[LeaseId]


@dataclass(frozen=True, slots=True)
class Expired:
    tasks: int


@dataclass(frozen=True, slots=True)
class Ordered:
    """The queue's door, with a heartbeat: what people want of this run."""

    orders: tuple[Order, ...]


@dataclass(frozen=True, slots=True)
class RunClosed:
    pass


@dataclass(frozen=True, slots=True)
class QueueTrouble:
    """The queue does not answer since `since_s` seconds; the door goes on trying."""

    reason: str
    since_s: float
    fatal: bool = False


@dataclass(frozen=True, slots=True)
class Packed:
    """What Pack asked for, in the order in which it was asked."""

    output: Output


@dataclass(frozen=True, slots=True)
class Appended:
    """The run file door: the next Output of the leader on `rank` is in the file, not yet durable."""

    rank: int
    extents: int
    """Rows of extents in the file."""


@dataclass(frozen=True, slots=True)
class Stored:
    """The run file door: an Output is flushed and fsynced. `rows` has absolute extent numbers."""

    rank: int
    rows: bytes
    first_row: int
    tails: dict[tuple[LeaseId, int], bytes] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class LauncherGone:
    reason: str
    begun: tuple[tuple[int, int], ...] = ()
    """(lease, task) of what it had begun and had not seen end."""
    count: int = 0
    recent: tuple[tuple[int, int], ...] = ()
    """How many it has ever begun, and the last of them, ended or not."""
