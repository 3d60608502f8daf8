"""The queue: jobs wait here, runs lease their tasks in blocks and record how they ended.

Two implementations stand behind one protocol: `queue.run_verbs` is the real one, `queue.memory` its twin for tests and
simulation. This module must never import psycopg (only rank 0 may load it).

Every task is in exactly one place: a waiting range, a ready range, a lease, a final outcome, or a cancelled range. The
lease row is the fence: what names a lease that is gone is late and is not recorded.
"""

from __future__ import annotations

from typing import Protocol

from mpifarm.core.model import LeaseId, RunId
from mpifarm.core.needs import Needs
from mpifarm.core.protocol.verbs import Batch, Grant, Order, Return, RunInfo

__all__ = ["Batch", "Grant", "Order", "Queue", "Return", "RunInfo"]


class Queue(Protocol):
    """What a run needs. The calls block and come from one thread; all but `lease` may be sent again after
    QueueUnreachable without doing anything twice, and a `lease` sent again brings what the lost answer held."""

    def open_run(self, run: RunInfo) -> RunId:
        """Begin a run; its heartbeat starts now."""

    def name_file(self, run: RunId, path: str) -> None:
        """Say where the outputs of the run are."""

    def lease(self, run: RunId, tasks_max: int, bytes_max: int, room: Needs) -> Grant:
        """Claim up to `tasks_max` tasks (about `bytes_max` bytes of bodies) that fit a node with this `room` and the
        time the run has left, of the jobs and tags it works on, those of the highest priority first. QueueError when
        the run has ended."""

    def record(self, run: RunId, batch: Batch) -> frozenset[LeaseId]:
        """Write outcomes, put returned tasks back, delete leases that are done: all of it or nothing, unless a lease
        is gone. Returns the leases that were gone: nothing of them is recorded. A task its lease has returned before
        is late too and left out."""

    def renew(self, run: RunId) -> tuple[Order, ...]:
        """The heartbeat. Returns what the run was ordered since the last one that was answered; an order comes twice
        when an answer is lost."""

    def expire(self, lease_s: float) -> int:
        """Put back what dead runs hold, as the next attempt. Dead: ended, not renewed for `lease_s` seconds, or a
        process of this host that is gone. Returns the number of tasks put back."""

    def close_run(self, run: RunId) -> None:
        """End the run; what it still holds goes back as the next attempt."""

    def another(self) -> Queue:
        """A second connection to the same queue, for another thread. Raises QueueUnreachable."""

    def close(self) -> None:
        """Let the database go; ends no run."""
