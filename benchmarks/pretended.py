"""A pretended machine of any size: the project's dispatcher, leaders and recorder with scripted launchers, queue, disk.

Time is a heap of events, so a node that does nothing costs nothing. Every message is really encoded and decoded. What
is measured is the processor time of rank 0 and of the recorder, machine and codec together: their messages are taken in
turns of a loop, as many as have come meanwhile. Not in it: MPI, the rest of the loop, the doors' threads.
"""

from __future__ import annotations

import heapq
import time
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any

from mpifarm.core.chunks import Cells
from mpifarm.core.dispatcher.dispatcher import Dispatcher
from mpifarm.core.dispatcher.ending import RunTerms
from mpifarm.core.job.policy import JobText
from mpifarm.core.leader.leader import Leader
from mpifarm.core.model import Block, JobId, LeaseId, Limits, NodeShape, RunId, TaskText
from mpifarm.core.needs import Needs
from mpifarm.core.protocol import actions as act
from mpifarm.core.protocol.messages import (
    Closed,
    Ended,
    FileClosed,
    FileOpened,
    Free,
    OpenFile,
    Output,
    Pieces,
    Role,
    Start,
)
from mpifarm.core.protocol.verbs import Grant
from mpifarm.core.protocol.wire import decode, encode
from mpifarm.core.recorder.recorder import Recorder
from mpifarm.core.row import EXTENT, ROW, STDOUT, AttemptRow

LIMITS = Limits()
TURN_S = 1e-3
"""Of the loops of rank 0 and the recorder."""
TICK_S = 0.05
LATENCY_S = 1e-4
QUEUE_S, QUEUED_PER_S = 2e-3, 500_000.0
"""A verb of the queue takes so long, and so many tasks per second."""
SYNC_S = 0.01
ENDED_WAIT_S = 0.02
"""A launcher tells of what ended so often."""
SAYS_BYTES = 200
"""What a task writes."""
PACKED = bytes(range(256)) * 2
"""What a chunk of some of that deflates to."""
JOB = JobText(JobId(1), "pretended", b"/work")


class Node:
    """A leader, and its launcher with processes that only take time."""

    def __init__(self, room: Room, rank: int, slots: int) -> None:
        self.room = room
        self.leader = Leader(rank, NodeShape(f"node{rank}", (), slots), rank, room.recorder_rank, LIMITS)
        self.free = slots
        self.queue: deque[tuple[Block, int]] = deque()
        self.cells = Cells(192, LIMITS.chunk_bytes, 32)
        self.ended: list[bytes] = []
        self.pieces: list[bytes] = []
        self.close_at = self.flush_at = float("inf")
        self.silent = self.ticking = False

    def hear(self, event: Any) -> None:
        if self.silent:
            return
        self.room.perform_leader(self, self.leader.handle(event, self.room.now))
        if not self.ticking:  # the rows of this event, if any, leave with the next tick at the latest
            self.ticking = True
            self.room.later(LIMITS.output_every_s + TICK_S, self._tick, None)

    def _tick(self, _: None) -> None:
        self.ticking = False
        if not self.silent:
            self.room.perform_leader(self, self.leader.handle(act.Tick(), self.room.now))

    def beat(self, _: None) -> None:
        self._tick(None)
        self.room.later(LIMITS.leader_beat_s, self.beat, None)

    # --- the launcher ---

    def take(self, message: Any) -> None:
        if isinstance(message, Start):
            for block in message.blocks:
                self.queue.extend((block, task) for task in range(block.lo, block.hi))
            self._start()
        elif isinstance(message, Free):
            self.cells.give_back(message.cells)

    def _start(self) -> None:
        room = self.room
        while self.free and self.queue:
            block, task = self.queue.popleft()
            self.free -= 1
            room.started += 1
            if room.started == room.slots:
                room.mark("start")
            room.later(room.durations[task - 1], self._end, (block, task, room.now))

    def _end(self, what: tuple[Block, int, float]) -> None:
        if self.silent:
            return
        block, task, started = what
        now, cells = self.room.now, self.cells
        self.room.held.append((started, now))
        self.free += 1
        self._start()
        cells.open()
        place = cells.cell * LIMITS.chunk_bytes + cells.filled
        self.pieces.append(EXTENT.pack(block.lease, task, block.attempt, STDOUT, SAYS_BYTES, place))
        cells.fill(SAYS_BYTES)
        self.ended.append(
            AttemptRow(
                lease=block.lease, job=block.job, task=task, attempt=block.attempt, state=0, failure=0, exit_code=0,
                signal=0, node=0, slot=0, cpus=1, started=started, ended=now, user_s=0.5, system_s=0.1,
                max_rss_kib=50_000, stdout_bytes=SAYS_BYTES, stdout_crc32=task,
            ).packed()
        )  # fmt: skip
        self.close_at = min(self.close_at, now + LIMITS.output_every_s)
        self._flush_by(now + ENDED_WAIT_S)

    def _flush_by(self, when: float) -> None:
        if when < self.flush_at:
            self.flush_at = when
            self.room.later(when - self.room.now, self._flush, None)

    def _flush(self, _: None) -> None:
        if self.silent or self.room.now < self.flush_at:
            return
        self.flush_at = float("inf")
        if self.ended:
            pieces, ended = b"".join(self.pieces), b"".join(self.ended)
            self.pieces, self.ended = [], []
            self.hear(Pieces(pieces))
            self.hear(Ended(ended, {}))
        if self.room.now >= self.close_at:
            self.close_at = float("inf")
            self.cells.close()
            self.hear(Closed())
        elif self.close_at < float("inf"):
            self._flush_by(self.close_at)


