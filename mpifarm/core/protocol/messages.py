"""Every message of a run, and nowhere else. A message's class says which role it is for (`TO`).

    dispatcher --Deal, Stop, Cancel--> leader --Output--> recorder --Durable--> dispatcher
    leader --Want, Unstarted--> dispatcher          recorder --Written--> leader

So the outcome of an attempt reaches the dispatcher only through the recorder, after its bytes are on disk: "flush
before record" is the shape of the graph and not a rule somebody has to remember. Control (task numbers) and data
(output bytes) never share a message except in `Output`, whose rows promise exactly the bytes beside them.
How they become bytes: see `mpifarm.core.protocol.wire`. `VERSION` is compared once at start-up.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from math import inf
from typing import ClassVar

from mpifarm.core.job.policy import JobText
from mpifarm.core.model import Block, LeaseId, Span
from mpifarm.core.needs import Needs

VERSION = 4


class Role(Enum):
    DISPATCHER = "dispatcher"
    LEADER = "leader"
    RECORDER = "recorder"
    LOOP = "loop"  # the rank itself, whatever roles it carries


@dataclass(frozen=True, slots=True)
class Want:
    """Leader: deal me work for `cpus` more cores. Also its heartbeat: then `cpus` may be 0.

    `received`: the cores' worth of work dealt to it so far; what is still under way is thus not dealt twice.
    """

    TO: ClassVar[Role] = Role.DISPATCHER
    rank: int
    cpus: int
    received: int


@dataclass(frozen=True, slots=True)
class Unstarted:
    """Leader: these were dealt to me and never started, after Stop or Cancel, or since they could not end in time."""

    TO: ClassVar[Role] = Role.DISPATCHER
    rank: int
    spans: tuple[Span, ...]


@dataclass(frozen=True, slots=True)
class Note:
    """Leader: something on my node that a person should know."""

    TO: ClassVar[Role] = Role.DISPATCHER
    rank: int
    text: str


@dataclass(frozen=True, slots=True)
class LauncherLost:
    """Leader: my launcher is gone; nothing runs on this node any more."""

    TO: ClassVar[Role] = Role.DISPATCHER
    rank: int
    reason: str
    begun: tuple[tuple[int, int], ...]
    """(lease, task) of what ran: one of these may be what took it down."""


@dataclass(frozen=True, slots=True)
class Durable:
    """Recorder: these attempts' output is flushed and fsynced. `rows` is packed; the first is row `first_row`."""

    TO: ClassVar[Role] = Role.DISPATCHER
    rank: int
    """The leader they came from."""
    rows: bytes
    first_row: int
    tails: dict[tuple[LeaseId, int], bytes]
    """Last bytes of stderr of failed attempts, by (lease, task)."""


@dataclass(frozen=True, slots=True)
class RecorderAlive:
    """Recorder: its heartbeat."""

    TO: ClassVar[Role] = Role.DISPATCHER


@dataclass(frozen=True, slots=True)
class FileOpened:
    TO: ClassVar[Role] = Role.DISPATCHER
    path: str


@dataclass(frozen=True, slots=True)
class FileClosed:
    TO: ClassVar[Role] = Role.DISPATCHER


@dataclass(frozen=True, slots=True)
class FileTrouble:
    """Recorder: the run file cannot be written now; `fatal` when there is no file at all."""

    TO: ClassVar[Role] = Role.DISPATCHER
    reason: str
    fatal: bool


@dataclass(frozen=True, slots=True)
class Deal:
    """Dispatcher: run these. `jobs` are those this leader has not seen yet."""

    TO: ClassVar[Role] = Role.LEADER
    jobs: tuple[JobText, ...]
    blocks: tuple[Block, ...]


@dataclass(frozen=True, slots=True)
class Stop:
    """Dispatcher: start nothing more; running attempts have `grace_s` seconds left (inf: as long as they take)."""

    TO: ClassVar[Role] = Role.LEADER
    grace_s: float


@dataclass(frozen=True, slots=True)
class Cancel:
    """Dispatcher, and leader to launcher: do not start these tasks (they come back as unstarted), end those that run.

    ranges: (lease, lo, hi), hi excluded.
    """

    TO: ClassVar[Role] = Role.LEADER
    ranges: tuple[tuple[LeaseId, int, int], ...]


@dataclass(frozen=True, slots=True)
class Written:
    """Recorder: the oldest Output of yours that was not, is in the file, which has `extents` rows of extents now.

    What it consisted of can be forgotten; that it survives a crash says Durable.
    """

    TO: ClassVar[Role] = Role.LEADER
    extents: int


