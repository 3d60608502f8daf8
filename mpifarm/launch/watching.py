"""The loop of the launcher process: starts the tasks of a node, reads their output, reports how they ended.

It sleeps in epoll on: the link to its rank, SIGCHLD and stops from outside (as a signalfd: no handler, no interrupted
calls), the guardian's pipe, the pipes that `mpifarm.launch.streams` watches, and what a way of `kinds` does. When
cells of the arena run low, or the rank does not take what it is told, reading and starting stop: a flood slows its
task and grows nobody's memory. What to start and what to end decides `mpifarm.core.launcher.launching`. Must never
import anything heavy, nor MPI.
"""

from __future__ import annotations

import os
import select
import signal
import time
from collections import deque
from math import inf

from mpifarm.core.launcher.launching import Launching, Running, Unbegun
from mpifarm.core.model import FailureClass, Limits
from mpifarm.core.protocol.messages import Cancel, Drain, Free, LinkMessage, NotStarted, Setup, Start, Stopped
from mpifarm.core.row import STDERR
from mpifarm.launch.after_exit import Closing
from mpifarm.launch.arena import Arena
from mpifarm.launch.concluding import Concluding
from mpifarm.launch.environ import LAUNCHER
from mpifarm.launch.judging import SETTLE_S, EndedProcess
from mpifarm.launch.kinds.way import End, Site
from mpifarm.launch.kinds.ways import Ways
from mpifarm.launch.link import Link
from mpifarm.launch.open_files import OpenFiles
from mpifarm.launch.outbox import Outbox, make_cells
from mpifarm.launch.own_state import OwnState
from mpifarm.launch.places import domains_of
from mpifarm.launch.seat import Said, Seat, Stream, make_seats
from mpifarm.launch.spawning import NotLaunchedError, Spawner
from mpifarm.launch.strays import Strays, mark_of
from mpifarm.launch.streams import Reader

PENDING_BYTES_MAX = 1 << 20
"""More than that on its way to the rank: stop reading and starting."""
PENDING_BYTES_LOW = PENDING_BYTES_MAX // 2
RETRY_S = 0.1
RETRY_FOR_S = 30.0
"""How long a node may have no process to spare before that fails a task."""
LOGGED_ORPHANS_MAX = 10
SIGNAL_BYTES = 128
"""Of a signalfd_siginfo, whose first is the low one of the signal's number."""
SIGNALS_AT_ONCE = 8


