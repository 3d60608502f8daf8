"""The loop of the launcher process: starts the tasks of a node, reads their output, reports how they ended.

It sleeps in epoll on: the link to its rank, SIGCHLD (as a signalfd: no handler, no interrupted calls), the
guardian's pipe, and the pipes that `mpifarm.launch.reading` watches. When the rank does not take what it is sent,
reading and starting stop: a flood slows its task and grows nobody's memory. What to start and what to end decides
`mpifarm.core.launching`. Must never import anything heavy, nor MPI.
"""

from __future__ import annotations

import os
import resource
import select
import signal
import time
from math import inf

from mpifarm.core.launching import Launching, Running, Unbegun, may_be_memory, unlaunched, verdict
from mpifarm.core.messages import Cancel, Drain, LinkMessage, NotStarted, Setup, Start
from mpifarm.core.model import FailureClass, Limits
from mpifarm.launch.closing import Closing
from mpifarm.launch.link import Link
from mpifarm.launch.memory_killer import MemoryKiller
from mpifarm.launch.orphans import Marks, Orphans
from mpifarm.launch.outbox import EndedProcess, Outbox
from mpifarm.launch.reading import Reader
from mpifarm.launch.spawning import NotLaunchedError, Seat, Spawner, make_seats

PENDING_BYTES_MAX = 8 << 20
"""More than that on its way to the rank: stop reading and starting."""
PENDING_BYTES_LOW = 4 << 20
RETRY_S = 0.1
RETRY_FOR_S = 30.0
"""How long a node may have no process to spare before that fails a task."""
LOGGED_ORPHANS_MAX = 10
BLOCK_BYTES = 512
"""ru_inblock and ru_oublock count these."""


