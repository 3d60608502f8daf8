"""Which attempt a node starts next, and which it must end: the decisions of the launcher, without processes or clock.

The queue is a row of blocks, and the first block that fits gives the next task. A narrow task may pass a wide one that
does not fit yet, since free cores would idle otherwise; but after `PASSES_PER_SLOT` passes per slot of the node nobody
passes any more, so the node empties until the wide one fits. Only the first `LOOK_AHEAD` blocks are considered.

    take ----> Running ----> free                      ended by itself
                  |  time limit, cancel, or grace of a drain over: due() says SIGTERM
                  |  `term_to_kill_s` later: due() says SIGKILL

What leaves the queue unbegun is a drain's, a cancel's, or could not end in time: see `Unbegun`.
`next_due` is the time when `due` has something to say; until then nobody needs to ask. Pure: imports nothing but core.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Sequence
from math import inf
from typing import NamedTuple

from mpifarm.core.launcher.packing import Domain, Node, real_needs
from mpifarm.core.model import AttemptKey, Block, FailureClass, LeaseId, Span, TaskText
from mpifarm.core.needs import Needs
from mpifarm.core.ranges import pieces

LOOK_AHEAD = 64
PASSES_PER_SLOT = 2
SUSPECT_CRASHES = 2
"""A task lost with so many nodes runs with nothing beside it: if it is what takes them down, only it is lost."""


class Running:
    """An attempt that holds a slot (or was refused one: `refusal` says why)."""

    __slots__ = ("block", "cores", "ended_at", "gpus", "killed_for", "limit_at", "refusal", "signal_at", "slot", "task",
                 "terminated", "text")  # fmt: skip

    def __init__(self, block: Block, index: int, slot: int, limit_at: float = inf, refusal: str = "") -> None:
        self.block = block
        self.task = block.lo + index
        self.text: TaskText = block.tasks[index]
        self.slot = slot
        self.cores = 0
        """A bit mask of indices."""
        self.gpus: tuple[int, ...] = ()
        self.limit_at = limit_at
        self.signal_at = limit_at
        self.killed_for = FailureClass.NONE
        self.ended_at = inf
        """When its process ended, and it still holds its slot."""
        self.terminated = False
        """SIGTERM is due or sent."""
        self.refusal = refusal

    @property
    def key(self) -> AttemptKey:
        return AttemptKey(self.block.lease, self.task, self.block.attempt)

    def cut_short(self) -> None:
        """Whatever its process says, it was ended from outside."""
        if self.killed_for is FailureClass.NONE:
            self.killed_for = FailureClass.WALLTIME


class Unbegun(NamedTuple):
    """Tasks that left the queue and were never started, and the cores they were to have."""

    spans: tuple[Span, ...] = ()
    cpus: int = 0


class _Queued:
    """A block of which the first `taken` tasks are started."""

    __slots__ = ("block", "taken")

    def __init__(self, block: Block) -> None:
        self.block = block
        self.taken = 0

    @property
    def rest(self) -> Block:
        """What is not started."""
        return self.block.tail(self.taken) if self.taken else self.block


def _unbegun(blocks: Sequence[Block]) -> Unbegun:
    spans = (Span(b.lease, b.job, b.lo, b.hi, b.attempt, b.fails, b.crashes) for b in blocks)
    return Unbegun(tuple(spans), sum(block.needs.cpus * len(block.tasks) for block in blocks))


class Launching:
    """Queue and running attempts of one node. Times are monotonic seconds."""

    def __init__(
        self,
        slots: int,
        term_to_kill_s: float,
        must_end_by: float = inf,
        room: Needs | None = None,
        domains: Sequence[Domain] = (),
    ) -> None:
        """must_end_by: what cannot end before, by its time limit, is not started. room: what there is, if it is more
        than slots."""
        self.running: dict[int, Running] = {}
        """By slot."""
        self.next_due = inf
        self._node = Node(room or Needs(cpus=slots), domains)
        self._queue: deque[_Queued] = deque()
        self._passes = 0
        self._passes_max = PASSES_PER_SLOT * slots
        self._term_to_kill_s = term_to_kill_s
        self._must_end_by = must_end_by
        self._late: list[Block] = []
        self._drain_at = inf
        self.draining = self.stopped = False
        """Nothing starts any more: as the rank said; since a stop from outside has reached this node."""

    @property
    def idle(self) -> bool:
        """Nothing runs and nothing waits."""
        return not (self.running or self._queue)

    def add(self, blocks: Iterable[Block]) -> list[Running]:
        """Put blocks at the end of the queue. Returns the attempts that no slot of this node can ever hold."""
        refused: list[Running] = []
        for block in blocks:
            if self._node.holds(block.needs):
                self._queue.append(_Queued(block))
            else:
                lacking = ", ".join(block.needs.lacking(self._node.room))
                refusal = f"the task needs more than this node has: {lacking}"
                refused += [Running(block, index, 0, refusal=refusal) for index in range(len(block.tasks))]
        return refused

    def take(self, now: float) -> Running | None:
        """The next attempt to start, its slot taken; None when nothing fits or nothing may start any more."""
        while True:
            if not self._queue or not self._node.free_cpus or self.stopped:
                return None
            place = self._next_that_fits()
            if place is None:
                return None
            queued = self._queue[place]
            if now + queued.block.needs.begins_with_s <= self._must_end_by:
                break
            self._late.append(queued.rest)
            del self._queue[place]
        block, index = queued.block, queued.taken
        queued.taken += 1
        if queued.taken == len(block.tasks):
            del self._queue[place]
        slot = self._node.place(self._room_for(block))
        limit_s = block.needs.time_limit_s
        attempt = Running(block, index, slot, now + limit_s if limit_s else inf)
        attempt.cores, attempt.gpus = self._node.held(slot)
        self.running[slot] = attempt
        if attempt.limit_at < self.next_due:
            self.next_due = attempt.limit_at
        return attempt

    def _next_that_fits(self) -> int | None:
        queue, node = self._queue, self._node
        if node.fits(self._room_for(queue[0].block)):
            self._passes = 0
            return 0
        if self._passes >= self._passes_max:
            return None
        for place in range(1, min(len(queue), LOOK_AHEAD)):
            if node.fits(self._room_for(queue[place].block)):
                self._passes += 1
                return place
        return None

    def _room_for(self, block: Block) -> Needs:
        """What must be free for one of its tasks to begin: for a suspect all there is."""
        if block.crashes >= SUSPECT_CRASHES:
            return self._node.room
        return real_needs(block.needs, self._node.room) if block.needs.resources else block.needs

    def free(self, slot: int) -> None:
        """The attempt in `slot` has ended."""
        del self.running[slot]
        self._node.free(slot)

    def outlived(self, slot: int, now: float) -> None:
        """The process in `slot` has ended in time; what is to be done for it now only a drain may cut short."""
        attempt = self.running[slot]
        attempt.ended_at = min(attempt.ended_at, now)
        attempt.limit_at = inf
        if attempt.killed_for is FailureClass.NONE:
            attempt.signal_at = self._drain_at

    def late(self) -> Unbegun:
        """What `take` would have started, had it the time to end. Said once."""
        late, self._late = self._late, []
        return _unbegun(late)

    def drain(self, grace_s: float, now: float) -> Unbegun:
        """Start nothing more; what runs is ended after the grace, the shortest one asked for (inf: as long as it
        takes). Returns what waits."""
        self.draining = True
        self._drain_at = min(self._drain_at, now + grace_s)
        for attempt in self.running.values():
            if not attempt.terminated:
                attempt.signal_at = min(attempt.signal_at, self._drain_at)
        self.next_due = min(self.next_due, self._drain_at)
        waiting = [queued.rest for queued in self._queue]
        self._queue.clear()
        return _unbegun(waiting)

    def stop(self, now: float, settle_s: float) -> None:
        """A stop from outside has reached this node's processes, and so perhaps its tasks: nothing starts any more, and
        what runs, or ended less than `settle_s` ago, has not ended by itself. The rank says how long it may run."""
        self.stopped = True
        for attempt in self.running.values():
            if attempt.ended_at > now - settle_s:
                attempt.cut_short()

    def cancel(self, ranges: Iterable[tuple[LeaseId, int, int]], now: float) -> Unbegun:
        """Do not start tasks `[lo, hi)` of these leases, end those that run. Returns what waited. Twice is as once."""
        of_lease: dict[LeaseId, list[tuple[int, int]]] = {}
        for lease, lo, hi in ranges:
            of_lease.setdefault(lease, []).append((lo, hi))
        for attempt in self.running.values():
            if attempt.killed_for in (FailureClass.NONE, FailureClass.WALLTIME) and any(
                lo <= attempt.task < hi for lo, hi in of_lease.get(attempt.block.lease, ())
            ):
                if not attempt.terminated:
                    attempt.signal_at = now
                    self.next_due = min(self.next_due, now)
                attempt.killed_for = FailureClass.CANCELLED
        waiting, self._queue = self._queue, deque()
        taken_out: list[Block] = []
        for queued in waiting:
            if queued.block.lease not in of_lease:
                self._queue.append(queued)
                continue
            rest = queued.rest
            for lo, hi, cancelled in pieces(rest.lo, rest.hi, sorted(of_lease[queued.block.lease])):
                block = rest.part(lo - rest.lo, hi - lo)
                if cancelled:
                    taken_out.append(block)
                else:
                    self._queue.append(_Queued(block))
        return _unbegun(taken_out)

    def due(self, now: float) -> list[tuple[Running, bool]]:
        """The attempts to end now: False is SIGTERM, True is SIGKILL. Sets `next_due` anew."""
        signals: list[tuple[Running, bool]] = []
        for attempt in self.running.values():
            if attempt.signal_at > now:
                continue
            if attempt.terminated:
                attempt.signal_at = inf
            else:
                attempt.signal_at = now + self._term_to_kill_s
                if attempt.killed_for is FailureClass.NONE:
                    over = attempt.limit_at <= self._drain_at
                    attempt.killed_for = FailureClass.TIMEOUT if over else FailureClass.WALLTIME
            signals.append((attempt, attempt.terminated))
            attempt.terminated = True
        self.next_due = min((attempt.signal_at for attempt in self.running.values()), default=inf)
        return signals
