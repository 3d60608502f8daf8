"""The recorder: who hears of what, and when a file system is told to be silent."""

from __future__ import annotations

from mpifarm.core.model import Limits
from mpifarm.core.protocol.actions import Action, Append, Appended, CloseRunFile, Send, Stored, Tick
from mpifarm.core.protocol.messages import (
    CloseFile,
    Durable,
    FileClosed,
    FileTrouble,
    Output,
    RecorderAlive,
    Written,
)
from mpifarm.core.recorder.recorder import Recorder, RecorderEvent
from mpifarm.core.roles import DISPATCHER

LIMITS = Limits()
OUTPUT = Output(3, b"rows", b"", (), {})


class Play:
    """A recorder whose heartbeat is left out of what it does."""

    def __init__(self) -> None:
        self.recorder = Recorder(LIMITS)

    def at(self, now: float, event: RecorderEvent) -> list[Action]:
        did = self.recorder.handle(event, now)
        return [action for action in did if action != Send(DISPATCHER, RecorderAlive())]


def test_it_beats_with_whatever_happens() -> None:
    recorder = Recorder(LIMITS)
    beat = Send(DISPATCHER, RecorderAlive())
    assert recorder.handle(Tick(), 0.0) == [beat]
    assert recorder.handle(Tick(), LIMITS.leader_beat_s / 2) == []
    assert recorder.handle(Tick(), LIMITS.leader_beat_s) == [beat]


def test_the_leader_hears_when_it_is_written_and_the_dispatcher_when_it_is_durable() -> None:
    play = Play()
    assert play.at(0.0, OUTPUT) == [Append(OUTPUT)]
    assert play.at(1.0, Appended(3, 7)) == [Send(3, Written(7))]
    assert play.at(2.0, Stored(3, b"rows", 40)) == [Send(DISPATCHER, Durable(3, b"rows", 40, {}))]
    assert play.at(3.0, Stored(3, b"", 41)) == [], "no attempt ended: nobody waits for that"


def test_a_file_system_that_stands_still_is_told_once_and_so_is_its_return() -> None:
    play = Play()
    play.at(0.0, OUTPUT)
    assert play.at(LIMITS.file_silent_s - 1, Tick()) == []
    (said,) = play.at(LIMITS.file_silent_s, Tick())
    assert isinstance(said, Send) and isinstance(said.message, FileTrouble) and not said.message.fatal
    assert play.at(LIMITS.file_silent_s + 9, Tick()) == []
    assert play.at(LIMITS.file_silent_s + 10, Stored(3, b"", 0)) == [Send(DISPATCHER, Durable(3, b"", 0, {}))]


def test_idle_it_expects_nothing_of_the_file_system() -> None:
    play = Play()
    play.at(0.0, OUTPUT)
    play.at(1.0, Stored(3, b"rows", 0))
    assert play.at(1e6, Tick()) == []
    assert play.at(1e6, OUTPUT) == [Append(OUTPUT)]
    assert play.at(1e6 + 1, Tick()) == []


def test_the_end_waits_for_the_file_but_not_for_ever() -> None:
    play = Play()
    assert play.at(0.0, CloseFile()) == [CloseRunFile()]
    trouble, closed = play.at(LIMITS.file_close_s + 1, Tick())
    assert isinstance(trouble, Send) and isinstance(trouble.message, FileTrouble)
    assert closed == Send(DISPATCHER, FileClosed())
    assert play.at(LIMITS.file_close_s + 2, FileClosed()) == [], "it was said"
