"""THE loop of a rank: gather events, let the roles it carries decide, perform their actions, rest when idle.

    events   messages of other ranks, of roles on this rank, of the doors' threads, of the launcher; signals; time
    roles    pure machines: handle(event, now) -> [action]
    actions  performed by one `match` in `_perform`

An idle rank sleeps in epoll and not in MPI: doors, launcher and signals wake it at once; for messages it looks
every few milliseconds, less and less often while nothing comes, since the cores belong to the tasks.
"""

from __future__ import annotations

import select
import signal
import time
from collections import deque
from types import FrameType
from typing import Any, Protocol

from mpifarm.core.launcher.verdict import STOP_SIGNALS
from mpifarm.core.protocol.actions import (
    Action,
    Append,
    AppendEvent,
    AskClose,
    AskExpire,
    AskLease,
    AskName,
    AskRecord,
    CloseRunFile,
    Finished,
    HoldLauncher,
    LauncherGone,
    OpenRunFile,
    Pack,
    Say,
    Send,
    Tick,
    ToLauncher,
)
from mpifarm.core.protocol.messages import Event, Exit, Message, Role, StopAsked
from mpifarm.core.roles import DISPATCHER
from mpifarm.launch.launcher import Launcher
from mpifarm.launch.stop_watch import StopSignals
from mpifarm.rank.comm import World
from mpifarm.rank.file_door import FileDoor
from mpifarm.rank.pack_door import PackDoor
from mpifarm.rank.queue_door import Inbox, QueueDoor

TICK_S = 0.05
REST_S = (50e-6, 10e-3)
"""First and longest rest of a rank with a role, while nothing happens."""
SENDING_REST_S = (200e-6, 1e-3)
"""The same while messages are on their way: MPI moves them only when it is called."""
FOLLOWER_REST_S = 0.1
"""A rank without a role waits for one message, the last."""


class Machine(Protocol):
    def handle(self, event: Any, now: float) -> list[Action]: ...


class Listener(Protocol):
    """The person watching, or nobody."""

    def say(self, text: str) -> None: ...

    def tick(self) -> None: ...


class Silent:
    """Ranks other than 0 have nobody to talk to."""

    def say(self, text: str) -> None:
        pass

    def tick(self) -> None:
        pass


class Loop:
    """Drives the roles of one rank until rank 0 says it is over."""

    def __init__(
        self,
        world: World,
        inbox: Inbox,
        launcher: Launcher | None,
        queue_door: QueueDoor | None,
        pack_door: PackDoor | None,
        file_door: FileDoor | None,
        listener: Listener,
    ) -> None:
        self._world = world
        self._inbox = inbox
        self._launcher = launcher
        self._queue_door = queue_door
        self._pack_door = pack_door
        self._file_door = file_door
        self._listener = listener
        self._roles: dict[Role, Machine] = {}
        self._events: deque[tuple[Role, Any]] = deque()
        self._signals: deque[int] = deque()
        self._stops: StopSignals | None = None
        self._held = False
        self._over = False
        self._rest = REST_S[0]
        self._tick_at = 0.0
        self.log_to: int | None = None
        """The rank of the recorder: what is said here goes into the run's log too."""
        self.finished: Finished | None = None
        """On rank 0, after the run: how it ended."""
        self._epoll = select.epoll()
        self._epoll.register(inbox.fileno(), select.EPOLLIN)
        if launcher is not None:
            self._epoll.register(launcher.fileno(), select.EPOLLIN)
        for number in STOP_SIGNALS:
            signal.signal(number, self._on_signal)

    def listen(self, stops: StopSignals) -> None:
        """Signals wake the loop, and the guardian sees whether they did."""
        self._stops = stops
        self._epoll.register(stops.fileno(), select.EPOLLIN)
        signal.set_wakeup_fd(stops.wakeup_fd, warn_on_full_buffer=False)

    def carry(self, role: Role, machine: Machine) -> None:
        self._roles[role] = machine

    def perform(self, actions: list[Action]) -> None:
        for action in actions:
            self._perform(action)

    def run(self) -> None:
        """Until the run is over."""
        busy = True
        while not self._over:
            self._gather(self._wait(busy))
            now = time.time()
            busy = bool(self._events)
            while self._events:
                role, event = self._events.popleft()
                self.perform(self._roles[role].handle(event, now))
            if now >= self._tick_at:
                self._tick_at = now + TICK_S
                for machine in self._roles.values():
                    self.perform(machine.handle(Tick(), now))
                self._listener.tick()

    def _wait(self, busy: bool) -> list[int]:
        """The descriptors that have something; rests a while for them when there is nothing else to do."""
        if busy or self._events:
            self._rest, rest_s = REST_S[0], 0.0
        else:
            rest_s = self._rest
            if self._world.sending:
                rest_s = min(max(rest_s, SENDING_REST_S[0]), SENDING_REST_S[1])
            self._rest = min(2 * self._rest, REST_S[1] if self._roles else FOLLOWER_REST_S)
        return [fd for fd, _ in self._epoll.poll(rest_s)]

    def _gather(self, ready: list[int]) -> None:
        for message in self._world.poll(bulk=self._file_door is not None and self._file_door.hungry):
            self._deliver(message)
        if self._inbox.fileno() in ready:
            self._events.extend(self._inbox.take())
        if self._stops is not None and self._stops.fileno() in ready:
            self._stops.take()
        while self._signals:
            self._perform(Send(DISPATCHER, StopAsked(self._signals.popleft(), self._world.rank)))
        if self._launcher is None or self._held:
            return
        self._launcher.flush()
        if self._launcher.fileno() in ready:
            for said in self._launcher.poll():
                self._events.append((Role.LEADER, said))
            if not self._launcher.alive:
                self._epoll.unregister(self._launcher.fileno())
                marks = self._launcher.arena.begun
                gone = LauncherGone("see the messages above", marks.all(), *marks.recent())
                self._launcher = None
                self._events.append((Role.LEADER, gone))

    def _deliver(self, message: Message) -> None:
        if isinstance(message, Exit):
            self._over = True
        else:
            assert message.TO in self._roles, f"rank {self._world.rank} has no {message.TO} for {message}"
            self._events.append((message.TO, message))

    def stop_soon(self) -> None:
        """As if SIGINT came, which did before this listened to it."""
        self._signals.append(signal.SIGINT)

    def _on_signal(self, number: int, _frame: FrameType | None) -> None:
        self._signals.append(number)

    def _perform(self, action: Action) -> None:
        match action:
            case Send(to, message):
                if to == self._world.rank:
                    self._deliver(message)
                else:
                    self._world.send(to, message)
            case ToLauncher(message):
                if self._launcher is not None:
                    self._launcher.send(message)
            case HoldLauncher(hold):
                self._hold(hold)
            case AskLease() | AskRecord() | AskName() | AskExpire() | AskClose():
                assert self._queue_door is not None
                self._queue_door.ask(action)
            case Pack():
                assert self._pack_door is not None
                self._pack_door.ask(action)
            case OpenRunFile() | Append() | AppendEvent() | CloseRunFile():
                assert self._file_door is not None
                self._file_door.ask(action)
            case Say(text):
                self._listener.say(text)
                if self.log_to is not None:
                    self._perform(Send(self.log_to, Event(time.time(), text)))
            case Finished():
                self.finished = action
                self._over = True

    def _hold(self, hold: bool) -> None:
        """Stop or go on listening to the launcher."""
        self._held = hold
        if self._launcher is None:
            return
        if hold:
            self._epoll.unregister(self._launcher.fileno())
        else:
            self._epoll.register(self._launcher.fileno(), select.EPOLLIN)
