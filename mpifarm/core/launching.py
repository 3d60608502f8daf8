"""Which attempt a node starts next, and which it must end: the decisions of the launcher, without processes or clock.

The queue is a row of blocks, and the first block that fits gives the next task. A narrow task may pass a wide one that
does not fit yet, since free cores would idle otherwise; but after `PASSES_PER_SLOT` passes per slot of the node nobody
passes any more, so the node empties until the wide one fits. Only the first `LOOK_AHEAD` blocks are considered.

    take ----> Running ----> free                      ended by itself
                  |  time limit, or grace of a drain over: due() says SIGTERM
                  |  `term_to_kill_s` later: due() says SIGKILL

`next_due` is the time when `due` has something to say; until then nobody needs to ask. Pure: imports nothing but core.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from math import inf
from typing import NamedTuple

from mpifarm.core.model import Block, FailureClass, JobId, LeaseId, Span, State, TaskText
from mpifarm.core.packing import Node

LOOK_AHEAD = 64
PASSES_PER_SLOT = 2

_SIGKILL = 9


class Kept(NamedTuple):
    """What is not as usual with the output of an attempt. `flags`: as in its row; `*_left`: bytes that it wrote and the
    job does not keep."""

    flags: int
    stdout_left: int = 0
    stderr_left: int = 0


class EndedAttempt(NamedTuple):
    """How an attempt ended. Crosses the link as a plain tuple of these fields: six times cheaper to pickle.

    exit_code and signal are what the process left, 0 where it left none: after a signal exit_code is 0, and both are 0
    for an attempt that never became a process (LAUNCH). stdout and stderr are the bytes not sent before as Pieces.
    """

    lease: LeaseId
    job: JobId
    task: int
    attempt: int
    state: int
    failure: int
    exit_code: int
    signal: int
    slot: int
    cpus: int
    started: float
    ended: float
    user_s: float
    system_s: float
    max_rss_kib: int
    read_bytes: int
    write_bytes: int
    stdout: bytes
    stderr: bytes
    kept: tuple[int, int, int] | None = None
    """The fields of a Kept; None: all was kept, and nothing else was taken."""


class Running:
    """An attempt that holds a slot (or was refused one: `refusal` says why)."""

    __slots__ = ("block", "killed_for", "limit_at", "refusal", "signal_at", "slot", "task", "text")

    def __init__(self, block: Block, index: int, slot: int, limit_at: float = inf, refusal: str = "") -> None:
        self.block = block
        self.task = block.lo + index
        self.text: TaskText = block.tasks[index]
        self.slot = slot
        self.limit_at = limit_at
        self.signal_at = limit_at
        self.killed_for = FailureClass.NONE
        self.refusal = refusal


class _Queued:
    """A block of which the first `taken` tasks are started."""

    __slots__ = ("block", "taken")

    def __init__(self, block: Block) -> None:
        self.block = block
        self.taken = 0


class Launching:
    """Queue and running attempts of one node. Times are monotonic seconds."""

    def __init__(self, slots: int, term_to_kill_s: float) -> None:
        self.running: dict[int, Running] = {}
        """By slot."""
        self.next_due = inf
        self._node = Node(slots)
        self._queue: deque[_Queued] = deque()
        self._passes = 0
        self._passes_max = PASSES_PER_SLOT * slots
        self._term_to_kill_s = term_to_kill_s
        self._drain_at = inf

    @property
    def idle(self) -> bool:
        """Nothing runs and nothing waits."""
        return not (self.running or self._queue)

    @property
    def draining(self) -> bool:
        return self._drain_at < inf

    def add(self, blocks: Iterable[Block]) -> list[Running]:
        """Put blocks at the end of the queue. Returns the attempts that no slot of this node can ever hold."""
        refused: list[Running] = []
        for block in blocks:
            if self._node.holds(block.shape):
                self._queue.append(_Queued(block))
            else:
                refusal = f"the task wants {block.shape.cpus} cpus; this node has {self._node.slots}"
                refused += [Running(block, index, 0, refusal=refusal) for index in range(len(block.tasks))]
        return refused

    def take(self, now: float) -> Running | None:
        """The next attempt to start, its slot taken; None when nothing fits or nothing may start any more."""
        if not self._queue or not self._node.free_cpus:
            return None
        place = self._next_that_fits()
        if place is None:
            return None
        queued = self._queue[place]
        block, index = queued.block, queued.taken
        queued.taken += 1
        if queued.taken == len(block.tasks):
            del self._queue[place]
        slot = self._node.place(block.shape)
        limit_s = block.shape.time_limit_s
        attempt = Running(block, index, slot, now + limit_s if limit_s else inf)
        self.running[slot] = attempt
        if attempt.limit_at < self.next_due:
            self.next_due = attempt.limit_at
        return attempt

    def _next_that_fits(self) -> int | None:
        queue, node = self._queue, self._node
        if node.fits(queue[0].block.shape):
            self._passes = 0
            return 0
        if self._passes >= self._passes_max:
            return None
        for place in range(1, min(len(queue), LOOK_AHEAD)):
            if node.fits(queue[place].block.shape):
                self._passes += 1
                return place
        return None

    def free(self, slot: int) -> None:
        """The attempt in `slot` has ended."""
        del self.running[slot]
        self._node.free(slot)

    def outlived(self, slot: int) -> None:
        """The process in `slot` has ended in time; what is to be done for it now only a drain may cut short."""
        attempt = self.running[slot]
        attempt.limit_at = inf
        if attempt.killed_for is FailureClass.NONE:
            attempt.signal_at = self._drain_at

    def drain(self, grace_s: float, now: float) -> tuple[Span, ...]:
        """Start nothing more; what runs is ended after the grace, the shortest one asked for. Returns the unstarted."""
        self._drain_at = min(self._drain_at, now + grace_s)
        for attempt in self.running.values():
            if attempt.killed_for is FailureClass.NONE:
                attempt.signal_at = min(attempt.limit_at, self._drain_at)
        self.next_due = min(self.next_due, self._drain_at)
        spans = tuple(
            Span(q.block.lease, q.block.job, q.block.lo + q.taken, q.block.hi, q.block.attempt) for q in self._queue
        )
        self._queue.clear()
        return spans

    def due(self, now: float) -> list[tuple[Running, bool]]:
        """The attempts to end now: False is SIGTERM, True is SIGKILL. Sets `next_due` anew."""
        signals: list[tuple[Running, bool]] = []
        for attempt in self.running.values():
            if attempt.signal_at > now:
                continue
            if attempt.killed_for is FailureClass.NONE:
                over = attempt.limit_at <= self._drain_at
                attempt.killed_for = FailureClass.TIMEOUT if over else FailureClass.WALLTIME
                attempt.signal_at = now + self._term_to_kill_s
                signals.append((attempt, False))
            else:
                attempt.signal_at = inf
                signals.append((attempt, True))
        self.next_due = min((attempt.signal_at for attempt in self.running.values()), default=inf)
        return signals


Verdict = tuple[int, int, int, int]
"""State, FailureClass, exit code, signal: as plain numbers, which is how they are stored."""

_SUCCESS: Verdict = (int(State.SUCCEEDED), int(FailureClass.NONE), 0, 0)
NOT_LAUNCHED: Verdict = (int(State.FAILED), int(FailureClass.LAUNCH), 0, 0)
RETURNED: Verdict = (int(State.RETURNED), int(FailureClass.WALLTIME), 0, 0)


def verdict(wait_status: int, killed_for: FailureClass) -> Verdict:
    """What a wait status means. An attempt that we ended did not succeed, whatever its process says."""
    if wait_status == 0 and killed_for is FailureClass.NONE:
        return _SUCCESS
    signal, exit_code = wait_status & 0x7F, wait_status >> 8
    state = State.RETURNED if killed_for is FailureClass.WALLTIME else State.FAILED
    failure = killed_for or (FailureClass.SIGNAL if signal else FailureClass.EXIT)
    return int(state), int(failure), exit_code, signal


def may_be_memory(result: Verdict) -> bool:
    """Whether the kernel's memory killer may be what ended the attempt: itself, or a process its shell waited for."""
    _, failure, exit_code, signal = result
    killed = signal == _SIGKILL and failure == FailureClass.SIGNAL
    return killed or (exit_code == 128 + _SIGKILL and failure == FailureClass.EXIT)
