"""How a run is told to stop, how long what runs may take then, and whether work is left when it has stopped. Pure."""

from __future__ import annotations

from math import inf

from mpifarm.core.dispatcher.ending import RunTerms, duration
from mpifarm.core.dispatcher.ledger import Ledger
from mpifarm.core.model import Limits, State
from mpifarm.core.plural import counted
from mpifarm.core.protocol.messages import StopAsked

WORK_LEFT = 7
"""Exit code of a run that was told to stop, by whatever, and leaves work in the queue: another run may go on."""

_SIGUSR1, _SIGTERM = 10, 15
_ONE_S = 1.0
"""Launchers pass a signal on to every rank, and a terminal sends it to the whole group besides: signals that come this
close are one."""
_HEARD_WITHIN_S = 3.0
"""A signal that every rank is passed has reached them all by then."""


class Stopping:
    """What a run was told so far. A grace that it was given can only be shortened."""

    def __init__(self, terms: RunTerms, limits: Limits, now: float) -> None:
        self._grace_s = terms.grace_s
        self._usr1_ranks = terms.usr1_ranks
        self._heard: set[int] = set()
        self._heard_at = now
        """Ranks that caught a SIGUSR1 which not all have caught, and when the first did."""
        self._limits = limits
        self._signal_at = now
        self._given_back: int | None = None
        self.until = inf
        """Every leader must have answered by then; inf: it was not told to stop, or to take its time."""

    def signalled(self, asked: StopAsked, now: float) -> tuple[float, str] | None:
        """Seconds of grace, and why. The first signal gives the grace; a later one at the dispatcher's rank none."""
        if asked.signal == _SIGUSR1 and not asked.launcher:
            self._heard_at = self._heard_at if self._heard else now
            self._heard.add(asked.rank)
            if len(self._heard) < self._usr1_ranks:
                return None
            self._heard.clear()
            asked = StopAsked(asked.signal, 0) if self._usr1_ranks > 1 else asked
        if self.until == inf:
            self._signal_at = now
            longest_s = self._limits.term_grace_s
            if asked.signal == _SIGTERM and self._grace_s > longest_s:
                return (
                    longest_s,
                    f"stopping (by SIGTERM, which SIGKILL follows: {duration(longest_s)})",
                )
            return self._grace_s, "stopping"
        if asked.rank == 0 and not asked.launcher and now - self._signal_at > _ONE_S:
            return 0.0, "stopping"
        return None

    def overheard(self, now: float) -> list[str]:
        """What to say of a signal that was none to stop, once that is plain."""
        if not self._heard or now - self._heard_at < _HEARD_WITHIN_S:
            return []
        came = f"SIGUSR1 came to {len(self._heard)} of {counted(self._usr1_ranks, 'rank')}"
        self._heard.clear()
        return [f"{came}: so mpiexec tells that one has died. No reason to stop"]

    def begin(self, grace_s: float, now: float, ledger: Ledger) -> None:
        """It stops; running tasks have the grace, inf: as long as they take."""
        self.until = now + grace_s + self._limits.term_to_kill_s + self._limits.drain_answer_s
        if self._given_back is None:
            self._given_back = _given_back(ledger)

    def leaves_work(self, ledger: Ledger, left: int) -> bool:
        """Whether it was told to stop before all was done. left: tasks in the queue, as far as is known."""
        return self._given_back is not None and (left > 0 or _given_back(ledger) > self._given_back)


def _given_back(ledger: Ledger) -> int:
    return ledger.ended[State.RETURNED] + ledger.unbegun
