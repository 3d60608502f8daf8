"""The nouns of the farm: frozen data that every other module speaks in. Units stand last in the names."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import IntEnum
from typing import NamedTuple, NewType

from mpifarm.core.needs import MILLIS, NODE, NODE_SHARES, Needs, Resources

JobId = NewType("JobId", int)
LeaseId = NewType("LeaseId", int)
RunId = NewType("RunId", int)


class State(IntEnum):
    """How an attempt ended. The first three are final for its task; the numbers are stored in run files."""

    SUCCEEDED = 0
    FAILED = 1
    CANCELLED = 2
    RETURNED = 3
    """Not final: the run gave the task back (drain, walltime, lost node); a later attempt supersedes it."""

    @property
    def final(self) -> bool:
        return self is not State.RETURNED


class FailureClass(IntEnum):
    """Why an attempt did not succeed. NONE for succeeded ones. The numbers are stored in run files."""

    NONE = 0
    EXIT = 1
    SIGNAL = 2
    TIMEOUT = 3
    OOM = 4
    LAUNCH = 5
    WALLTIME = 6
    LOST = 7
    CANCELLED = 8
    EXCEPTION = 9
    """A function raised."""


class Kind(IntEnum):
    """How a task runs, and thus what its body means. The numbers are stored in the queue."""

    COMMAND = 0
    """The body is a line for a shell."""
    FUNCTION = 1
    """The body is a call of a Python function, see `mpifarm.calls.call`."""

    @classmethod
    def _missing_(cls, value: object) -> Kind | None:
        """A kind of a newer mpifarm, which may have written to the same queue: it is passed on, and refused where it
        would run."""
        if not isinstance(value, int):
            return None
        kind = int.__new__(cls, value)
        kind._name_, kind._value_ = f"number {value}", value
        return kind

    @property
    def known(self) -> bool:
        return self.name in Kind.__members__

    @property
    def word(self) -> str:
        """As people say it."""
        return self.name.lower()


class AttemptKey(NamedTuple):
    """Names one attempt for ever: a lease is never given twice, an attempt number never repeats within it."""

    lease: LeaseId
    task: int
    attempt: int


class Parent(NamedTuple):
    """Tasks `[lo, hi)` that others wait for."""

    lo: int
    hi: int
    any: bool = False
    """They must have ended; else they must have succeeded."""
    job: JobId | None = None
    """None: the job that is being submitted, its tasks counted from 1."""


class Part(NamedTuple):
    """Tasks in a row that need the same and wait for the same, on their way into the queue."""

    needs: Needs
    tasks: list[TaskText] | list[bytes]
    """Bare bodies where none has an entry: of ten million plain lines nothing else is made."""
    parents: tuple[Parent, ...] = ()
    kind: Kind = Kind.COMMAND


class TaskText(NamedTuple):
    """What one task runs, as its kind understands it, and the entry it was made from (None: it stands for itself)."""

    body: bytes
    entry: bytes | None = None


class Block(NamedTuple):
    """Tasks `[lo, lo + len(tasks))` of one job, kind and lease that need the same; the first task is number 1."""

    lease: LeaseId
    job: JobId
    attempt: int
    needs: Needs
    lo: int
    tasks: Sequence[TaskText]
    fails: int = 0
    """Failed attempts of each of them that count against its retries."""
    crashes: int = 0
    """Nodes each of them was lost with."""
    kind: Kind = Kind.COMMAND

    @property
    def hi(self) -> int:
        """One past the last task number."""
        return self.lo + len(self.tasks)

    def part(self, first: int, count: int) -> Block:
        """`count` tasks after the first `first`."""
        tasks = self.tasks[first : first + count]
        return Block(
            self.lease, self.job, self.attempt, self.needs, self.lo + first, tasks, self.fails, self.crashes, self.kind
        )

    def head(self, count: int) -> Block:
        return self.part(0, count)

    def tail(self, count: int) -> Block:
        """What `head(count)` leaves."""
        return self.part(count, len(self.tasks))


class Span(NamedTuple):
    """Tasks `[lo, hi)` of a lease that go back to the queue, to be numbered `attempt` when they run again."""

    lease: LeaseId
    job: JobId
    lo: int
    hi: int
    attempt: int
    fails: int = 0
    crashes: int = 0
    """As in Block, when they run again."""


@dataclass(frozen=True, slots=True)
class NodeShape:
    """What one node offers, added up over the ranks on it."""

    name: str
    cpus: tuple[int, ...]
    """Ids of the cores in the ranks' affinity masks."""

    slots: int
    """How many single-core attempts may run at once; the number of cores unless the user said otherwise."""
    memory_bytes: int = 0
    gpus: tuple[str, ...] = ()
    """As `gpu_variable` names them."""
    gpu_variable: str = ""
    """By which tasks are told theirs; empty: not known."""
    resources: Resources = ()
    pin: bool = False
    """Each attempt is held to cores of its own; slot number n begins at the n-th of `cpus`."""

    @property
    def room(self) -> Needs:
        """What it has, in the words of what tasks need."""
        resources = tuple(sorted({**dict(self.resources), NODE: NODE_SHARES}.items()))
        return Needs(self.slots, self.memory_bytes, len(self.gpus) * MILLIS, resources)


