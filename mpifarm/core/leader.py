"""The node leader: asks for work in time, gathers its node's output into whole chunks, reports what ended.

It sits between the dispatcher and the launcher of its node. The launcher starts and packs; the leader keeps the
launcher's queue just long enough (`Limits.backlog_s` of the node's own pace) that no core waits for a message and
little is hoarded. Output goes to the recorder in messages of whole chunks; when more than
`Limits.unwritten_bytes_max` is on its way the leader stops listening to its launcher, whose socket fills, which stops
reading the tasks' pipes: a flood slows its task and grows nobody's memory.
"""

from __future__ import annotations

from zlib import crc32

from mpifarm.core.actions import Action, HoldLauncher, LauncherGone, Send, Tick, ToLauncher
from mpifarm.core.chunks import ChunkPacker
from mpifarm.core.launching import EndedAttempt
from mpifarm.core.messages import (
    Deal,
    Drain,
    Ended,
    LauncherLog,
    LauncherLost,
    Note,
    NotStarted,
    Output,
    Pieces,
    Setup,
    Start,
    Stop,
    Unstarted,
    Want,
    Written,
)
from mpifarm.core.model import AttemptKey, LeaseId, Limits, NodeShape, State
from mpifarm.core.pacing import Pace
from mpifarm.core.roles import DISPATCHER
from mpifarm.core.row import ROW, STDERR, STDOUT

LeaderEvent = Deal | Stop | Written | Ended | Pieces | NotStarted | LauncherLog | LauncherGone | Tick


class _Stream:
    """Length and checksum so far of one stream of an attempt that still runs."""

    __slots__ = ("crc32", "length", "tail")

    def __init__(self) -> None:
        self.length = 0
        self.crc32 = 0
        self.tail = b""

    def add(self, piece: bytes, tail_bytes: int) -> None:
        self.length += len(piece)
        self.crc32 = crc32(piece, self.crc32)
        self.tail = (self.tail + piece)[-tail_bytes:] if len(piece) < tail_bytes else piece[-tail_bytes:]


class _Open:
    """An attempt whose first bytes arrived before its end."""

    __slots__ = ("extent_lo", "streams")

    def __init__(self, extent_lo: int) -> None:
        self.extent_lo = extent_lo
        self.streams = {STDOUT: _Stream(), STDERR: _Stream()}


