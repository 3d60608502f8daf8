"""Tasks that are calls of Python functions, made in warm interpreters: at most one in a slot, which makes the calls of
one job there, one after the other.

An interpreter is a process as that of a command is: in a group of its own, with the pipes of its slot and the
environment of the job, ended by the same signals. It stays when a call has ended, and goes when it must not be trusted
with the next: its slot is wanted for something else, a call left processes or changed the pipes, somebody has signalled
it, or it has made `CALLS_MAX` calls. Imports nothing heavy.
"""

from __future__ import annotations

import select
import signal
import socket
import time
from collections.abc import Callable, Collection
from functools import partial

from mpifarm.calls.frames import ANSWER, Answer, request
from mpifarm.core.launcher.launching import Running
from mpifarm.core.launcher.verdict import RAISED, UNANSWERED
from mpifarm.core.model import AttemptKey, JobId
from mpifarm.core.row import CONTENTS, HAS_CONTENTS, VALUES
from mpifarm.launch.kinds.command import signal_group
from mpifarm.launch.kinds.way import Dead, End, Handle, Site
from mpifarm.launch.seat import Seat

CALLS_MAX = 10_000
"""What leaks in the user's code has an end."""
RECEIVE_BYTES = 256 << 10
RECEIVED_AT_ONCE = 1 << 20
"""In one turn of the loop, so that a large value does not hold up the other slots."""

Key = tuple[JobId, int, tuple[int, ...], int]
"""Job, cores, GPUs, memory: what is in the environment of an interpreter. A slot mostly has the same cores."""


class _Interpreter:
    """One, and what it is asked."""

    def __init__(self, pid: int, key: Key, seat: Seat, sock: socket.socket) -> None:
        self.pid, self.key, self.seat, self.sock = pid, key, seat, sock
        self.calls = 0
        self.attempt: Running | None = None
        """What it is asked now."""
        self.closed = False
        """The other end of the socket is."""
        self.unsent = b""
        self.answer: Answer | None = None
        self.received = bytearray()
        """The begin of an answer: its header, then its contents."""
        self.values_left = 0

    def ask(self, running: Running) -> None:
        self.calls += 1
        self.attempt = running
        self.answer = None
        body, entry = running.text
        self.unsent = request(running.task, running.block.attempt, body, entry)
        self.send()

    def send(self) -> None:
        """Send what it takes now."""
        try:
            self.unsent = self.unsent[self.sock.send(self.unsent) :]
        except BlockingIOError:
            pass
        except OSError:
            self.unsent = b""  # it has died, and that is told by its end

    def receive(self, take: Callable[[bytes], None]) -> bool:
        """Take what has come of an answer; whether that was all of it."""
        taken = 0
        while not self._whole():
            if taken >= RECEIVED_AT_ONCE:
                return False
            try:
                piece = self.sock.recv(self._wanted())
            except BlockingIOError:
                return False
            except OSError:
                piece = b""
            if not piece:
                self.closed = True
                return False
            taken += len(piece)
            if self.answer is not None and len(self.received) == self.answer.contents_bytes:
                self.values_left -= len(piece)
                take(piece)
                continue
            self.received += piece
            if self.answer is None and len(self.received) == ANSWER.size:
                self.answer = Answer._make(ANSWER.unpack(self.received))
                self.values_left = self.answer.values_bytes
                self.received.clear()
        return True

    def _whole(self) -> bool:
        """Whether the answer is here, to its last byte: nothing more will come and wake anybody."""
        answer = self.answer
        return answer is not None and len(self.received) == answer.contents_bytes and not self.values_left

    def _wanted(self) -> int:
        """Bytes of the part that comes now: no further, so that nothing is cut in two."""
        if self.answer is None:
            return ANSWER.size - len(self.received)
        missing = self.answer.contents_bytes - len(self.received)
        return min(missing or self.values_left, RECEIVE_BYTES)


