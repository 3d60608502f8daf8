"""The recorder: passes outputs to the run file's door and tells, once they are written, who waits for that.

The door (a thread of its own, so that a slow disk stalls nobody's messages) answers `Appended` when an output is in the
file, and the leader hears of its freed credit; and `Stored` only after flush and fsync: only then the dispatcher hears
of the outcomes. A file system that answers nothing at all is told to the dispatcher, so that nothing more is started.
"""

from __future__ import annotations

from mpifarm.core.model import Limits
from mpifarm.core.protocol.actions import (
    Action,
    Append,
    Appended,
    AppendEvent,
    CloseRunFile,
    OpenRunFile,
    Send,
    Stored,
    Tick,
)
from mpifarm.core.protocol.messages import (
    CloseFile,
    Durable,
    Event,
    FileClosed,
    FileOpened,
    FileTrouble,
    OpenFile,
    Output,
    RecorderAlive,
    Written,
)
from mpifarm.core.roles import DISPATCHER

RecorderEvent = (
    OpenFile | CloseFile | Event | Output | Appended | Stored | FileOpened | FileClosed | FileTrouble | Tick
)  # fmt: skip


class Recorder:
    """Pure: `handle(event, now)` returns actions."""

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self._beat_at = float("-inf")
        self._unstored = 0
        self._heard_at = 0.0
        """When the file's door last answered, or had nothing to do."""
        self._troubled = False
        self._close_by = float("inf")

    def handle(self, event: RecorderEvent, now: float) -> list[Action]:
        if now - self._beat_at < self._limits.leader_beat_s:
            return self._answer(event, now)
        self._beat_at = now
        return [*self._answer(event, now), Send(DISPATCHER, RecorderAlive())]

    def _answer(self, event: RecorderEvent, now: float) -> list[Action]:
        match event:
            case OpenFile():
                return [OpenRunFile(event)]
            case Output():
                if not self._unstored:
                    self._heard_at = now
                self._unstored += 1
                return [Append(event)]
            case Event():
                return [AppendEvent(event)]
            case CloseFile():
                self._close_by = now + self._limits.file_close_s
                return [CloseRunFile()]
            case Appended(rank, extents):
                self._heard_at = now
                return [Send(rank, Written(extents))]
            case Stored(rank, rows, first_row, tails):
                self._heard_at = now
                self._unstored -= 1
                if not rows and not self._troubled:
                    return []
                self._troubled = False  # the dispatcher takes this for the end of the trouble
                return [Send(DISPATCHER, Durable(rank, rows, first_row, tails))]
            case FileTrouble():
                self._troubled = True
                return [Send(DISPATCHER, event)]
            case FileClosed():
                if self._close_by == float("inf"):
                    return []  # we have said so
                self._close_by = float("inf")
                return [Send(DISPATCHER, event)]
            case FileOpened():
                self._troubled = False
                return [Send(DISPATCHER, event)]
            case Tick():
                return self._watch(now)

    def _watch(self, now: float) -> list[Action]:
        """Say so, once, when the door is stuck in a call that does not return; and wait for its end no longer than
        it makes sense."""
        if now > self._close_by:
            self._close_by = float("inf")
            reason = "the file system of the run file does not answer; what is recorded is in the file"
            return [Send(DISPATCHER, FileTrouble(reason, fatal=False)), Send(DISPATCHER, FileClosed())]
        silent_s = now - self._heard_at
        if self._troubled or not self._unstored or silent_s < self._limits.file_silent_s:
            return []
        self._troubled = True
        reason = f"the file system of the run file does not answer since {silent_s:.0f} s; until it does no task starts"
        return [Send(DISPATCHER, FileTrouble(reason, fatal=False))]
