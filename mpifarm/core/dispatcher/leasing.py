"""When the dispatcher asks the queue for tasks, and for how many: from pace, slots, what is left, and how long the
queue takes to answer. Pure.

Long tasks are leased about as many as there are slots, so that nothing is hoarded behind a busy core; short ones
`Limits.stock_s` ahead, plus the time the queue takes, so that no core waits for an answer.
"""

from __future__ import annotations

from mpifarm.core.model import Limits
from mpifarm.core.pacing import Rate, lease_tasks, share_of
from mpifarm.core.protocol.verbs import Grant

_WEIGHT = 0.2
"""Of the newest in the moving averages."""


class Leasing:
    """The dispatcher's side of `lease`. One ask is under way at a time."""

    def __init__(self, limits: Limits, now: float) -> None:
        self._limits = limits
        self._rate = Rate(now)
        self._busy_s = 0.0
        self._ran = 0  # attempts whose durations are known
        self._ran_s = 0.0  # core seconds of theirs, forgotten slowly
        self._cpus_per_task = 1.0
        self._answer_s = 0.0
        self._asked_at = self._work_at = now
        self._ask_at = now
        """Not before; an empty queue is asked less and less often."""
        self._ahead: int | None = None
        """What should lie in stock, at most; None: must be reckoned anew."""
        self._others_slots = 0
        self.asking = False
        self.expiring = False
        """What dead runs held is being taken back."""
        self._expired_at = now
        self.dry: Grant | None = None
        """The last answer, when it brought nothing and nothing has happened since that may bring something."""
        self.ready_left = 0
        self.more_left = False
        """`ready_left` stopped before the end: of what is left there is no share to be told, and no need to."""
        self._waiting = 0

    @property
    def left(self) -> int:
        """Tasks for a run like this one that the queue held, as far as the last answers tell."""
        return self.ready_left + self._waiting

    def ran(self, tasks: int, busy_s: float, now: float) -> None:
        """So many attempts have ended; all that ended so far held cores for `busy_s` core seconds."""
        core_s, self._busy_s = busy_s - self._busy_s, busy_s
        if not tasks:
            return
        self._ahead = None
        self._rate.add(tasks, now)
        if self._ran > 100:
            self._ran, self._ran_s = self._ran // 2, self._ran_s / 2
        self._ran += tasks
        self._ran_s += core_s

    def granted(self, grant: Grant, now: float) -> None:
        self.asking = False
        self._answer_s += _WEIGHT * (now - self._asked_at - self._answer_s)
        self._ahead = None
        self.ready_left = grant.ready_left
        self.more_left = "ready_left" in grant.at_least
        self._others_slots = grant.others_slots
        if not grant.blocks:
            self._waiting = grant.waiting + grant.too_long
        else:
            self._waiting = max(0, self._waiting - sum(len(block.tasks) for block in grant.blocks))
            self._work_at = now
            cpus = [(block.needs.cpus, len(block.tasks)) for block in grant.blocks]
            mean = sum(width * count for width, count in cpus) / sum(count for _, count in cpus)
            self._cpus_per_task += _WEIGHT * (mean - self._cpus_per_task)
        self.dry = None if grant.blocks else grant
        poll_s = self._limits.idle_poll_s + (now - self._work_at) / 20
        self._ask_at = now if grant.blocks else now + min(poll_s, self._limits.idle_poll_max_s)

    def stir(self) -> None:
        """Something may be claimable now: the last answer counts no more."""
        self.dry = None
        self._ask_at = 0.0

    @property
    def busy(self) -> bool:
        """An answer is under way that may bring work."""
        return self.asking or self.expiring

    def expire(self, now: float) -> bool:
        """Whether to take back what dead runs held now; it is noted as being done."""
        if self.expiring or now - self._expired_at <= self._limits.lease_s / 4:
            return False
        self.expiring = True
        self._expired_at = now
        return True

    def needless(self, unmet: int, stock: int, now: float) -> bool:
        """Whether `tasks` would say 0 for sure: told at little cost, with every event."""
        if self.asking or now < self._ask_at:
            return True
        return not unmet and self._ahead is not None and stock > self._ahead // 2

    def tasks(self, *, slots: int, unmet: int, stock: int, out: int, left_s: float, now: float) -> int:
        """How many to ask for now; 0: none. unmet: cores' worth of work that leaders want and did not get; out: tasks
        they hold; left_s: seconds in which tasks may start."""
        if self.asking or now < self._ask_at:
            return 0
        horizon_s = min(self._limits.stock_s + 2 * self._answer_s, max(left_s, 0.0))
        left = 0 if self.more_left else self.ready_left
        width = max(1, round(self._cpus_per_task))
        self._ahead = int(self._per_s(slots) * horizon_s)
        tasks = lease_tasks(
            ahead=self._ahead,
            asked=-(-unmet // width),
            stock=stock,
            backlog=max(0, out - slots // width),
            share=share_of(left, slots, self._others_slots) if left and self._others_slots else None,
        )
        return min(tasks, self._limits.block_tasks_max)

    def asked(self, now: float) -> None:
        self.asking = True
        self._asked_at = now

    def _per_s(self, slots: int) -> float:
        """Tasks per second: as measured, but no more than durations allow, since tasks that ended in a burst are no
        sign of haste."""
        if not self._ran_s:
            return self._rate.per_s
        return min(self._rate.per_s, slots * self._ran / self._ran_s)
