"""The dispatcher: leases blocks from the queue ahead of need, deals them to node leaders, records what is durable.

Its cost grows with blocks and messages, not with ranks or tasks started. It never waits: what it needs from the queue
it asks for with an action, and the answer comes back as an event. A run goes through five phases:

    OPENING   run and file are being made            -> WORKING when both are there
    WORKING   lease, deal, record                    -> DRAINING on a signal, CLOSING when the queue is dry
    DRAINING  nothing starts; running tasks get their grace, the rest goes back -> CLOSING when all is resolved
    CLOSING   last record, close the run, then the file -> DONE
    DONE
"""

from __future__ import annotations

from collections.abc import Sequence
from enum import Enum

from mpifarm.core.actions import (
    Action,
    AskClose,
    AskExpire,
    AskLease,
    AskName,
    AskRecord,
    Expired,
    Finished,
    Granted,
    QueueTrouble,
    Recorded,
    RunClosed,
    RunOpened,
    Say,
    Send,
    Tick,
)
from mpifarm.core.dealer import Dealer
from mpifarm.core.ledger import Ledger
from mpifarm.core.messages import (
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
from mpifarm.core.model import Block, LeaseId, Limits, Span, State
from mpifarm.core.pacing import Rate, lease_tasks
from mpifarm.core.verbs import Grant

DispatcherEvent = (
    Want | Unstarted | Note | LauncherLost | Durable | RecorderAlive | FileOpened | FileClosed | FileTrouble | StopAsked
    | RunOpened | Granted | Recorded | Expired | RunClosed | QueueTrouble | Tick
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
        self, slots: Sequence[tuple[int, int]], recorder: int, grace_s: float, limits: Limits, now: float
    ) -> None:
        """slots: (rank, slots) of every leader."""
        self._dealer = Dealer(slots, now)
        self._recorder = recorder
        self._grace_s = grace_s
        self._limits = limits
        self.ledger = Ledger()
        self.phase = Phase.OPENING
        self.stopped_early = False
        self.nodes_lost = 0
        self.file_path = ""
        self._run_open = self._file_open = False
        self._rate = Rate(now)
        self._leasing = self._recording = self._expiring = False
        self._dry: Grant | None = None  # the last answer, when it brought nothing
        self._polled_at = self._expired_at = self._recorded_at = now
        self._believed = 0
        self._ready_left = 0
        self._signal_at = self._watch_at = self._recorder_heard_at = now
        self._file_lost = self._file_stuck = False
        self._drain_until = float("inf")
        self._queue_down_s = 0.0
        self._queue_down = ""
        self._error = ("", 0)

    def handle(self, event: DispatcherEvent, now: float) -> list[Action]:
        if self.phase is Phase.DONE:
            return []
        actions = self._take_in(event, now)
        self._watch(now, actions)
        if self.phase is Phase.WORKING:
            if not self._file_stuck:  # what cannot be written must not be started
                self._deal(actions)
            self._lease(now, actions)
        if self.phase in (Phase.WORKING, Phase.DRAINING):
            self._end_if_over(actions)
        if self.phase is not Phase.OPENING:
            self._record(now, actions)
        return actions

    @property
    def progress(self) -> tuple[int, int]:
        """(tasks ended in this run, tasks it knows of)."""
        done = self.ledger.ended.total() - self.ledger.ended[State.RETURNED]
        return done, done + self.ledger.tasks_out + self._dealer.stock.tasks + self._ready_left

    # --- events ----------------------------------------------------------------------------------------------

    def _take_in(self, event: DispatcherEvent, now: float) -> list[Action]:
        actions: list[Action] = []
        match event:
            case Want(rank):
                if self._dealer.hear(rank, now):
                    self._dealer.want(event)
            case RecorderAlive():
                self._recorder_heard_at = now
            case Durable(rank):
                self._dealer.hear(rank, now)
                self._believed += self.ledger.end(event)
                self._file_stuck = False
            case Unstarted(rank, spans):
                if self._dealer.hear(rank, now):
                    for span in spans:
                        self.ledger.unstarted(span)
            case Granted(grant):
                self._grant(grant, now)
            case Recorded(batch, refused):
                self._recording = False
                self._queue_down_s = 0.0
                if batch.returned:
                    self._dry = None  # there is something to claim again
                for lease in refused:
                    self._refuse(lease, actions)
            case Expired(tasks):
                self._expiring = False
                if tasks:
                    self._dry = None
                    actions.append(Say(f"took back {tasks:,} tasks of runs that died"))
            case RunOpened(_, file):
                self._run_open = True
                actions.append(Send(self._recorder, file))
            case FileOpened(path):
                self._file_open = True
                self.file_path = path
                actions.append(AskName(path))
            case Note(_, text):
                actions.append(Say(text))
            case LauncherLost(rank, reason):
                self._lose(rank, f"its launcher ended ({reason})", actions)
            case StopAsked():
                self._stop_asked(event, now, actions)
            case QueueTrouble(reason, since_s, fatal):
                self._trouble(reason, since_s, fatal, actions)
            case FileTrouble(reason, fatal):
                self._file_stuck = True
                actions.append(Say(reason))
                if fatal:
                    self._lose_file(reason, 5, actions)
            case RunClosed() if self._file_lost:
                self._finish(actions)
            case RunClosed():
                actions.append(Send(self._recorder, CloseFile()))
            case FileClosed():
                self._finish(actions)
            case Tick():
                pass
        if self.phase is Phase.OPENING and self._run_open and self._file_open:
            self.phase = Phase.WORKING
            self._expiring = True
            actions.append(AskExpire())
        return actions

    def _grant(self, grant: Grant, now: float) -> None:
        self._leasing = False
        self._polled_at = now
        self._queue_down_s = 0.0
        self._ready_left = grant.ready_left
        self._dry = None if grant.blocks else grant
        self._dealer.learn(grant.jobs)
        for block in grant.blocks:
            self.ledger.lease(block)
            if self.phase is Phase.WORKING:
                self._dealer.stock.add(block)
            else:
                self._put_back([block])

    def _refuse(self, lease: LeaseId, actions: list[Action]) -> None:
        self._dealer.stock.drop(lease)
        self.ledger.refuse(lease)
        actions.append(Say(f"lease {lease} was taken back by the queue; its late outcomes are dropped"))

    # --- leaders ---------------------------------------------------------------------------------------------

    def _watch(self, now: float, actions: list[Action]) -> None:
        """Leaders that fell silent, and a drain that a leader does not answer."""
        if now < self._watch_at:
            return
        asleep_s = now - self._watch_at
        self._watch_at = now + 1.0  # a look at every leader: not with every event
        if asleep_s > self._limits.leader_beat_s:  # we were frozen, and deaf: the silence may be ours
            self._dealer.forgive(asleep_s)
            self._recorder_heard_at += asleep_s
        silent_s = now - self._recorder_heard_at
        if silent_s > self._limits.leader_lost_s and not self._file_lost:
            self.nodes_lost += 1
            reason = f"rank {self._recorder}, which writes the run file, is silent for {silent_s:.0f} s"
            self._lose_file(reason, 3, actions)
        for rank, seconds in self._dealer.silent(now, self._limits.leader_lost_s):
            self._lose(rank, f"silent for {seconds:.0f} s", actions)
        if now > self._drain_until:
            for rank in self._dealer.ranks:
                if self.ledger.holds(rank):
                    self._lose(rank, "did not end its tasks in time", actions)

    def _lose(self, rank: int, reason: str, actions: list[Action]) -> None:
        too_wide = self._dealer.lose(rank)
        if too_wide is None:
            return
        self._put_back(too_wide)
        self.nodes_lost += 1
        tasks = self.ledger.lose(rank)
        actions.append(Say(f"node of rank {rank} is lost: {reason}; {tasks:,} tasks go back to the queue"))
        if not self._dealer.ranks and self.phase in (Phase.OPENING, Phase.WORKING):
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

    def _deal(self, actions: list[Action]) -> None:
        for rank, deal in self._dealer.deal():
            for block in deal.blocks:
                self.ledger.deal(rank, block)
            actions.append(Send(rank, deal))

    # --- queue -----------------------------------------------------------------------------------------------

    def _lease(self, now: float, actions: list[Action]) -> None:
        if not self._expiring and now - self._expired_at > self._limits.lease_s / 4:
            self._expiring = True
            self._expired_at = now
            actions.append(AskExpire())
        if self._leasing or (self._dry is not None and now - self._polled_at < self._limits.idle_poll_s):
            return
        tasks = lease_tasks(
            slots=self._dealer.slots,
            per_s=self._rate.per_s,
            stock=self._dealer.stock.tasks,
            unmet=self._dealer.unmet,
            horizon_s=self._limits.stock_s,
            tasks_max=self._limits.block_tasks_max,
        )
        if tasks:
            self._leasing = True
            actions.append(AskLease(tasks, self._dealer.cpus_max))

    def _record(self, now: float, actions: list[Action]) -> None:
        """One record under way at a time; small ones wait a moment for company, unless nothing else is left."""
        if self._believed:
            self._rate.add(self._believed, now)
            self._believed = 0
        waiting = self.ledger.unrecorded
        if self._recording or not waiting:
            return
        due = now - self._recorded_at >= self._limits.record_every_s
        if due or waiting >= self._limits.record_tasks_max or not self.ledger.leases:
            self._recording = True
            self._recorded_at = now
            actions.append(AskRecord(self.ledger.take()))

    def _trouble(self, reason: str, since_s: float, fatal: bool, actions: list[Action]) -> None:
        if not self._queue_down_s:
            actions.append(Say(f"queue: {reason}; running tasks go on, their outcomes are kept"))
        self._queue_down_s = max(since_s, 1e-9)
        idle = not self.ledger.tasks_out and not self._dealer.stock
        if fatal or (idle and since_s > self._limits.queue_timeout_s):
            self._error = (reason, 4)
            self._finish(actions)

    # --- the end ---------------------------------------------------------------------------------------------

    def _stop_asked(self, asked: StopAsked, now: float, actions: list[Action]) -> None:
        """First signal: drain with grace. A later one at this rank: at once. Launchers pass one signal on to every
        rank, and a terminal sends it to the whole group besides, so signals within a second are one."""
        if self.phase in (Phase.OPENING, Phase.WORKING):
            self._signal_at = now
            self._drain(self._grace_s, now, actions)
        elif self.phase is Phase.DRAINING and asked.rank == 0 and now - self._signal_at > 1.0:
            self._drain(0.0, now, actions)

    def _drain(self, grace_s: float, now: float, actions: list[Action]) -> None:
        self.stopped_early = True
        self.phase = Phase.DRAINING
        self._drain_until = now + grace_s + self._limits.term_to_kill_s + self._limits.drain_answer_s
        self._put_back(self._dealer.stock.take_wider(0))
        running = self.ledger.tasks_out
        actions.append(Say(f"stopping: nothing new starts; {running:,} dealt tasks have {grace_s:g} s to end"))
        actions.extend(Send(rank, Stop(grace_s)) for rank in self._dealer.ranks)

    def _put_back(self, blocks: list[Block]) -> None:
        for block in blocks:
            self.ledger.put_back(_span(block))

    def _end_if_over(self, actions: list[Action]) -> None:
        busy = self._dealer.stock or self.ledger.leases or self.ledger.unrecorded or self._recording or self._leasing
        if busy or self._expiring:
            return
        if self.phase is Phase.WORKING:
            if self._dry is None or self._dry.ready_left or self._dry.silent:
                return
            if self._dry.too_wide:
                widest = self._dealer.cpus_max
                left = f"{self._dry.too_wide:,} tasks stay in the queue: they need more than the {widest} cores"
                actions.append(Say(f"{left} a node of this run offers"))
        self.phase = Phase.CLOSING
        actions.append(AskClose())

    def _finish(self, actions: list[Action]) -> None:
        self.phase = Phase.DONE
        actions.append(Finished(*self._error))


def _span(block: Block) -> Span:
    return Span(block.lease, block.job, block.lo, block.hi, block.attempt)