class Leader:
    """Pure: `handle(event, now)` returns actions. One per node."""

    def __init__(self, rank: int, node: NodeShape, number: int, recorder: int, limits: Limits) -> None:
        self._rank = rank
        self._node = node
        self._number = number
        self._recorder = recorder
        self._limits = limits
        self._pace = Pace()
        self._received = 0  # cpus dealt to this node, ever
        self._busy = 0  # cpus of attempts dealt and not ended
        self._attempts = 0
        self._asked_at = float("-inf")
        self._asked_for = 0
        self._stopping = False
        self._lost = False
        self._packer = ChunkPacker(limits.chunk_bytes)
        self._rows: list[bytes] = []
        self._tails: dict[tuple[LeaseId, int], bytes] = {}
        self._log: list[tuple[float, str]] = []
        self._open: dict[AttemptKey, _Open] = {}
        self._extents_known = 0  # rows of `extents` in the file at least
        self._unwritten = 0
        self._held = False
        self._sent_at = 0.0

    def start(self, now: float) -> list[Action]:
        """What to do before the first event."""
        setup = Setup(self._node.name, self._number, self._node.cpus, self._node.slots)
        return [ToLauncher(setup), *self._ask(now)]

    @property
    def idle(self) -> bool:
        """Nothing dealt to this node is unfinished and nothing waits to be sent."""
        return not (self._attempts or self._rows or self._packer.size)

    def handle(self, event: LeaderEvent, now: float) -> list[Action]:
        actions: list[Action] = []
        match event:
            case Ended(attempts):
                for attempt in attempts:
                    self._end(EndedAttempt._make(attempt))
            case Pieces(pieces):
                for key, stream, piece in pieces:
                    self._add_piece(AttemptKey(LeaseId(key[0]), key[1], key[2]), stream, piece)
            case Deal():
                actions += self._receive(event)
            case Written(size, extents):
                self._unwritten -= size
                self._extents_known = extents
                assert self._unwritten >= 0
            case Stop(grace_s):
                self._stopping = True
                actions.append(ToLauncher(Drain(grace_s)))
            case NotStarted(spans):
                self._attempts -= sum(span.hi - span.lo for span in spans)
                actions.append(Send(DISPATCHER, Unstarted(self._rank, spans)))
            case LauncherLog(text):
                self._log.append((now, text))
                actions.append(Send(DISPATCHER, Note(self._rank, f"{self._node.name}: {text}")))
            case LauncherGone(reason):
                self._lost = True
                actions.append(Send(DISPATCHER, LauncherLost(self._rank, reason)))
            case Tick():
                pass
        return actions + self._ship(now) + self._hold() + self._ask(now)

    # --- work ------------------------------------------------------------------------------------------------

    def _receive(self, deal: Deal) -> list[Action]:
        cpus = sum(block.shape.cpus * len(block.tasks) for block in deal.blocks)
        self._received += cpus
        self._busy += cpus
        self._attempts += sum(len(block.tasks) for block in deal.blocks)
        self._asked_for = 0
        return [ToLauncher(Start(deal.jobs, deal.blocks))]

    def _ask(self, now: float) -> list[Action]:
        """Ask when half of what should lie ahead of the slots is used up; say "alive" now and then anyway."""
        if self._lost:
            return []
        ahead = self._pace.cpus_ahead(self._node.slots, self._limits.backlog_s)
        cpus = 0 if self._stopping else self._node.slots + ahead - self._busy
        due = cpus > ahead // 2 and cpus > self._asked_for
        if not due and now - self._asked_at < self._limits.leader_beat_s:
            return []
        self._asked_at = now
        self._asked_for = max(cpus, 0)
        return [Send(DISPATCHER, Want(self._rank, max(cpus, 0), self._received))]

    # --- output ----------------------------------------------------------------------------------------------

    def _add_piece(self, key: AttemptKey, stream: int, piece: bytes) -> None:
        attempt = self._open.get(key)
        if attempt is None:
            attempt = self._open[key] = _Open(self._packer.extent_count)
        attempt.streams[stream].add(piece, self._limits.stderr_tail_bytes)
        self._packer.add(key, stream, piece)

    def _end(self, a: EndedAttempt) -> None:
        self._busy -= a.cpus
        self._attempts -= 1
        self._pace.add(a.ended - a.started)
        if self._open:
            key = AttemptKey(LeaseId(a.lease), a.task, a.attempt)
            if key in self._open:
                self._end_open(key, a)
                return
        packer = self._packer
        lo = packer.extent_count
        out, err = a.stdout, a.stderr
        if out:
            packer.add(AttemptKey(LeaseId(a.lease), a.task, a.attempt), STDOUT, out)
        if err:
            packer.add(AttemptKey(LeaseId(a.lease), a.task, a.attempt), STDERR, err)
        self._add_row(a, len(out), len(err), crc32(out), crc32(err), lo)
        if err and a.state == State.FAILED:
            self._tails[LeaseId(a.lease), a.task] = err[-self._limits.stderr_tail_bytes :]

    def _end_open(self, key: AttemptKey, a: EndedAttempt) -> None:
        if a.stdout:
            self._add_piece(key, STDOUT, a.stdout)
        if a.stderr:
            self._add_piece(key, STDERR, a.stderr)
        attempt = self._open.pop(key)
        out, err = attempt.streams[STDOUT], attempt.streams[STDERR]
        self._add_row(a, out.length, err.length, out.crc32, err.crc32, attempt.extent_lo)
        if err.tail and a.state == State.FAILED:
            self._tails[key.lease, key.task] = err.tail

    def _add_row(
        self, a: EndedAttempt, out_bytes: int, err_bytes: int, out_crc: int, err_crc: int, extent_lo: int
    ) -> None:
        self._rows.append(
            ROW.pack(
                a.lease, a.job, a.task, a.attempt, a.state, a.failure, a.exit_code, a.signal, self._number, a.slot,
                a.cpus, a.started, a.ended, a.user_s, a.system_s, a.max_rss_kib, a.read_bytes, a.write_bytes,
                out_bytes, err_bytes, out_crc, err_crc, extent_lo, self._packer.extent_count,
            )
        )  # fmt: skip

    def _ship(self, now: float) -> list[Action]:
        """Send what was gathered when it is much, old, or the last there is."""
        if not (self._rows or self._packer.size or self._log):
            return []
        full = self._packer.size >= self._limits.message_bytes_max
        old = now - self._sent_at >= self._limits.output_every_s
        if not (full or old or self._attempts == 0):
            return []
        extents, chunks, _ = self._packer.take()
        for attempt in self._open.values():
            if attempt.extent_lo >= 0:  # its first bytes are in this message: at least this far into the file
                attempt.extent_lo = -(self._extents_known + 1)
        output = Output(self._rank, b"".join(self._rows), extents, chunks, self._tails, tuple(self._log))
        self._rows, self._tails, self._log = [], {}, []
        self._sent_at = now
        self._unwritten += output.size
        return [Send(self._recorder, output)]

    def _hold(self) -> list[Action]:
        hold = self._unwritten > self._limits.unwritten_bytes_max
        if hold == self._held:
            return []
        self._held = hold
        return [HoldLauncher(hold)]
