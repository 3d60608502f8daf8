"""The node leader: asks for work in time and passes it to its launcher; what comes back goes to `gathering`.

It sits between the dispatcher and the launcher of its node. The launcher starts and packs; the leader keeps the
launcher's queue just long enough (`Limits.backlog_s` of the node's own pace) that no core waits for a message and
little is hoarded. Outputs and outcomes go to the recorder: see `mpifarm.core.leader.gathering`.
"""

from __future__ import annotations

from collections import Counter
from math import inf

from mpifarm.core.leader.gathering import Gathering
from mpifarm.core.leader.hand import Hand
from mpifarm.core.model import Limits, NodeShape, State
from mpifarm.core.pacing import Pace
from mpifarm.core.protocol.actions import Action, LauncherGone, Packed, Send, Tick, ToLauncher
from mpifarm.core.protocol.messages import (
    Cancel,
    Closed,
    Deal,
    Drain,
    Ended,
    LauncherLog,
    LauncherLost,
    Note,
    NotStarted,
    Pieces,
    Setup,
    Start,
    Stop,
    StopAsked,
    Stopped,
    Unstarted,
    Want,
    Written,
)
from mpifarm.core.roles import DISPATCHER
from mpifarm.core.row import glances

LeaderEvent = (
    Deal | Stop | Cancel | Written | Ended | Pieces | Closed | Packed | NotStarted | Stopped | LauncherLog
    | LauncherGone | Tick
)  # fmt: skip

_FAILED = int(State.FAILED)
_FAILURE_S = 0.1
"""A quick failure is no sign of pace: a node that fails everything at once must not hoard what others could do."""


class Leader:
    """Pure: `handle(event, now)` returns actions. One per node."""

    def __init__(self, rank: int, node: NodeShape, number: int, recorder: int, limits: Limits) -> None:
        self._rank = rank
        self._node = node
        self._number = number
        self._limits = limits
        self._pace = Pace()
        self._received = 0  # cpus dealt to this node, ever
        self._busy = 0  # cpus of attempts dealt and not ended
        self._attempts = 0
        self._wide: Counter[int] = Counter()
        """Of these, those that need more than one core, by how many."""
        self._ended = 0  # attempts, ever
        self._asked_at = float("-inf")
        self._asked_for = 0
        self._stopping = False
        self._lost = False
        self._recorder = recorder
        self._gathering = Gathering(rank, limits)
        self._hand = Hand()

    def start(self, now: float, must_end_by: float = inf) -> list[Action]:
        """What to do before the first event. must_end_by: Unix seconds, for tasks whose time limit is known."""
        node = self._node
        setup = Setup(
            node.name,
            self._number,
            node.cpus,
            node.slots,
            must_end_by,
            node.room,
            node.gpus,
            node.gpu_variable,
            node.pin,
        )
        return [ToLauncher(setup), *self._ask(now)]

    @property
    def idle(self) -> bool:
        """Nothing dealt to this node is unfinished and nothing waits to be sent."""
        return not self._attempts and self._gathering.empty

    def handle(self, event: LeaderEvent, now: float) -> list[Action]:
        actions: list[Action] = []
        match event:
            case Ended():
                self._end(event)
            case Pieces(extents):
                self._gathering.add_pieces(extents)
            case Closed():
                self._gathering.close()
            case Packed(output):
                actions.append(Send(self._recorder, output))
            case Deal():
                actions += self._receive(event)
            case Written():
                actions += self._gathering.written(event)
            case Stop(grace_s):
                self._stopping = True
                actions.append(ToLauncher(Drain(grace_s)))
            case Cancel():
                actions.append(ToLauncher(event))
            case NotStarted(spans, cpus):
                self._attempts -= sum(span.hi - span.lo for span in spans)
                self._busy -= cpus
                if self._wide:
                    for span in spans:
                        self._leave(self._hand.width_of(span.lease), span.hi - span.lo)
                self._hand.give_back(spans)
                actions.append(Send(DISPATCHER, Unstarted(self._rank, spans)))
            case Stopped(signal):
                actions.append(Send(DISPATCHER, StopAsked(signal, self._rank, launcher=True)))
            case LauncherLog(text):
                actions.append(Send(DISPATCHER, Note(self._rank, f"{self._node.name}: {text}")))
            case LauncherGone(reason, begun):
                self._lost = True
                self._gathering.close()
                if event.count - self._ended <= len(event.recent):  # else it may have begun what nobody knows of
                    actions.append(Send(DISPATCHER, Unstarted(self._rank, self._hand.unbegun(event.recent))))
                actions.append(Send(DISPATCHER, LauncherLost(self._rank, reason, begun)))
            case Tick():
                pass
        return actions + self._gathering.send(now, last=self._attempts == 0) + self._ask(now)

    def _receive(self, deal: Deal) -> list[Action]:
        cpus = sum(block.needs.cpus * len(block.tasks) for block in deal.blocks)
        self._received += cpus
        self._busy += cpus
        self._attempts += sum(len(block.tasks) for block in deal.blocks)
        for block in deal.blocks:
            if block.needs.cpus > 1:
                self._wide[block.needs.cpus] += len(block.tasks)
        self._asked_for = 0
        self._hand.take(deal.blocks)
        return [ToLauncher(Start(deal.jobs, deal.blocks))]

    def _end(self, ended: Ended) -> None:
        rows = list(glances(ended.rows))
        for row in rows:
            self._busy -= row.cpus
            self._hand.end(row.lease, row.task)
            if row.cpus > 1:
                self._leave(row.cpus, 1)
            seconds = row.ended - row.started
            self._pace.add(seconds if row.state != _FAILED else max(seconds, _FAILURE_S))
        self._attempts -= len(rows)
        self._ended += len(rows)
        self._gathering.end(ended, rows)

    def _leave(self, cpus: int, tasks: int) -> None:
        """So many tasks of that width are in hand no more."""
        if cpus > 1:
            self._wide[cpus] -= tasks
            if self._wide[cpus] <= 0:
                del self._wide[cpus]

    @property
    def _gap(self) -> int:
        """Cores that may idle while a wide task waits for them: so much that is narrower must be in hand, to pass it.
        The launcher lets so many pass and no more (`core.launcher.launching.PASSES_PER_SLOT`)."""
        if not self._wide or self._busy <= self._node.slots:
            return 0  # all that is in hand can run at once
        widest = max(self._wide)
        return widest if self._wide[widest] < self._attempts else 0

    def _ask(self, now: float) -> list[Action]:
        """Ask when half of what should lie ahead of the slots is used up; say "alive" now and then anyway."""
        if self._lost:
            return []
        ahead = self._pace.cpus_ahead(self._node.slots, self._limits.backlog_s)
        cpus = 0 if self._stopping else self._node.slots + max(ahead, self._gap) - self._busy
        due = cpus > ahead // 2 and cpus > self._asked_for
        if not due and now - self._asked_at < self._limits.leader_beat_s:
            return []
        self._asked_at = now
        self._asked_for = max(cpus, 0)
        return [Send(DISPATCHER, Want(self._rank, max(cpus, 0), self._received))]