class Measured:
    """A rank whose processor time counts: what comes is decoded, decided, and the answers encoded, turn by turn."""

    def __init__(self, room: Room, machine: Any, perform: Callable[[list[Any]], None]) -> None:
        self.room = room
        self.machine = machine
        self.perform = perform
        self.spent_s = 0.0
        self.by_second: dict[int, float] = {}
        self.inbox: list[Any] = []

    def hear(self, event: Any) -> None:
        """`event`: or the bytes of one."""
        if not self.inbox:
            self.room.later(TURN_S, self._turn, None)
        self.inbox.append(event)

    def _turn(self, _: None) -> None:
        inbox, self.inbox = self.inbox, []
        handle, now = self.machine.handle, self.room.now
        done: list[Any] = []
        began = time.thread_time()
        for event in inbox:
            for action in handle(decode(event) if type(event) is bytes else event, now):
                if type(action) is act.Send:
                    done.append((action.to, action.message.TO, encode(action.message)))
                else:
                    done.append(action)
        spent = time.thread_time() - began
        self.spent_s += spent
        self.by_second[int(now)] = self.by_second.get(int(now), 0.0) + spent
        self.perform(done)

    def tick(self, _: None) -> None:
        self.hear(act.Tick())
        self.room.later(TICK_S, self.tick, None)


