"""How much to ask for: sizes of leases, deals and backlogs from measured durations. Pure arithmetic."""

from __future__ import annotations

_WEIGHT = 0.05
"""Of the newest task in the moving averages: the last ~20 tasks count."""


class Pace:
    """Moving average of how long a task holds its cores, seconds."""

    __slots__ = ("seconds_per_task",)

    def __init__(self) -> None:
        self.seconds_per_task: float | None = None

    def add(self, seconds: float) -> None:
        mean = self.seconds_per_task
        self.seconds_per_task = seconds if mean is None else mean + _WEIGHT * (seconds - mean)

    def cpus_ahead(self, slots: int, horizon_s: float) -> int:
        """Cores' worth of work that `slots` cores finish in `horizon_s`: 0 as long as nothing is known, and for tasks
        longer than the horizon, which must not be hoarded behind a busy core."""
        if self.seconds_per_task is None:
            return 0
        return int(slots * horizon_s / max(self.seconds_per_task, 1e-4))


class Rate:
    """Tasks per second over the last few seconds, exponentially weighted."""

    __slots__ = ("_at", "per_s")

    def __init__(self, now: float) -> None:
        self._at = now
        self.per_s = 0.0

    def add(self, tasks: int, now: float) -> None:
        elapsed = max(now - self._at, 1e-3)
        weight = min(1.0, elapsed / 2.0)
        self.per_s += weight * (tasks / elapsed - self.per_s)
        self._at = now


def lease_tasks(*, ahead: int, asked: int, stock: int, backlog: int, share: int | None) -> int:
    """Tasks to lease now so that `ahead` lie in stock; 0 while half of that is there and leaders ask for nothing.

    asked: what leaders want and did not get; backlog: what they hold and have not begun. share: of what is left in the
    queue, this run's by its slots; None when it need not share. As the share shrinks, so does what a run may hold
    unbegun, or take at once, and all runs run dry together.
    """
    if stock > ahead // 2 and not asked:
        return 0
    tasks = ahead + asked - stock
    if share is not None:
        tasks = min(tasks, max(share - stock - backlog, min(asked, -(-share // 4))))
    return max(0, tasks)


def share_of(left: int, slots: int, others_slots: int) -> int:
    """A run's part of the tasks that are left, rounded up."""
    return -(-left * slots // (slots + others_slots))