@dataclass(frozen=True, slots=True)
class Limits:
    """Every limit of a run, with its unit. Relations are checked, so that a changed one cannot break another."""

    heartbeat_every_s: float = 2.0
    """So long a run may take to hear of a cancel or a drain."""
    silent_s: float = 15.0
    """A run that has not renewed for so long may be dying."""
    lease_s: float = 60.0
    """A run whose heartbeat is older is dead: its leases may be taken back by anyone."""
    leader_lost_s: float = 60.0
    """A leader silent for longer is lost: its tasks are dealt again."""
    leader_beat_s: float = 5.0
    backlog_s: float = 1.0
    """Work a leader keeps ahead of its slots, in seconds of its own pace."""
    elsewhere_s: float = 30.0
    """So long a task that failed waits for a node where it did not; ten times as long on one that is a suspect."""
    suspect_fails: int = 3
    """A node is no suspect before so many failures in a row."""
    probe_every_s: float = 0.5
    """The first pause of a suspect between two tasks; each is twice as long as the one before,"""
    probe_every_max_s: float = 60.0
    """up to this."""
    probes_max: int = 5
    """A suspect that has failed so many of those is left out of the run."""
    stock_s: float = 2.0
    """Work the dispatcher keeps leased ahead, in seconds of the run's pace."""
    block_tasks_max: int = 20_000
    block_bytes_max: int = 16 << 20
    record_every_s: float = 0.25
    record_tasks_max: int = 5_000
    output_every_s: float = 0.1
    """A leader sends what it gathered at least this often."""
    slot_files: int = 7
    """Files that a launcher has open for each slot: two pipes, two spools (see `launch.kept_output`), a socket."""
    launcher_files: int = 64
    """And besides."""
    chunk_bytes: int = 256 << 10
    message_bytes_max: int = 4 << 20
    """A launcher closes the cells it has filled when they are so many bytes."""
    in_flight_bytes_max: int = 32 << 20
    """Output of a node between its tasks' pipes and the run file; with more its launcher stops reading."""
    arena_bytes: int = 48 << 20
    """The same, with what one more ended task can add."""
    unwritten_rows_bytes_max: int = 4 << 20
    """A leader with more rows on their way to the recorder stops listening to its launcher."""
    recorder_bytes_max: int = 64 << 20
    """A recorder that holds more for the disk receives no further outputs."""
    unsynced_bytes_max: int = 128 << 20
    """A recorder with more in the file that is not synced (and so in memory, too) appends nothing until it is."""
    file_silent_s: float = 10.0
    """A file system that has not answered for so long is worth a word."""
    file_close_s: float = 30.0
    """Longer than that the end of a run does not wait for its file to be closed."""
    file_call_s: float = 900.0
    """A call of the file system or of HDF5 that takes longer never comes back: its rank is ended."""
    stderr_tail_bytes: int = 2048
    """What Postgres keeps of a failed attempt's stderr."""
    term_to_kill_s: float = 2.0
    """Between SIGTERM and SIGKILL."""
    term_grace_s: float = 20.0
    """The longest grace after a SIGTERM: batch systems follow it with SIGKILL, Slurm's KillWait is 30 s."""
    settle_s: float = 0.05
    """So long after its end an attempt is judged: a stop that ended it may reach its launcher later than itself."""
    stop_wait_s: float = 1.0
    """The same for one that ended by a signal that means a stop, which may have been meant for all."""
    drain_answer_s: float = 10.0
    """After the grace and the kill, a leader that still holds tasks is taken for lost."""
    idle_poll_s: float = 0.5
    """Between two looks into an empty queue at first; a run that waits long looks less often."""
    idle_poll_max_s: float = 5.0
    queue_timeout_s: float = 300.0
    """With nothing left to do and the queue unreachable for so long, a run gives up."""
    answer_s: float = 20.0
    """A database that says nothing for longer is taken for unreachable; every verb of a run takes far less."""
    last_record_s: float = 10.0
    """What the end of an allocation leaves for the last outputs and records, after the grace and the kill."""

    def __post_init__(self) -> None:
        assert self.lease_s > self.silent_s > 3 * self.heartbeat_every_s
        assert self.lease_s > 2 * self.answer_s  # a stalled connection is replaced before the run is taken for dead
        assert self.settle_s < self.stop_wait_s
        assert self.leader_lost_s > 3 * self.leader_beat_s
        assert self.chunk_bytes < self.message_bytes_max < self.in_flight_bytes_max < self.arena_bytes
        assert self.arena_bytes % self.chunk_bytes == 0
