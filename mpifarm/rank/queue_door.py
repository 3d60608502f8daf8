"""The slow doors of a rank, one thread each: what they share, and the queue's (on rank 0).

A door takes asks from the loop and posts events back to the loop's inbox; its thread never calls MPI. A door that meets
trouble keeps what it was asked and goes on trying, so that the machines behind the loop only ever see answers.
"""

from __future__ import annotations

import os
import queue
import threading
import time
from collections import deque
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any

from mpifarm.core.model import Limits, RunId, State
from mpifarm.core.protocol.actions import (
    Action,
    AskClose,
    AskExpire,
    AskLease,
    AskName,
    AskRecord,
    Expired,
    Granted,
    Ordered,
    QueueTrouble,
    Recorded,
    RunClosed,
)
from mpifarm.core.protocol.messages import Role
from mpifarm.errors import QueueError, QueueUnreachable

if TYPE_CHECKING:
    from mpifarm.queue import Queue

BACKOFF_S = (0.2, 10.0)
"""First and longest pause between two tries of a door in trouble."""


class Inbox:
    """Events from the doors' threads; its file descriptor is readable when something is in it."""

    def __init__(self) -> None:
        self._events: deque[tuple[Role, Any]] = deque()
        self._read, self._write = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)

    def fileno(self) -> int:
        return self._read

    def post(self, role: Role, event: object) -> None:
        self._events.append((role, event))
        try:
            os.write(self._write, b"\0")
        except BlockingIOError:
            pass  # the pipe is full of wake-ups already

    def take(self) -> list[tuple[Role, Any]]:
        try:
            os.read(self._read, 4096)
        except BlockingIOError:
            pass
        events = []
        while self._events:
            events.append(self._events.popleft())
        return events


class Door:
    """A thread that works off asks in order. `None` ends it."""

    def __init__(self, name: str, inbox: Inbox, on_bug: Callable[[BaseException], None]) -> None:
        self._inbox = inbox
        self._asks: queue.SimpleQueue[Any] = queue.SimpleQueue()
        self._leaving = threading.Event()
        self._on_bug = on_bug
        self._thread = threading.Thread(target=self._main, name=name, daemon=True)

    def start(self) -> None:
        self._thread.start()

    def ask(self, action: object) -> None:
        self._asks.put(action)

    def leave(self, timeout_s: float) -> None:
        """Work off what was asked, or give up what is in trouble, and end."""
        self._leaving.set()
        self._asks.put(None)
        self._thread.join(timeout_s)

    def _main(self) -> None:
        try:
            self._work()
        except BaseException as error:  # a bug in a thread must not be a silent hang of the world
            self._on_bug(error)

    def _work(self) -> None:
        raise NotImplementedError

    def _pause(self, seconds: float) -> None:
        self._leaving.wait(seconds)


class Heartbeat(Door):
    """Renews a run over a connection of its own, however long a verb of the other one takes, and hears the orders."""

    def __init__(
        self, queue_: Queue, run: RunId, limits: Limits, inbox: Inbox, on_bug: Callable[[BaseException], None]
    ) -> None:
        """`queue_`: only asked for another connection."""
        super().__init__("heartbeat", inbox, on_bug)
        self._queue = queue_
        self._run = run
        self._every_s = limits.heartbeat_every_s
        self.renewed_at = time.monotonic()

    def _work(self) -> None:
        own: Queue | None = None
        while not self._leaving.is_set():
            try:
                own = own or self._queue.another()
                orders = own.renew(self._run)
                self.renewed_at = time.monotonic()
                if orders:
                    self._inbox.post(Role.DISPATCHER, Ordered(orders))
            except QueueError:
                pass  # the door tells of it, whose verbs fail as well, or renews for us
            self._pause(self._every_s)
        if own is not None:
            own.close()


class QueueDoor(Door):
    """The only user of the queue in a run, but for the heartbeat."""

    def __init__(
        self, queue_: Queue, run: RunId, limits: Limits, inbox: Inbox, on_bug: Callable[[BaseException], None]
    ) -> None:
        super().__init__("queue", inbox, on_bug)
        self._queue = queue_
        self._run = run
        self._limits = limits
        self._heartbeat = Heartbeat(queue_, run, limits, inbox, on_bug)

    def start(self) -> None:
        super().start()
        self._heartbeat.start()

    def leave(self, timeout_s: float) -> None:
        super().leave(timeout_s)
        self._heartbeat.leave(timeout_s)

    def _work(self) -> None:
        while True:
            try:
                ask = self._asks.get(timeout=self._limits.heartbeat_every_s)
            except queue.Empty:
                self._help_the_heartbeat()
                continue
            if ask is None:
                return
            self._help_the_heartbeat()
            self._persist(partial(self._answer, ask))

    def _help_the_heartbeat(self) -> None:
        """Where the database has no second connection to spare: a run that is not renewed is taken for dead, and does
        not hear its orders (which may come twice)."""
        if time.monotonic() - self._heartbeat.renewed_at > self._limits.silent_s / 2:
            self._persist(self._renew)

    def _renew(self) -> None:
        orders = self._queue.renew(self._run)
        self._heartbeat.renewed_at = time.monotonic()
        if orders:
            self._post(Ordered(orders))

    def _answer(self, ask: Action) -> None:
        match ask:
            case AskLease(tasks_max, room):
                grant = self._queue.lease(self._run, tasks_max, self._limits.block_bytes_max, room)
                self._post(Granted(grant))
            case AskRecord(batch):
                self._post(Recorded(batch, self._queue.record(self._run, batch)))
                if any(row.state == State.FAILED for row, _, _ in batch.outcomes):
                    self._persist(self._renew)  # too many for their job, perhaps: until the heartbeat others would fail
            case AskExpire():
                self._post(Expired(self._queue.expire(self._limits.lease_s)))
            case AskName(path):
                self._queue.name_file(self._run, path)
            case AskClose():
                self._queue.close_run(self._run)
                self._post(RunClosed())
            case _:
                raise AssertionError(ask)

    def _post(self, event: object) -> None:
        self._inbox.post(Role.DISPATCHER, event)

    def _persist(self, step: Callable[[], None]) -> None:
        """Do one step; while the database cannot be reached, tell the dispatcher and try again."""
        since = time.monotonic()
        pause = BACKOFF_S[0]
        while True:
            try:
                step()
                return
            except QueueUnreachable as error:
                self._post(QueueTrouble(str(error), time.monotonic() - since))
                if self._leaving.is_set():
                    return
                self._pause(pause)
                pause = min(2 * pause, BACKOFF_S[1])
            except QueueError as error:
                self._post(QueueTrouble(str(error), time.monotonic() - since, fatal=True))
                return
