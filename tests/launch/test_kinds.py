"""The seam between a launcher and the ways in which attempts run."""

from __future__ import annotations

import os
import pickle

import pytest

from mpifarm.core.job.policy import JobText
from mpifarm.core.model import Block, FailureClass, JobId, Kind, LeaseId, State, TaskText
from mpifarm.core.needs import Needs
from mpifarm.core.protocol.messages import Start
from mpifarm.core.protocol.wire import decode, encode
from mpifarm.errors import UsageError
from mpifarm.launch.kinds.ways import WAYS
from mpifarm.queue.lease_limits import check_kind
from tests.launch.node import OneNode

NEWER = Kind(77)
"""Of an mpifarm that is not written yet."""


def test_every_kind_has_its_way() -> None:
    assert WAYS.keys() == set(Kind)


def test_a_kind_of_a_newer_mpifarm_travels_and_stays_what_it_is() -> None:
    block = Block(LeaseId(1), JobId(1), 1, Needs(), 1, [TaskText(b"?")], kind=NEWER)
    sent = decode(encode(Start((), (block,))))
    assert isinstance(sent, Start) and sent.blocks[0].kind == NEWER
    assert not NEWER.known and pickle.loads(pickle.dumps(NEWER)) == NEWER
    assert Kind.COMMAND.known and Kind(0) is Kind.COMMAND and len(Kind) == len(WAYS)


def test_a_kind_that_nobody_here_can_run_is_not_submitted() -> None:
    check_kind(Kind.COMMAND)
    with pytest.raises(UsageError, match="there are no tasks of kind number 77; there are command"):
        check_kind(NEWER)


@pytest.mark.slow
def test_a_kind_that_nobody_here_can_run_is_not_launched(node: OneNode) -> None:
    """With a reason, and what is around it runs."""
    job = JobText(JobId(9), "spectra", node.cwd)
    tasks = [TaskText(b"echo hi"), TaskText(b"echo there")]
    unknown = Block(LeaseId(9), job.id, 1, Needs(), 1, tasks, kind=NEWER)
    node.launcher.send(Start((job,), (unknown, Block(LeaseId(9), job.id, 1, Needs(), 3, tasks))))
    node.wait(range(1, 5))
    for task in (1, 2):
        ended = node.ended[task]
        assert (ended.state, ended.failure) == (State.FAILED, FailureClass.LAUNCH)
        assert b"cannot run tasks of kind number 77" in ended.stderr == ended.stderr_tail
    assert [os.fsdecode(node.ended[task].stdout) for task in (3, 4)] == ["hi\n", "there\n"]