class Room:
    """The whole machine: its nodes, rank 0, the recorder; and a queue that holds tasks of these durations."""

    def __init__(self, nodes: int, slots: int, durations: Sequence[float], silent: float = 0.0) -> None:
        """silent: this share of the nodes falls silent when a third of the tasks have ended."""
        self.now = 0.0
        self.durations = durations
        self.recorder_rank = nodes
        self.slots = nodes * slots
        self.messages = self.bytes = 0
        self.done = bytearray(len(durations))
        self.left = len(durations)
        self.held: list[tuple[float, float]] = []
        """When each attempt held its slot."""
        self._silent = silent
        self._heap: list[tuple[float, int, Callable[[Any], None], Any]] = []
        self._sequence = 0
        self._leases = 0
        self.started = 0
        self._marks: dict[str, tuple[int, int, float, float]] = {}
        self._next = 1
        self._left = len(durations)  # to be leased
        self._again: deque[tuple[int, int, int]] = deque()
        self._rows_stored = 0
        self._appended: list[act.Stored] = []
        self._syncing = False
        self.over = False
        dispatcher = Dispatcher([(rank, slots) for rank in range(nodes)], nodes, RunTerms(), LIMITS, 0.0)
        self.rank0 = Measured(self, dispatcher, self._perform_rank0)
        self.recorder = Measured(self, Recorder(LIMITS), self._perform_recorder)
        self.nodes = [Node(self, rank, slots) for rank in range(nodes)]

    def run(self) -> None:
        """Until the run is over."""
        self.rank0.hear(act.RunOpened(RunId(1), OpenFile("file", {}, ())))
        self.rank0.tick(None)
        self.recorder.tick(None)
        for node in self.nodes:
            self.perform_leader(node, node.leader.start(0.0))
            self.later(LIMITS.leader_beat_s, node.beat, None)
        heap = self._heap
        while heap and not self.over:
            self.now, _, step, argument = heapq.heappop(heap)
            step(argument)
        self.mark("tail")
        assert not self.left, f"{self.left} tasks have not ended"

    def later(self, delay_s: float, step: Callable[[Any], None], argument: Any) -> None:
        self._sequence += 1
        heapq.heappush(self._heap, (self.now + delay_s, self._sequence, step, argument))

    def _fall_silent(self) -> None:
        count = round(self._silent * len(self.nodes))
        self._silent = 0.0
        for number in range(count):
            self.nodes[1 + number * (len(self.nodes) - 1) // count].silent = True

    def mark(self, part: str) -> None:
        """So far went this part of the run."""
        if part not in self._marks:
            self._marks[part] = (self.started, len(self.held), self.rank0.spent_s, self.recorder.spent_s)

    def parts(self) -> dict[str, dict[str, float]]:
        """Microseconds of both ranks by part of the run: of the start, until every slot was filled, per task that
        started; of the rest, before and after the queue was empty, per task that ended."""
        found: dict[str, dict[str, float]] = {}
        before = (0, 0, 0.0, 0.0)
        for part, mark in self._marks.items():
            started, ended, rank0_s, recorder_s = (now - then for now, then in zip(mark, before))
            before = mark
            if count := started if part == "start" else ended:
                us = {"dispatcher": 1e6 * rank0_s / count, "recorder": 1e6 * recorder_s / count}
                found[part] = {name: round(value, 2) for name, value in us.items()}
        return found

    # --- wires ---

    def _send(self, to: int, role: Role, data: bytes) -> None:
        self.messages += 1
        self.bytes += len(data)
        if role is Role.DISPATCHER:
            self.later(LATENCY_S, self.rank0.hear, data)
        elif role is Role.RECORDER:
            self.later(LATENCY_S, self.recorder.hear, data)
        else:
            self.later(LATENCY_S, self._to_leader, (to, data))

    def _to_leader(self, what: tuple[int, bytes]) -> None:
        self.nodes[what[0]].hear(decode(what[1]))

    def perform_leader(self, node: Node, actions: list[act.Action]) -> None:
        for action in actions:
            match action:
                case act.Send(to, message):
                    self._send(to, message.TO, encode(message))
                case act.ToLauncher(message):
                    node.take(message)
                case act.Pack(output, cells):
                    chunks = tuple((True, PACKED) for _ in cells)
                    packed = Output(output.rank, output.rows, output.extents, chunks, output.tails)
                    self.later(1e-3, node.hear, act.Packed(packed))
                case _:
                    pass

    def _perform_rank0(self, actions: list[Any]) -> None:
        for action in actions:
            match action:
                case (to, role, data):
                    self._send(to, role, data)
                case act.AskLease(tasks_max):
                    self.later(QUEUE_S + tasks_max / QUEUED_PER_S, self._lease, tasks_max)
                case act.AskRecord(batch):
                    self.later(QUEUE_S + len(batch.outcomes) / QUEUED_PER_S, self._record, batch)
                case act.AskExpire():
                    self.later(QUEUE_S, self.rank0.hear, act.Expired(0))
                case act.AskClose():
                    self.later(QUEUE_S, self.rank0.hear, act.RunClosed())
                case act.Finished(error):
                    assert not error, error
                    self.over = True
                case _:
                    pass

    def _perform_recorder(self, actions: list[Any]) -> None:
        for action in actions:
            match action:
                case (to, role, data):
                    self._send(to, role, data)
                case act.OpenRunFile():
                    self.later(LATENCY_S, self.recorder.hear, FileOpened("file"))
                case act.CloseRunFile():
                    self.later(LATENCY_S, self.recorder.hear, FileClosed())
                case act.Append(output):
                    self.recorder.hear(act.Appended(output.rank, self._rows_stored))
                    self._appended.append(act.Stored(output.rank, output.rows, self._rows_stored, output.tails))
                    self._rows_stored += len(output.rows) // ROW.size
                    self._sync()
                case _:
                    pass

    # --- disk and queue ---

    def _sync(self) -> None:
        if self._appended and not self._syncing:
            self._syncing = True
            stored, self._appended = self._appended, []
            self.later(SYNC_S, self._synced, stored)

    def _synced(self, stored: list[act.Stored]) -> None:
        self._syncing = False
        for event in stored:
            self.recorder.hear(event)
        self._sync()

    def _lease(self, tasks_max: int) -> None:
        ranges: list[tuple[int, int, int]] = []
        while self._again and tasks_max > 0:
            ranges.append(self._again.popleft())
            tasks_max -= ranges[-1][1] - ranges[-1][0]
        hi = min(self._next + max(tasks_max, 0), len(self.durations) + 1)
        if self._next < hi:
            ranges.append((self._next, hi, 1))
            self._next = hi
        self._left -= sum(hi - lo for lo, hi, _ in ranges)
        if not self._left:
            self.mark("middle")
        blocks = tuple(self._block(*part) for part in ranges)
        self.rank0.hear(act.Granted(Grant(blocks, (JOB,), self._left)))

    def _block(self, lo: int, hi: int, attempt: int) -> Block:
        self._leases += 1
        texts = [TaskText(b"./task --number %d" % task) for task in range(lo, hi)]
        return Block(LeaseId(self._leases), JOB.id, attempt, Needs(), lo, texts)

    def _record(self, batch: Any) -> None:
        for row, *_ in batch.outcomes:
            assert not self.done[row.task - 1], "recorded twice"
            self.done[row.task - 1] = 1
        self.left -= len(batch.outcomes)
        again = [(part.span.lo, part.span.hi, part.span.attempt) for part in batch.returned]
        self._again.extend(again)
        self._left += sum(hi - lo for lo, hi, _ in again)
        if self._silent and self.left < len(self.durations) * 2 / 3:
            self._fall_silent()
        self.rank0.hear(act.Recorded(batch, frozenset()))