class Watch:
    """The tasks of one node, from the first message to the last."""

    def __init__(self, link: Link, setup: Setup, arena: Arena, files: OpenFiles, signal_fd: int, guard_fd: int) -> None:
        """`signal_fd` is readable when a child has ended or a stop has come, `guard_fd` when the guardian has ended."""
        self._link = link
        self._signal_fd = signal_fd
        self._guard_fd = guard_fd
        must_end_by = setup.must_end_by - time.time() + time.monotonic()
        domains = domains_of(setup.cpus, setup.slots) if setup.pin else ()
        self._launching = Launching(setup.slots, Limits().term_to_kill_s, must_end_by, setup.room, domains)
        self._spawner = Spawner({**os.environb, LAUNCHER: mark_of(os.getpid())}, setup, files)
        self._seats = make_seats(setup.slots)
        self._seat_of: dict[int, Seat] = {}
        """By handle, of attempts that have not ended."""
        self._orphans_logged = 0
        self._epoll = select.epoll()
        self._cells = make_cells()
        self._begun = arena.begun
        self._concluding = Concluding(setup.number)
        self._outbox = Outbox(link, arena, self._cells, self._concluding.processes)
        self._ways = Ways(Site(self._spawner, self._epoll, self._outbox))
        self._closing = Closing(self._outbox, self._launching, self._concluding.processes)
        self._strays = Strays(self._outbox.add_log)
        self._own_state = OwnState(self._outbox.add_log)
        self._reader = Reader(self._epoll, self._closing)
        self._ended: deque[tuple[Seat, End]] = deque()
        """Their last output is to be read."""
        self._refused: deque[Running] = deque()
        """Attempts that can never run here, not told yet."""
        self._stalled: list[tuple[Running, float]] = []
        """Attempts that hold a slot and wait for a process to be free, and since when."""
        self._retry_at = inf
        self._wake_at = inf
        self._writing = False
        for fd in (link.fileno(), signal_fd, guard_fd):
            self._epoll.register(fd, select.EPOLLIN)

    def run(self, messages: list[LinkMessage]) -> None:
        """Until the rank or the guardian has gone. `messages`: those received already."""
        link_fd, signal_fd, guard_fd = self._link.fileno(), self._signal_fd, self._guard_fd
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
                if fd == signal_fd:
                    self._take_signals(now)
                elif fd == link_fd:
                    self._link.flush()
                    messages = self._link.receive()
                    self._mind_the_link(now)
                elif fd == guard_fd:
                    return
                elif self._ways.ready(fd, now):
                    self._reap(now)
                else:
                    self._reader.read(fd, now)
            if now >= self._wake_at:
                self._do_due(now)

    def _rest_s(self, now: float) -> float | None:
        closing_at = inf if self._reader.held else self._closing.due_at
        due_at = self._launching.next_due, self._outbox.due_at, self._reader.due_at, self._retry_at, closing_at
        self._wake_at = at = min(*due_at, self._strays.due_at)
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
        if now >= self._strays.due_at:
            self._strays.look(now)
        if now >= self._outbox.due_at:
            self._outbox.flush(now, idle=self._launching.idle)
            self._mind_the_link(now)

    def _receive(self, message: LinkMessage, now: float) -> None:
        match message:
            case Start(jobs, blocks):
                self._spawner.learn(jobs)
                self._closing.learn(jobs)
                self._strays.before(blocks, now)
                self._refused += self._launching.add(blocks)
                if self._launching.draining:
                    self._link.send(NotStarted(*self._launching.drain(inf, now)))
            case Free(cells):
                self._cells.give_back(cells)
            case Drain(grace_s):
                first = not self._launching.draining
                unbegun = self._launching.drain(grace_s, now)
                self._outbox.drain(now)
                if first:
                    self._link.send(NotStarted(*unbegun))
            case Cancel(ranges):
                self._say_unbegun(self._launching.cancel(ranges, now))
            case _:
                raise AssertionError(message)

    def _take_signals(self, now: float) -> None:
        came = os.read(self._signal_fd, SIGNALS_AT_ONCE * SIGNAL_BYTES)[::SIGNAL_BYTES]  # their numbers
        for number in came:
            if number != signal.SIGCHLD:
                # Before the ends that it may have been the cause of. With many tasks some have been judged already, or
                # are not dead yet: the rank makes others stop, too.
                self._launching.stop(now, SETTLE_S)
                self._outbox.stop(now)
                self._link.send(Stopped(number))
        if signal.SIGCHLD in came:
            self._reap(now)

    def _say_unbegun(self, unbegun: Unbegun) -> None:
        if unbegun.spans:
            self._link.send(NotStarted(*unbegun))

    def _mind_the_link(self, now: float) -> None:
        """Watch for the link's being writable while something is pending; stop the flow while it is too much, or cells
        are low."""
        pending = self._link.pending
        if (pending > 0) != self._writing:
            self._writing = pending > 0
            events = select.EPOLLIN | select.EPOLLOUT if self._writing else select.EPOLLIN
            self._epoll.modify(self._link.fileno(), events)
        if self._reader.held:
            if pending < PENDING_BYTES_LOW and self._cells.ample:
                self._reader.release(now)
        elif pending > PENDING_BYTES_MAX or self._cells.low:
            self._reader.hold()

    # --- starting ---------------------------------------------------------------------------------------------

    def _fill(self, now: float) -> None:
        """Start what fits."""
        self._mind_the_link(now)
        if self._ended:
            self._finish(now)
        if self._reader.held:
            return
        self._ways.resume()
        take, cells = self._launching.take, self._cells
        while self._refused and not cells.low:
            refused = self._refused.popleft()
            self._end_unlaunched(refused, refused.refusal, now)
        # Asked anew for each: a time limit begins with its task, however long it took to start those before.
        while not self._stalled and not cells.low and (running := take(began := time.monotonic())) is not None:
            self._start(running, began, began)
        self._say_unbegun(self._launching.late())

    def _start(self, running: Running, now: float, since: float) -> None:
        """Make a process of an attempt that has its slot, and wanted to start already at `since`."""
        seat = self._seats[running.slot]
        seat.started = time.time()
        self._begun.begin(running.slot, running.block.lease, running.task)
        self._closing.begin(running)
        try:
            handle = self._ways.start(running, seat)
        except BlockingIOError:
            self._begun.end(running.slot)
            self._stalled.append((running, since))
            self._retry_at = now + RETRY_S
        except NotLaunchedError as error:
            self._begun.end(running.slot)
            self._launching.free(running.slot)
            self._end_unlaunched(running, str(error), now)
        else:
            seat.running = running
            seat.handle = handle
            self._seat_of[handle] = seat
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
        if seat.handle:  # else it has ended already
            self._ways.signal(seat.handle, number)

    # --- ending -----------------------------------------------------------------------------------------------

    def _reap(self, now: float) -> None:
        """Empty the seats of the tasks that have ended."""
        ends, log = self._ways.reap()
        for line in log[: LOGGED_ORPHANS_MAX - self._orphans_logged]:
            self._outbox.add_log(line, now)
            self._orphans_logged += 1
        for handle, end in ends:
            seat = self._seat_of.pop(handle)
            assert seat.running is not None
            seat.handle = 0
            self._reader.forget(seat)
            self._begun.end(seat.slot)
            self._launching.outlived(seat.running.slot, now)
            self._ended.append((seat, end))
        self._own_state.put_back(now)
        self._finish(now)

    def _finish(self, now: float) -> None:
        """Read the last output of those that have ended, report them, free their slots: as far as there are cells."""
        while self._ended and not self._cells.low:
            seat, end = self._ended[0]
            running = seat.running
            assert running is not None
            said = self._read_all(seat, running, end, now)
            if said is None:
                continue
            self._ended.popleft()
            seat.running = None
            process = EndedProcess(running, seat.started, end, *said)
            if not self._closing.end(process, now):
                self._launching.free(running.slot)
                self._outbox.add_ended(process, now)

    def _read_all(self, seat: Seat, running: Running, end: End, now: float) -> tuple[Said, Said] | None:
        """Read the last output of the attempt in `seat`, also of processes that it had left behind, now dead.

        Returns what it said in all on stdout and stderr; None: there is more."""

        def read(stream: Stream) -> int:
            return self._closing.read(running.key, stream, now)

        if not seat.read(read):
            return None
        if end.left:
            seat.read_last(read)
        said = seat.take_said()
        if end.left:
            seat.renew()
        elif end.stays:
            if not seat.as_made():
                self._ways.leave(seat)
        else:
            seat.refresh(end.at)
        return said

    def _end_unlaunched(self, running: Running, reason: str, now: float) -> None:
        stderr = os.fsencode(f"mpifarm: {reason}\n")
        self._outbox.write(running.key, STDERR, stderr, now)
        self._closing.forget(running)
        self._outbox.add_concluded(self._concluding.never_begun(running, stderr), now)
