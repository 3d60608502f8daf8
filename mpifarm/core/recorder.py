"""The recorder: passes outputs to the run file's door and tells, once they are on disk, who waits for that.

The door (a thread of its own, so that a slow disk stalls nobody's messages) answers `Stored` only after flush and
fsync; only then the dispatcher hears of the outcomes and the leader of its freed credit.
"""

from __future__ import annotations

from mpifarm.core.actions import Action, Append, CloseRunFile, OpenRunFile, Send, Stored, Tick
from mpifarm.core.messages import (
    CloseFile,
    Durable,
    FileClosed,
    FileOpened,
    FileTrouble,
    OpenFile,
    Output,
    RecorderAlive,
    Written,
)
from mpifarm.core.model import Limits
from mpifarm.core.roles import DISPATCHER

RecorderEvent = OpenFile | CloseFile | Output | Stored | FileOpened | FileClosed | FileTrouble | Tick


class Recorder:
    """Pure: `handle(event, now)` returns actions."""

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self._beat_at = float("-inf")

    def handle(self, event: RecorderEvent, now: float) -> list[Action]:
        if now - self._beat_at < self._limits.leader_beat_s:
            return self._answer(event)
        self._beat_at = now
        return [*self._answer(event), Send(DISPATCHER, RecorderAlive())]

    def _answer(self, event: RecorderEvent) -> list[Action]:
        match event:
            case OpenFile():
                return [OpenRunFile(event)]
            case Output():
                return [Append(event)]
            case CloseFile():
                return [CloseRunFile()]
            case Stored(rank, rows, first_row, size, extents, tails):
                written = Send(rank, Written(size, extents))
                return [Send(DISPATCHER, Durable(rank, rows, first_row, tails)), written] if rows else [written]
            case FileOpened() | FileClosed() | FileTrouble():
                return [Send(DISPATCHER, event)]
            case Tick():
                return []
