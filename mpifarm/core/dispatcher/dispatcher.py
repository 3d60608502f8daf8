"""The dispatcher: leases blocks from the queue ahead of need, deals them to node leaders, records what is durable.

Its cost grows with blocks and messages, not with ranks or tasks started. It never waits: what it needs from the queue
it asks for with an action, and the answer comes back as an event. A run goes through five phases:

    OPENING   run and file are being made            -> WORKING when both are there
    WORKING   lease, deal, record                    -> DRAINING on a signal, an order, or near the end of the
                                                        allocation; CLOSING when nothing is left (`.ending`)
    DRAINING  nothing starts; running tasks get their grace, the rest goes back -> CLOSING when all is resolved
    CLOSING   last record, close the run, then the file -> DONE
    DONE
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from enum import Enum
from math import inf

from mpifarm.core.dispatcher.ending import Idleness, RunTerms, duration, left_behind
from mpifarm.core.dispatcher.inventory import Holding
from mpifarm.core.dispatcher.leasing import Leasing
from mpifarm.core.dispatcher.ledger import LeasedTask
from mpifarm.core.dispatcher.stopping import WORK_LEFT, Stopping
from mpifarm.core.model import Limits, State
from mpifarm.core.plural import counted
from mpifarm.core.protocol.actions import (
    Action,
    AskClose,
    AskExpire,
    AskLease,
    AskName,
    AskRecord,
    Expired,
    Finished,
    Granted,
    Ordered,
    QueueTrouble,
    Recorded,
    RunClosed,
    RunOpened,
    Say,
    Send,
    Tick,
)
from mpifarm.core.protocol.messages import (
    CloseFile,
    Durable,
    FileClosed,
    FileOpened,
    FileTrouble,
    LauncherLost,
    Note,
    RecorderAlive,
    Stop,
    StopAsked,
    Unstarted,
    Want,
)
from mpifarm.core.protocol.verbs import CancelTasks, Order

DispatcherEvent = (
    Want | Unstarted | Note | LauncherLost | Durable | RecorderAlive | FileOpened | FileClosed | FileTrouble | StopAsked
    | RunOpened | Granted | Recorded | Expired | Ordered | RunClosed | QueueTrouble | Tick
)  # fmt: skip


class Phase(Enum):
    OPENING = "opening"
    WORKING = "working"
    DRAINING = "draining"
    CLOSING = "closing"
    DONE = "done"


class Dispatcher:
    """Pure: `handle(event, now)` returns actions. Rank 0 carries it."""

    def __init__(
        self, slots: Sequence[tuple[int, int]], recorder: int, terms: RunTerms, limits: Limits, now: float
    ) -> None:
        """slots: (rank, slots) of every leader, by node number."""
        self._holding = Holding(slots, limits, now)
        self._dealer = self._holding.dealer
        self.ledger = self._holding.ledger
        self._leasing = Leasing(limits, now)
        self._idleness = Idleness(terms)
        self._recorder = recorder
        self._terms = terms
        self._limits = limits
        self.phase = Phase.OPENING
        self.nodes_lost, self.file_path = 0, ""
        self._run_open = self._file_open = self._recording = False
        self._recorded_at = now
        # Of a short walltime half is for work, however long the grace.
        self._drain_at = terms.must_end_by - min(terms.grace_s, (terms.must_end_by - now) / 2)
        self._stopping = Stopping(terms, limits, now)
        self._watch_at = self._watched_at = self._recorder_heard_at = now
        self._file_lost = self._file_stuck = False
        self._queue_down_s, self._error = 0.0, ("", 0)

    def handle(self, event: DispatcherEvent, now: float) -> list[Action]:
        if self.phase is Phase.DONE:
            return []
        actions: list[Action] = []
        self._take_in(event, now, actions)
        if now >= self._watch_at:
            self._watch(now, actions)
        if self.phase is Phase.WORKING:
            if self._dealer.unmet and self._holding.stock and not self._file_stuck:
                actions += self._holding.deal(now)  # what cannot be written must not be started
            self._lease(now, actions)
        if not (self._holding.stock or self.ledger.leases):
            self._end_if_over(now, actions)
        if not self._recording:
            self._record(now, actions)
        return actions

    @property
    def progress(self) -> tuple[int, int | None, str]:
        """(tasks ended in this run, all there are for it if that is known, what it does if not simply work)."""
        done = self.ledger.ended.total() - self.ledger.ended[State.RETURNED]
        note = "stopping" if self.phase is Phase.DRAINING else "waiting for work" if self._idleness.waiting else ""
        known = done + self.ledger.tasks_out + self._holding.stock + self._leasing.ready_left
        return done, None if self._leasing.more_left else known, note

    # --- events ----------------------------------------------------------------------------------------------

    def _take_in(self, event: DispatcherEvent, now: float, actions: list[Action]) -> None:
        match event:
            case Want(rank):
                if self._dealer.hear(rank, now):
                    self._dealer.want(event)
            case RecorderAlive():
                self._recorder_heard_at = now
            case Durable():
                self._leasing.ran(self.ledger.end(event), self.ledger.busy_s, now)
                self._file_stuck = False
                self._watch_at = min(self._watch_at, self._holding.look_at)
            case Unstarted(rank, spans):
                if self._dealer.hear(rank, now):
                    for span in spans:
                        self.ledger.unstarted(span)
            case Granted(grant):
                self._queue_down_s = 0.0
                self._leasing.granted(grant, now)
                if grant.blocks:
                    self._idleness.work()
                actions += self._holding.grant(grant, now, keep=self.phase is Phase.WORKING)
            case Recorded(batch, refused):
                self._recording, self._queue_down_s = False, 0.0
                if batch.outcomes or batch.returned:
                    self._leasing.stir()  # also tasks that waited for these
                for lease in refused:
                    self._holding.refuse(lease)
                    actions.append(Say(f"lease {lease} was taken back by the queue; its late outcomes are dropped"))
            case Expired(tasks):
                self._leasing.expiring = False
                if tasks:
                    self._leasing.stir()
                    actions.append(Say(f"took back {counted(tasks, 'task')} of runs that died"))
            case Ordered(orders):
                self._obey(orders, now, actions)
            case RunOpened(_, file):
                self._run_open = True
                self._holding.name_nodes(name for name, *_ in file.nodes)
                actions.append(Send(self._recorder, file))
                self._begin(actions)
            case FileOpened(path):
                if self._file_open:  # the one before broke
                    self._error = (f"run file {self.file_path} broke, the run went on in {path}: mpifarm verify", 5)
                self._file_open, self._file_stuck, self.file_path = True, False, path
                actions.append(AskName(path))
                self._begin(actions)
            case Note(_, text):
                actions.append(Say(text))
            case LauncherLost(rank, reason, begun):
                self._lose(rank, f"its launcher ended ({reason})", now, actions, begun)
            case StopAsked():
                if told := self._stopping.signalled(event, now):
                    self._drain(*told, now, actions)
            case QueueTrouble():
                self._trouble(event, now, actions)
            case FileTrouble(reason, fatal):
                self._file_stuck = True
                actions.append(Say(reason))
                if fatal:
                    self._lose_file(reason, 5, actions)
                elif self.phase is Phase.CLOSING:
                    self._error = (reason, 5)
            case RunClosed() if self._file_lost:
                self._finish(actions)
            case RunClosed():
                actions.append(Send(self._recorder, CloseFile()))
            case FileClosed():
                self._finish(actions)
            case Tick():
                pass

    def _begin(self, actions: list[Action]) -> None:
        if self.phase is Phase.OPENING and self._run_open and self._file_open:
            self.phase = Phase.WORKING
            self._leasing.expiring = True
            actions.append(AskExpire())

    # --- leaders ---------------------------------------------------------------------------------------------

    def _watch(self, now: float, actions: list[Action]) -> None:
        """Leaders that fell silent, and a drain that a leader does not answer."""
        if now >= self._drain_at and self._stopping.until == inf:
            left_s = max(0.0, self._terms.must_end_by - now)
            self._drain(min(self._terms.grace_s, left_s), "the time of this run is nearly over", now, actions)
        asleep_s = now - max(self._watch_at, self._watched_at)
        self._watched_at = now
        actions += self._holding.look(now)
        self._watch_at = min(now + 1.0, self._holding.look_at)
        if asleep_s > self._limits.leader_beat_s:  # we were frozen, and deaf: the silence may be ours
            self._dealer.forgive(asleep_s)
            self._recorder_heard_at += asleep_s
        silent_s = now - self._recorder_heard_at
        if silent_s > self._limits.leader_lost_s and not self._file_lost:
            self.nodes_lost += 1
            reason = f"rank {self._recorder}, which writes the run file, is silent for {silent_s:.0f} s"
            self._lose_file(reason, 3, actions)
        for rank, seconds in self._dealer.silent(now, self._limits.leader_lost_s):
            self._lose(rank, f"silent for {seconds:.0f} s", now, actions)
        actions += map(Say, self._stopping.overheard(now))
        if now > self._stopping.until:
            for rank in self.ledger.holders:
                self._lose(rank, "did not end its tasks in time", now, actions)
        if self.phase is Phase.WORKING and self._leasing.expire(now):
            actions.append(AskExpire())

    def _lose(
        self, rank: int, reason: str, now: float, actions: list[Action], begun: Collection[LeasedTask] | None = None
    ) -> None:
        """begun: what ran there; None: nobody can tell."""
        if not self._dealer.knows(rank):
            return
        self.nodes_lost += 1
        tasks = self._holding.lose(rank, begun, now)
        actions.append(Say(f"node of rank {rank} is lost: {reason}; it held {counted(tasks, 'task')}"))
        if self._dealer.empty and self.phase in (Phase.OPENING, Phase.WORKING):
            self._error = (f"no node is left: {reason}", 3)
            self.phase = Phase.DRAINING

    def _lose_file(self, reason: str, code: int, actions: list[Action]) -> None:
        """Nothing can be recorded any more: what is not goes back to the queue, and the run ends."""
        self._error = (reason, code)
        self._file_lost = True
        if self.phase is Phase.CLOSING:
            self._finish(actions)
            return
        self.phase = Phase.CLOSING
        actions.append(AskClose())

    # --- queue -----------------------------------------------------------------------------------------------

    def _lease(self, now: float, actions: list[Action]) -> None:
        dealer, stock, out, left_s = self._dealer, self._holding.stock, self.ledger.tasks_out, self._drain_at - now
        if self._leasing.needless(dealer.unmet, stock, now):
            return
        tasks = self._leasing.tasks(
            slots=dealer.slots, unmet=dealer.unmet, stock=stock, out=out, left_s=left_s, now=now
        )
        tasks = min(tasks, self._budget)
        if tasks > 0:
            self._leasing.asked(now)
            actions.append(AskLease(tasks, self._terms.room_of(self._dealer.cpus_max)))

    @property
    def _budget(self) -> int:
        """Tasks that may be leased yet."""
        if self._terms.tasks_max is None:
            return self._limits.block_tasks_max
        return self._terms.tasks_max - self.ledger.begun - self.ledger.tasks_out - self._holding.stock

    def _record(self, now: float, actions: list[Action]) -> None:
        """One record under way at a time; small ones wait a moment for company, unless nothing else is left."""
        waiting = self.ledger.unrecorded
        if not waiting or self.phase is Phase.OPENING:
            return
        due = now - self._recorded_at >= self._limits.record_every_s
        if due or waiting >= self._limits.record_tasks_max or not self.ledger.leases:
            self._recording = True
            self._recorded_at = now
            actions.append(AskRecord(self.ledger.take()))

    def _trouble(self, trouble: QueueTrouble, now: float, actions: list[Action]) -> None:
        if not self._queue_down_s:
            actions.append(Say(f"queue: {trouble.reason}; running tasks go on, their outcomes are kept"))
        self._queue_down_s = max(trouble.since_s, 1e-9)
        idle = not self.ledger.tasks_out and not self._holding.stock
        # Told to stop, it waits no longer than its grace and a little more.
        patient = trouble.since_s <= self._limits.queue_timeout_s and now <= self._stopping.until
        if trouble.fatal or (idle and not patient):
            self._error = (trouble.reason, 4)
            self._finish(actions)

    # --- the end ---------------------------------------------------------------------------------------------

    def _obey(self, orders: Iterable[Order], now: float, actions: list[Action]) -> None:
        for order in orders:
            if isinstance(order, CancelTasks):
                actions += self._holding.cancel(order, asking=self._leasing.asking)
            elif self._stopping.until == inf and (order.now or self.phase is not Phase.DRAINING):
                self._drain(self._terms.grace_s if order.now else inf, "stopping, as ordered", now, actions)

    def _drain(self, grace_s: float, why: str, now: float, actions: list[Action]) -> None:
        """grace_s: inf lets running tasks take their time. Again: only ever faster."""
        if self.phase in (Phase.CLOSING, Phase.DONE):
            return
        self.phase = Phase.DRAINING
        self._stopping.begin(grace_s, now, self.ledger)
        self._holding.give_back_stock()
        may = ["may end"] * 2 if grace_s == inf else [f"{has} {duration(grace_s)} to end" for has in ("has", "have")]
        dealt = counted(self.ledger.tasks_out, f"dealt task {may[0]}", f"dealt tasks {may[1]}")
        actions.append(Say(f"{why}: nothing new starts; {dealt}"))
        actions.extend(Send(rank, Stop(grace_s)) for rank in self._dealer.ranks)

    def _end_if_over(self, now: float, actions: list[Action]) -> None:
        """Nothing is held."""
        over = self.phase not in (Phase.WORKING, Phase.DRAINING)
        if over or self.ledger.unrecorded or self._recording or self._leasing.busy:
            return
        if self.phase is Phase.WORKING and self._budget > 0 and not self._leave_idle(now, actions):
            return
        self.phase = Phase.CLOSING
        if not self._error[1] and self._stopping.leaves_work(self.ledger, self._leasing.left):
            self._error = ("", WORK_LEFT)
            actions.append(Say(f"work is left in the queue for another run: exit code {WORK_LEFT}"))
        actions.append(AskClose())

    def _leave_idle(self, now: float, actions: list[Action]) -> bool:
        """Nothing is held. Whether there is nothing to wait for either."""
        dry = self._leasing.dry
        if dry is None or dry.ready_left or dry.silent:
            return False
        begins = self._idleness.begin(now)
        over = self._idleness.over(now)
        if begins:
            actions.append(Say(begins))
        if over:
            actions.extend(Say(line) for line in left_behind(dry, self._terms.room_of(self._dealer.cpus_max)))
        return over

    def _finish(self, actions: list[Action]) -> None:
        self.phase = Phase.DONE
        actions.append(Finished(*self._error))
