"""A task's life: the states it can be in, and which verb takes it from one to another. Pure.

`MOVES` is the whole of it. The picture in ARCHITECTURE.md is drawn from it, and the contract of the queue does every
verb in every state, on Postgres and on its twin, and compares.
"""

from __future__ import annotations

from enum import Enum

from mpifarm.core.model import State


class TaskState(Enum):
    """The state of a task is where it is, in the words that people read; it is always in exactly one of them."""

    WAITING = "waiting"
    """A range of `waiting`: a parent has not ended; the record of the last moves it on. A crash costs nothing."""
    PENDING = "pending"
    """A range of `ready`: any run may lease it. A crash costs nothing."""
    RUNNING = "running"
    """A lease: a run holds it, has started it or will. When the run or its node dies, the attempt under way is lost."""
    SUCCEEDED = "succeeded"
    """An outcome, and output that was on disk before. Only `rerun` takes it out of there."""
    FAILED = "failed"
    """An outcome: what it did was no success, and no retry was left. People take it out of there."""
    CANCELLED = "cancelled"
    """An outcome, or a range of `cancelled` when it never began: by people, since a parent failed, or too many did."""


class Verb(Enum):
    """What moves tasks; whatever else happens to a queue leaves them where they are."""

    SETTLE = "settle"
    """The transaction that records the end of parents looks at what waits for them."""
    LEASE = "lease"
    RECORD = "record"
    RETURN = "return"
    """The run gives it back, or is dead and another run, `recover` or its own end does so."""
    CANCEL = "cancel"
    """By people, or by --max-fails. A lease stays what it is: its run is ordered to end the task, and records that."""
    RETRY = "retry"
    RERUN = "rerun"


STATES = tuple(state.value for state in TaskState)

_AGAIN = frozenset({TaskState.PENDING, TaskState.WAITING})
_ENDED = frozenset({TaskState.SUCCEEDED, TaskState.FAILED, TaskState.CANCELLED})

MOVES: dict[tuple[TaskState, Verb], frozenset[TaskState]] = {
    (TaskState.WAITING, Verb.SETTLE): frozenset({TaskState.PENDING, TaskState.CANCELLED}),
    (TaskState.WAITING, Verb.CANCEL): frozenset({TaskState.CANCELLED}),
    (TaskState.PENDING, Verb.LEASE): frozenset({TaskState.RUNNING}),
    (TaskState.PENDING, Verb.CANCEL): frozenset({TaskState.CANCELLED}),
    (TaskState.RUNNING, Verb.RECORD): _ENDED,
    (TaskState.RUNNING, Verb.RETURN): frozenset({TaskState.PENDING, TaskState.CANCELLED}),
    (TaskState.FAILED, Verb.RETRY): _AGAIN,
    (TaskState.CANCELLED, Verb.RETRY): _AGAIN,
    **{(state, Verb.RERUN): _AGAIN for state in _ENDED},
}
"""Where each verb takes a task; a pair that is not here leaves it where it is."""

OUTCOMES = {State.SUCCEEDED: TaskState.SUCCEEDED, State.FAILED: TaskState.FAILED, State.CANCELLED: TaskState.CANCELLED}
"""Where the record of an attempt that ended so leaves its task."""
