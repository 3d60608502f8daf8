"""The slow doors of a rank, one thread each: the queue (on rank 0) and the run file (on the recorder's rank).

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
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from mpifarm.core.actions import (
    Action,
    Append,
    AskClose,
    AskExpire,
    AskLease,
    AskName,
    AskRecord,
    CloseRunFile,
    Expired,
    Granted,
    OpenRunFile,
    Ordered,
    QueueTrouble,
    Recorded,
    RunClosed,
    Stored,
)
from mpifarm.core.messages import FileClosed, FileOpened, FileTrouble, Role
from mpifarm.core.model import Limits, RunId
from mpifarm.errors import OutputError, QueueError, QueueUnreachable

if TYPE_CHECKING:
    from mpifarm.output.writer import Writer
    from mpifarm.queue import Queue

_T = TypeVar("_T")

BACKOFF_S = (0.2, 10.0)
"""First and longest pause between two tries of a door in trouble."""


class Inbox:
    """Events from the doors' threads; its file descriptor is readable when something is in it."""

    def __init__(self) -> None:
        self._events: deque[tuple[Role, Any]] = deque()
        self._read, self._write = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)

    def fileno(self) -> int:
        return self._read

    @property
    def wakeup_fd(self) -> int:
        """A byte written here wakes the loop (for `signal.set_wakeup_fd`)."""
        return self._write

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


class _Door:
    """A thread that works off asks in order. `None` ends it."""

    def __init__(self, name: str, inbox: Inbox, on_bug: Callable[[BaseException], None]) -> None:
        self._inbox = inbox
        self._asks: queue.SimpleQueue[Action | None] = queue.SimpleQueue()
        self._leaving = threading.Event()
        self._on_bug = on_bug
        self._thread = threading.Thread(target=self._main, name=name, daemon=True)

    def start(self) -> None:
        self._thread.start()

    def ask(self, action: Action) -> None:
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


class Heartbeat(_Door):
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


class QueueDoor(_Door):
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
        """Where the database has no second connection to spare: a run that is not renewed is taken for dead. What it
        is ordered is for the heartbeat to hear, which would tell it again."""
        if time.monotonic() - self._heartbeat.renewed_at > self._limits.silent_s / 2:
            self._persist(self._renew)

    def _renew(self) -> None:
        self._queue.renew(self._run)
        self._heartbeat.renewed_at = time.monotonic()

    def _answer(self, ask: Action) -> None:
        match ask:
            case AskLease(tasks_max, cpus_max):
                grant = self._queue.lease(self._run, tasks_max, self._limits.block_bytes_max, cpus_max)
                self._post(Granted(grant))
            case AskRecord(batch):
                self._post(Recorded(batch, self._queue.record(self._run, batch)))
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


class FileDoor(_Door):
    """The only writer of the run file. Everything that waits is appended, then flushed and fsynced once."""

    def __init__(self, limits: Limits, inbox: Inbox, on_bug: Callable[[BaseException], None]) -> None:
        super().__init__("run-file", inbox, on_bug)
        self._limits = limits
        self._writer: Writer | None = None

    def _work(self) -> None:
        while True:
            asks = [self._asks.get()]
            while not self._asks.empty():
                asks.append(self._asks.get())
            appends = [ask for ask in asks if isinstance(ask, Append)]
            for ask in asks:
                if isinstance(ask, OpenRunFile):
                    self._open(ask)
            if appends and self._writer is not None:
                self._store(appends, self._writer)
            if None in asks or any(isinstance(ask, CloseRunFile) for ask in asks):
                self._close()
                if None in asks:
                    return

    def _open(self, ask: OpenRunFile) -> None:
        from mpifarm.output.writer import Writer  # h5py: on the recorder's rank only

        order = ask.order
        try:
            path = _unused(Path(order.path))
            self._writer = Writer(path, order.attributes, order.nodes)
        except OutputError as error:
            self._inbox.post(Role.RECORDER, FileTrouble(str(error), fatal=True))
            return
        self._inbox.post(Role.RECORDER, FileOpened(str(path)))

    def _store(self, appends: list[Append], writer: Writer) -> None:
        stored: list[Stored] = []
        for ask in appends:
            output = ask.output
            appended = self._persist(partial(writer.append, output))
            if appended is None:
                return
            stored.append(
                Stored(output.rank, appended.rows, appended.first_row, output.size, writer.extents, output.tails)
            )

        def synced() -> bool:
            writer.sync()
            return True

        if self._persist(synced):
            for event in stored:
                self._inbox.post(Role.RECORDER, event)

    def _persist(self, step: Callable[[], _T]) -> _T | None:
        """Do one step; while the file cannot be written, tell why once and try again. None: given up, for the file
        is broken or the run leaves."""
        told = ""
        while True:
            try:
                return step()
            except OutputError as error:
                broken = self._writer is None or self._writer.broken
                if str(error) != told or broken:
                    told = str(error)
                    self._inbox.post(Role.RECORDER, FileTrouble(told, fatal=bool(broken)))
                if broken or self._leaving.is_set():
                    return None
                self._pause(1.0)

    def _close(self) -> None:
        if self._writer is not None:
            writer, self._writer = self._writer, None
            try:
                writer.close()
            except OutputError as error:
                self._inbox.post(Role.RECORDER, FileTrouble(str(error), fatal=False))
        self._inbox.post(Role.RECORDER, FileClosed())


def _unused(path: Path) -> Path:
    """`path`, or with -2, -3 ... before the suffix: two queues may count their runs into one directory."""
    candidate, number = path, 1
    while candidate.exists():
        number += 1
        candidate = path.with_name(f"{path.stem}-{number}{path.suffix}")
    return candidate