class Functions:
    """All interpreters of a node. A handle is the pid of one."""

    def __init__(self, site: Site) -> None:
        self._spawner, self._epoll, self._output = site
        self._of_slot: dict[int, _Interpreter] = {}
        self._of_pid: dict[Handle, _Interpreter] = {}
        self._of_fd: dict[int, _Interpreter] = {}
        self._ended: list[tuple[Handle, End]] = []
        self._paused: list[_Interpreter] = []
        """Whose values found no room."""

    @property
    def idle(self) -> Collection[int]:
        return [pid for pid, found in self._of_pid.items() if found.attempt is None]

    def start(self, attempt: Running, seat: Seat) -> Handle:
        key = attempt.block.job, attempt.cores, attempt.gpus, attempt.block.needs.memory_bytes
        found = self._of_slot.get(seat.slot)
        if found is not None and found.key != key:
            self.leave(seat)
            found = None
        if found is None:
            found = self._new(attempt, seat, key)
        found.ask(attempt)
        if found.unsent:
            self._watch(found)
        return found.pid

    def _new(self, attempt: Running, seat: Seat, key: Key) -> _Interpreter:
        ours, theirs = socket.socketpair()
        with theirs:
            try:
                pid = self._spawner.spawn_interpreter(attempt, seat, theirs.fileno())
            except BaseException:
                ours.close()
                raise
        ours.setblocking(False)
        made = _Interpreter(pid, key, seat, ours)
        self._of_slot[seat.slot] = self._of_pid[pid] = self._of_fd[ours.fileno()] = made
        self._epoll.register(ours.fileno(), select.EPOLLIN)
        return made

    def signal(self, handle: Handle, number: int) -> None:
        signal_group(handle, number)

    def leave(self, seat: Seat) -> None:
        found = self._of_slot.get(seat.slot)
        if found is not None:
            self._end(found)
            seat.replace()

    def ready(self, descriptor: int, now: float) -> bool:
        found = self._of_fd.get(descriptor)
        if found is None:
            return False
        if found.attempt is None:  # nothing was asked
            self._end(found)
        elif self._output.low:
            self._paused.append(found)
            self._epoll.modify(descriptor, 0)
        else:
            self._exchange(found, found.attempt, now)
        return True

    def resume(self) -> None:
        while self._paused and not self._output.low:
            self._watch(self._paused.pop())

    def _exchange(self, found: _Interpreter, attempt: Running, now: float) -> None:
        """Send and receive what can be."""
        if found.unsent:
            found.send()
            if not found.unsent:
                self._watch(found)
        if not found.receive(partial(self._give_value, attempt.key, now)):
            if found.closed:  # by the user's code, perhaps, and it lives on: its end will be told as any other's
                signal_group(found.pid, signal.SIGKILL)
                self._hang_up(found)
            return
        answer, found.answer = found.answer, None
        assert answer is not None
        self._output.write(attempt.key, CONTENTS, bytes(found.received), now)
        found.received.clear()
        found.attempt = None
        found.seat.started = answer.started
        stays = not (answer.left or attempt.terminated or found.calls >= CALLS_MAX)
        if not stays:
            self._end(found)
        status = RAISED if answer.raised else 0
        self._ended.append((found.pid, End(answer.ended, status, answer, answer.left, HAS_CONTENTS, stays)))

    def _give_value(self, attempt: AttemptKey, now: float, piece: bytes) -> None:
        self._output.write(attempt, VALUES, piece, now)

    def reap(self, dead: dict[int, Dead]) -> list[tuple[Handle, End]]:
        ended, self._ended = self._ended, []
        for pid in [*dead] if self._of_pid else ():
            found = self._of_pid.get(pid)
            if found is not None:
                status, usage = dead.pop(pid)
                self._forget(found)
                if found.attempt is not None:
                    ended.append((pid, End(time.time(), status or UNANSWERED, usage)))
        return ended

    def _watch(self, found: _Interpreter) -> None:
        """For what it has to say, and for room for what it is to be told."""
        if found.sock.fileno() in self._of_fd:
            self._epoll.modify(found.sock.fileno(), select.EPOLLIN | (select.EPOLLOUT if found.unsent else 0))

    def _end(self, found: _Interpreter) -> None:
        """With all that it started."""
        signal_group(found.pid, signal.SIGKILL)
        self._forget(found)

    def _forget(self, found: _Interpreter) -> None:
        if self._of_pid.pop(found.pid, None) is not None:
            del self._of_slot[found.seat.slot]
            self._hang_up(found)

    def _hang_up(self, found: _Interpreter) -> None:
        if self._of_fd.pop(found.sock.fileno(), None) is not None:
            self._epoll.unregister(found.sock.fileno())
            found.sock.close()