class Watch:
    """The tasks of one node, from the first message to the last."""

    def __init__(self, link: Link, setup: Setup, child_fd: int, guard_fd: int) -> None:
        """`child_fd` is readable when a child has ended, `guard_fd` when the guardian has."""
        self._link = link
        self._child_fd = child_fd
        self._guard_fd = guard_fd
        must_end_by = setup.must_end_by - time.time() + time.monotonic()
        self._launching = Launching(setup.slots, Limits().term_to_kill_s, must_end_by)
        self._spawner = Spawner(dict(os.environb), setup.node)
        self._seats = make_seats(setup.slots)
        self._by_pid: dict[int, Seat] = {}
        self._orphans = Orphans()
        self._orphans_logged = 0
        self._memory_killer = MemoryKiller()
        self._epoll = select.epoll()
        self._outbox = Outbox(link, self._conclude)
        self._closing = Closing(self._outbox, self._launching, self._conclude)
        self._reader = Reader(self._epoll, self._closing)
        self._stalled: list[tuple[Running, float]] = []
        """Attempts that hold a slot and wait for a process to be free, and since when."""
        self._retry_at = inf
        self._wake_at = inf
        self._writing = False
        for fd in (link.fileno(), child_fd, guard_fd):
            self._epoll.register(fd, select.EPOLLIN)

    def run(self, messages: list[LinkMessage]) -> None:
        """Until the rank or the guardian has gone. `messages`: those received already."""
        link_fd, child_fd, guard_fd = self._link.fileno(), self._child_fd, self._guard_fd
        now = time.monotonic()
        while self._link.open:
            if messages:
                for message in messages:
                    self._receive(message, now)
                messages = []
                self._mind_the_link(now)
            self._fill(now)
            events = self._epoll.poll(self._rest_s(now))
            now = time.monotonic()
            for fd, _ in events:
                if fd == child_fd:
                    os.read(child_fd, 128)
                    self._reap(now)
                elif fd == link_fd:
                    self._link.flush()
                    messages = self._link.receive()
                    self._mind_the_link(now)
                elif fd == guard_fd:
                    return
                else:
                    self._reader.read(fd, now)
            if now >= self._wake_at:
                self._do_due(now)

    def _rest_s(self, now: float) -> float | None:
        closing_at = inf if self._reader.held else self._closing.due_at
        due_at = self._launching.next_due, self._outbox.due_at, self._reader.due_at, self._retry_at, closing_at
        self._wake_at = at = min(due_at)
        return None if at == inf else max(at - now, 0.0)

    def _do_due(self, now: float) -> None:
        if now >= self._launching.next_due:
            for running, kill in self._launching.due(now):
                self._signal(running, signal.SIGKILL if kill else signal.SIGTERM, now)
        if now >= self._retry_at:
            self._retry(now)
        if now >= self._reader.due_at:
            self._reader.watch(self._seats)
        if now >= self._closing.due_at and not self._reader.held:
            self._closing.step(now)
        if now >= self._outbox.due_at:
            self._outbox.flush()
            self._mind_the_link(now)

    def _receive(self, message: LinkMessage, now: float) -> None:
        match message:
            case Start(jobs, blocks):
                self._spawner.learn(jobs)
                self._closing.learn(jobs)
                for refused in self._launching.add(blocks):
                    self._end_unlaunched(refused, refused.refusal, now)
                if self._launching.draining:
                    self._link.send(NotStarted(*self._launching.drain(inf, now)))
            case Drain(grace_s):
                first = not self._launching.draining
                unbegun = self._launching.drain(grace_s, now)
                if first:
                    self._link.send(NotStarted(*unbegun))
            case Cancel(ranges):
                self._say_unbegun(self._launching.cancel(ranges, now))
            case _:
                raise AssertionError(message)

    def _say_unbegun(self, unbegun: Unbegun) -> None:
        if unbegun.spans:
            self._link.send(NotStarted(*unbegun))

    def _mind_the_link(self, now: float) -> None:
        """Watch for the link's being writable while something is pending; stop the flow while it is too much."""
        pending = self._link.pending
        if (pending > 0) != self._writing:
            self._writing = pending > 0
            events = select.EPOLLIN | select.EPOLLOUT if self._writing else select.EPOLLIN
            self._epoll.modify(self._link.fileno(), events)
        if pending > PENDING_BYTES_MAX and not self._reader.held:
            self._reader.hold()
        elif pending < PENDING_BYTES_LOW and self._reader.held:
            self._reader.release(now)

    # --- starting ---------------------------------------------------------------------------------------------

    def _fill(self, now: float) -> None:
        """Start what fits."""
        if self._reader.held:
            return
        take = self._launching.take
        while not self._stalled and (running := take(now)) is not None:
            self._start(running, now, now)
        self._say_unbegun(self._launching.late())

    def _start(self, running: Running, now: float, since: float) -> None:
        """Make a process of an attempt that has its slot, and wanted to start already at `since`."""
        seat = self._seats[running.slot]
        seat.started = time.time()
        self._closing.begin(running)
        try:
            pid = self._spawner.spawn(running, seat)
        except BlockingIOError:
            self._stalled.append((running, since))
            self._retry_at = now + RETRY_S
        except NotLaunchedError as error:
            self._launching.free(running.slot)
            self._end_unlaunched(running, str(error), now)
        else:
            seat.running = running
            seat.pid = pid
            self._by_pid[pid] = seat
            self._reader.expect(now)

    def _retry(self, now: float) -> None:
        """Start what found no process to spare; by now there may be one."""
        stalled, self._stalled, self._retry_at = self._stalled, [], inf
        for running, since in stalled:
            if running.killed_for is FailureClass.NONE and now - since < RETRY_FOR_S:
                self._start(running, now, since)
            else:
                self._launching.free(running.slot)
                self._end_unlaunched(running, "the node had no process or memory to spare", now)

    def _signal(self, running: Running, number: int, now: float) -> None:
        seat = self._seats[running.slot]
        if seat.running is not running:
            self._retry_at = now  # it has no process yet, and shall have none
            return
        for kill in (os.killpg, os.kill):  # the main process may have left its group
            try:
                kill(seat.pid, number)
            except ProcessLookupError:
                pass

    # --- ending -----------------------------------------------------------------------------------------------

    def _reap(self, now: float) -> None:
        """Empty the seats of the tasks that have ended."""
        ended: dict[int, tuple[Seat, int, resource.struct_rusage]] = {}
        while True:
            try:
                pid, status, usage = os.wait4(-1, os.WNOHANG)
            except ChildProcessError:
                break
            if not pid:
                break
            seat = self._by_pid.pop(pid, None)
            if seat is None:
                self._orphans.forget(pid)
            else:
                ended[pid] = seat, status, usage
        alone = self._orphans.none_beside(self._by_pid)
        left = () if alone else self._sweep({pid: seat for pid, (seat, _, _) in ended.items()}, now)
        for pid, (seat, status, usage) in ended.items():
            running = seat.running
            assert running is not None
            self._reader.forget(seat)
            output = seat.read()
            if pid in left:
                last = seat.renew()
                output = output[0] + last[0], output[1] + last[1]
            seat.running = None
            process = (running, seat.started, time.time(), status, usage, *output)
            if not self._closing.end(process, now):
                self._launching.free(running.slot)
                self._outbox.add_ended(process, now)
        if not self._by_pid and self._launching.idle:
            self._outbox.due_at = now

    def _sweep(self, ended: dict[int, Seat], now: float) -> set[int]:
        """Kill what the ended left behind. Returns the pids of those that left something."""
        left, log = self._orphans.sweep(self._marks(self._by_pid), self._marks(ended))
        for line in log[: LOGGED_ORPHANS_MAX - self._orphans_logged]:
            self._outbox.add_log(line, now)
            self._orphans_logged += 1
        return left

    def _marks(self, seats: dict[int, Seat]) -> dict[int, Marks]:
        return {pid: self._spawner.marks(seat.running) for pid, seat in seats.items() if seat.running}

    def _conclude(self, process: EndedProcess) -> tuple[object, ...]:
        """The fields of the EndedAttempt."""
        running, started, ended, status, usage, stdout, stderr = process
        block = running.block
        result = verdict(status, running.killed_for)
        if result[1] and may_be_memory(result) and self._memory_killer.has_killed(ended):
            result = result[0], int(FailureClass.OOM), result[2], result[3]
        return (
            block.lease, block.job, running.task, block.attempt, *result, running.slot, block.shape.cpus,
            started, ended, usage.ru_utime, usage.ru_stime, usage.ru_maxrss,
            usage.ru_inblock * BLOCK_BYTES, usage.ru_oublock * BLOCK_BYTES, stdout, stderr, None,
        )  # fmt: skip

    def _end_unlaunched(self, running: Running, reason: str, now: float) -> None:
        block, at = running.block, time.time()
        result = unlaunched(running.killed_for)
        stderr = os.fsencode(f"mpifarm: {reason}\n")
        attempt = (  # the fields of an EndedAttempt
            block.lease, block.job, running.task, block.attempt, *result, running.slot, block.shape.cpus,
            at, at, 0.0, 0.0, 0, 0, 0, b"", stderr, None,
        )  # fmt: skip
        self._closing.forget(running)
        self._outbox.add_concluded(attempt, len(stderr), now)