@dataclass(frozen=True, slots=True)
class Output:
    """Leader: whole chunks of output, where each piece lies in them, and the attempts that ended.

    extents: packed EXTENT rows; `position` counts from the start of this message's first chunk.
    rows: packed ROW rows; extent_lo >= 0 counts from this message's first extent, extent_lo < 0 is an absolute row
    number stored as -(n + 1) (the attempt began in an earlier message); extent_hi counts from this message's first.
    chunks: (compressed?, bytes) of chunks that hold `chunk_bytes` each when inflated.
    cells: to a recorder that sees the leader's arena, instead of chunks: (compressed?, cell, length) of each.
    """

    TO: ClassVar[Role] = Role.RECORDER
    rank: int
    rows: bytes
    extents: bytes
    chunks: tuple[tuple[bool, bytes | memoryview], ...]
    tails: dict[tuple[LeaseId, int], bytes]
    cells: tuple[tuple[bool, int, int], ...] = ()

    @property
    def size(self) -> int:
        """Bytes that the file will grow by, or little more."""
        index = len(self.rows) + len(self.extents)
        return index + sum(len(data) for _, data in self.chunks) + sum(length for *_, length in self.cells)


@dataclass(frozen=True, slots=True)
class OpenFile:
    TO: ClassVar[Role] = Role.RECORDER
    path: str
    attributes: dict[str, str]
    nodes: tuple[tuple[str, int, int], ...]
    """(name, ranks, slots) by node number."""
    compress: str = "gzip"
    made: bool = False
    """The file is there already, empty: it was made with its stripes."""


@dataclass(frozen=True, slots=True)
class Event:
    """Rank 0 said this to the person watching: into the run's log. `at`: Unix seconds."""

    TO: ClassVar[Role] = Role.RECORDER
    at: float
    text: str


@dataclass(frozen=True, slots=True)
class CloseFile:
    TO: ClassVar[Role] = Role.RECORDER


@dataclass(frozen=True, slots=True)
class StopAsked:
    """A rank, or the launcher of its node, caught a signal."""

    TO: ClassVar[Role] = Role.DISPATCHER
    signal: int
    rank: int
    launcher: bool = False


@dataclass(frozen=True, slots=True)
class Exit:
    """Rank 0: the run is over; leave the loop."""

    TO: ClassVar[Role] = Role.LOOP


Message = (
    Want | Unstarted | Note | LauncherLost | Durable | RecorderAlive | FileOpened | FileClosed | FileTrouble
    | Deal | Stop | Cancel | Written | Output | OpenFile | Event | CloseFile | StopAsked | Exit
)  # fmt: skip


# Between a leader's rank and its launcher process (a socket pair on one host).


@dataclass(frozen=True, slots=True)
class Setup:
    """To the launcher, first of all: where it is and what it may use."""

    node: str
    number: int
    cpus: tuple[int, ...]
    slots: int
    must_end_by: float = inf
    """Unix seconds; what its time limit lets run longer is not started."""
    room: Needs | None = None
    """What the node has; None: its slots."""
    gpus: tuple[str, ...] = ()
    gpu_variable: str = ""
    pin: bool = False
    """See `NodeShape`."""
    version: int = VERSION


@dataclass(frozen=True, slots=True)
class RunProgram:
    """To the launcher, before Setup: run this to its end, for a rank must not fork."""

    argv: tuple[str, ...]
    timeout_s: float


@dataclass(frozen=True, slots=True)
class ProgramEnded:
    """From the launcher. `wrong`: for humans; empty when it ended well."""

    wrong: str


@dataclass(frozen=True, slots=True)
class Start:
    """To the launcher: start these, in order, as soon as they fit."""

    jobs: tuple[JobText, ...]
    blocks: tuple[Block, ...]


@dataclass(frozen=True, slots=True)
class Drain:
    """To the launcher: start nothing more, answer with NotStarted, end what runs after `grace_s` seconds (inf: not)."""

    grace_s: float


@dataclass(frozen=True, slots=True)
class Pieces:
    """From the launcher: where output of attempts lies in the arena, in order; before the attempt's end is told.

    extents: packed EXTENT rows, each within one cell; `position` counts from the start of the arena.
    """

    extents: bytes


@dataclass(frozen=True, slots=True)
class Closed:
    """From the launcher: nothing will be added to the cells told of so far; what is in them can go to the file."""


@dataclass(frozen=True, slots=True)
class Free:
    """To the launcher: these cells are in the file."""

    cells: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Ended:
    """From the launcher: attempts that ended; all their output was told before, as Pieces.

    rows: packed ROW rows, without their extents. exit_code and signal are what the process left: after a signal
    exit_code is 0, and both are 0 for an attempt that never became a process (LAUNCH).
    """

    rows: bytes
    tails: dict[tuple[LeaseId, int], bytes]
    """Last bytes of stderr of failed attempts, by (lease, task)."""


@dataclass(frozen=True, slots=True)
class NotStarted:
    """From the launcher: once after Drain; after Cancel, and when the time left is too short, if there are any."""

    spans: tuple[Span, ...]
    cpus: int
    """The cores they were to have, added up."""


@dataclass(frozen=True, slots=True)
class Stopped:
    """From the launcher: somebody has sent it a signal that means a stop, and so perhaps its tasks."""

    signal: int


@dataclass(frozen=True, slots=True)
class LauncherLog:
    """From the launcher: something a person should know (a core could not be used, an orphan was killed)."""

    text: str


LinkMessage = (
    RunProgram | ProgramEnded | Setup | Start | Drain | Cancel | Free
    | Pieces | Closed | Ended | NotStarted | Stopped | LauncherLog
)  # fmt: skip
