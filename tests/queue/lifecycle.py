"""Every verb in every state does what `core.lifecycle.MOVES` says, and nothing where that says nothing."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest

from mpifarm.core.lifecycle import MOVES, OUTCOMES, TaskState, Verb
from mpifarm.core.model import Block, FailureClass, LeaseId, Parent, Part, State, TaskText
from mpifarm.core.needs import Needs
from mpifarm.core.protocol.facts import Terms
from mpifarm.queue import Batch, Return
from tests.queue.worlds import HERE, LEASE_S, World, ended, lease, one, span

TASK = [TaskText(b"true")]


class Subject:
    """The only task of a job, brought to a state; it waits, if it does, for the only task of another job."""

    def __init__(self, world: World, brought_to: TaskState, name: str) -> None:
        self.world, self.queue, self.name = world, world.queue, name
        self.run = self.queue.open_run(replace(HERE, jobs=(name,)))
        parents: tuple[Parent, ...] = ()
        if brought_to is TaskState.WAITING:
            parents = (Parent(1, 2, job=world.submit([(Needs(), TASK)], f"parent-of-{name}")),)
        self.job = world.submit_on(Terms(name), Part(Needs(), TASK, parents))
        self.block = Block(LeaseId(1 << 30), self.job, 1, Needs(), 1, TASK)
        """What the run has leased, or claims to have."""
        if brought_to is TaskState.RUNNING or brought_to in OUTCOMES.values():
            self.block = one(self.queue, self.run)
        for state, left_in in OUTCOMES.items():
            if brought_to is left_in:
                self.record(state)
        assert self.state is brought_to

    @property
    def state(self) -> TaskState:
        (found,) = self.world.counts(self.job)
        return TaskState(found)

    def record(self, state: State) -> None:
        self.queue.record(self.run, Batch([ended(self.block, 1, state)], done=[self.block.lease]))

    def give_back(self, failure: FailureClass) -> None:
        returned = Return(span(self.block, 1, 2), failure)
        self.queue.record(self.run, Batch(returned=[returned], done=[self.block.lease]))

    def expire(self) -> None:
        self.world.pass_time(LEASE_S + 1)
        self.queue.expire(LEASE_S)

    def end_parent(self, state: State) -> None:
        run = self.queue.open_run(replace(HERE, jobs=(f"parent-of-{self.name}",)))
        for block in lease(self.queue, run).blocks:
            self.queue.record(run, Batch([ended(block, 1, state)], done=[block.lease]))


WAYS: dict[Verb, list[Callable[[Subject], object]]] = {
    Verb.SETTLE: [lambda it: it.end_parent(State.SUCCEEDED), lambda it: it.end_parent(State.FAILED)],
    Verb.LEASE: [lambda it: lease(it.queue, it.run)],
    Verb.RECORD: [lambda it, state=state: it.record(state) for state in OUTCOMES],  # type: ignore[misc]
    Verb.RETURN: [
        lambda it: it.give_back(FailureClass.WALLTIME),
        lambda it: it.give_back(FailureClass.CANCELLED),
        lambda it: it.queue.close_run(it.run),
        Subject.expire,
    ],
    Verb.CANCEL: [lambda it: it.world.cancel(it.job, 1, 2)],
    Verb.RETRY: [lambda it: it.world.retry(it.job, 1, 2)],
}
"""`rerun` is `retry` that takes one more state; the twin does not have it."""


class LifecycleContract:
    @pytest.mark.parametrize("state", TaskState, ids=lambda state: state.value)
    def test_every_verb(self, world: World, state: TaskState) -> None:
        for verb, ways in WAYS.items():
            reached = set()
            for nth, way in enumerate(ways):
                subject = Subject(world, state, f"{verb.value}-{nth}")
                way(subject)
                reached.add(subject.state)
                world.check()
            moves = MOVES.get((state, verb), {state})
            assert reached <= moves, verb
            assert reached == moves or verb is Verb.RETRY, verb
