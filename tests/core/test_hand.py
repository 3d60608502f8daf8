"""What a node was dealt and has not ended."""

from __future__ import annotations

from mpifarm.core.leader.hand import Hand
from mpifarm.core.leader.leader import Leader
from mpifarm.core.model import Block, JobId, LeaseId, Limits, NodeShape, Span, TaskText
from mpifarm.core.needs import Needs
from mpifarm.core.protocol.actions import LauncherGone, Send
from mpifarm.core.protocol.messages import Deal, LauncherLost, NotStarted, Unstarted
from mpifarm.launch import begun
from mpifarm.launch.begun import Begun


def block(lease: int, lo: int, count: int) -> Block:
    return Block(LeaseId(lease), JobId(1), 3, Needs(), lo, [TaskText(b"true")] * count, 1, 2)


def span(lease: int, lo: int, hi: int) -> Span:
    return Span(LeaseId(lease), JobId(1), lo, hi, 3, 1, 2)


def test_what_never_began_is_told_from_what_did() -> None:
    hand = Hand()
    hand.take([block(1, 1, 10), block(2, 1, 5)])
    hand.take([block(1, 11, 10)])
    hand.end(LeaseId(1), 4)
    hand.give_back([span(2, 2, 6)])
    hand.end(LeaseId(9), 1)  # unknown
    assert hand.unbegun([(1, 1), (1, 2), (2, 1), (7, 1)]) == (span(1, 3, 4), span(1, 5, 21))
    assert hand.unbegun([]) == (span(1, 1, 3), span(2, 1, 2))
    assert hand.unbegun([]) == ()


def test_a_leader_gives_back_what_its_lost_launcher_had_not_begun() -> None:
    leader = Leader(4, NodeShape("n", (0, 1), 2), 0, 0, Limits())
    leader.handle(Deal((), (block(1, 1, 9),)), 0.0)
    leader.handle(NotStarted((span(1, 8, 10),), 2), 0.0)
    gone = LauncherGone("killed", ((1, 1), (1, 2)), 3, ((1, 1), (1, 2), (1, 3)))  # it had not told of the end of task 3
    sent = [action.message for action in leader.handle(gone, 1.0) if isinstance(action, Send)]
    assert sent == [Unstarted(4, (span(1, 4, 8),)), LauncherLost(4, "killed", ((1, 1), (1, 2)))]


def test_what_may_have_begun_and_ended_untold_does_not_begin_under_its_number_again() -> None:
    """Kind: a launcher that is killed has ends in its hands. Here more than anybody remembers."""
    leader = Leader(4, NodeShape("n", (0, 1), 2), 0, 0, Limits())
    leader.handle(Deal((), (block(1, 1, 9),)), 0.0)
    sent = [action.message for action in leader.handle(LauncherGone("killed", (), 3, ((1, 3), (1, 2))), 1.0)
            if isinstance(action, Send)]  # fmt: skip
    assert sent == [LauncherLost(4, "killed", ())]


def test_marks_of_what_began() -> None:
    marks = Begun(memoryview(bytearray(begun.SIZE)))
    for task in range(1, begun.RECENT + 3):
        marks.begin(task % 2, 7, task)
        marks.end(0)
    marks.begin(begun.SLOTS_MAX, 8, 1)
    count, recent = marks.recent()
    assert count == begun.RECENT + 3 and marks.all() == ((7, begun.RECENT + 1),)
    assert set(recent) == {(7, task) for task in range(4, begun.RECENT + 3)} | {(8, 1)}
