"""Which node fails what succeeds elsewhere: a suspect, which is dealt one task at a time, then none. Pure.

The evidence is a node's row of failures since its last success: how attempts of the same jobs ended elsewhere in that
time. A job that fails everywhere thus speaks against no node, nor does one that nobody else has ended yet: a node that
fails first, and fast, only waits until others have been heard of.

    trusted --a row of failures, others' end differently--> suspect --probes fail too--> left out for the run
       ^  \\--a row of failures, others' are not known--> waiting  |
       '---------------- a success, or the others fail as well ---'

Never are more than half of the nodes held back. Each event costs the same, however many nodes there are.
"""

from __future__ import annotations

from collections import defaultdict
from enum import Enum
from heapq import heappop, heappush
from math import inf, lgamma, log
from typing import NamedTuple, Protocol

from mpifarm.core.model import FailureClass, JobId, Limits
from mpifarm.core.plural import counted

_BLAMED = frozenset((FailureClass.EXIT, FailureClass.SIGNAL, FailureClass.OOM, FailureClass.LAUNCH))
_JOBS_MAX = 8
"""Of one row: so many jobs bear witness."""
_CHANCE = 1e-3
"""That a node of a run is suspected although it is as good as the others."""


class Trust(Enum):
    FULL = "trusted"
    WAITS = "waits until others are heard of"
    SUSPECT = "one task at a time"
    NONE = "left out"


class Verdict(NamedTuple):
    """What becomes of a node, or (`probe`) that it may be dealt so many cores' worth of work now."""

    rank: int
    trust: Trust
    probe: int = 0
    why: str = ""


class Nodes(Protocol):
    """Those that were not given up."""

    def knows(self, rank: int) -> bool: ...
    def slots_of(self, rank: int) -> int: ...


class Hands(Protocol):
    """What leaders hold."""

    def holds(self, rank: int) -> bool: ...


class _Row:
    """Failures of one node since its last success."""

    __slots__ = ("fails", "jobs", "pause_s", "probes", "trust")

    def __init__(self) -> None:
        self.fails = 0
        self.jobs: dict[JobId, list[int]] = {}
        """[failures here, successes and failures of all when the row began]"""
        self.trust = Trust.FULL
        self.pause_s = 0.0
        self.probes = 0
        """How often it was dealt something since it is held."""


class Suspicion:
    """What is known of all nodes, by the ranks of their leaders."""

    def __init__(self, nodes: int, limits: Limits) -> None:
        self._limits = limits
        self._nodes = nodes
        self._held = 0
        self._good: defaultdict[JobId, int] = defaultdict(int)
        self._bad: defaultdict[JobId, int] = defaultdict(int)
        """Attempts that succeeded and failed, by job."""
        self._rows: dict[int, _Row] = {}
        self._proven: set[int] = set()
        """Where something has ever succeeded: only the row counts, and what others ended meanwhile."""
        self._changed: dict[int, None] = {}
        self._cleared: dict[int, None] = {}
        """Held until a success, whatever came after it."""
        self._looks: list[tuple[float, int, int, _Row]] = []
        """(when, turn, rank, its row then): a heap."""
        self._turn = 0

    # --- what ended ------------------------------------------------------------------------------------------

    def succeeded(self, rank: int, job: JobId) -> None:
        self._good[job] += 1
        self._proven.add(rank)
        if self._rows and rank in self._rows:
            self._forget(rank)

    def failed(self, rank: int, job: JobId, failure: int) -> None:
        self._bad[job] += 1
        if failure not in _BLAMED:
            return
        row = self._rows.get(rank)
        if row is None:
            row = self._rows[rank] = _Row()
        row.fails += 1
        mine = row.jobs.get(job)
        if mine is None and len(row.jobs) < _JOBS_MAX:
            proven = rank in self._proven
            mine = row.jobs[job] = [0, self._good[job], self._bad[job] - 1] if proven else [0, 0, 0]
        if mine is not None:
            mine[0] += 1
        if row.fails >= self._limits.suspect_fails:
            self._changed[rank] = None

    def _forget(self, rank: int) -> None:
        row = self._rows.pop(rank)
        if row.trust is not Trust.FULL:
            self._held -= 1
            self._cleared[rank] = None

    # --- what follows ----------------------------------------------------------------------------------------

    @property
    def look_at(self) -> float:
        """When `look` has something to say."""
        if self._changed or self._cleared:
            return -inf
        return self._looks[0][0] if self._looks else inf

    def look(self, now: float, nodes: Nodes, hands: Hands) -> list[Verdict]:
        """What changes now. A node that holds tasks gets no further probe."""
        verdicts = [Verdict(rank, Trust.FULL) for rank in self._cleared if nodes.knows(rank)]
        self._cleared = {}
        changed, self._changed = self._changed, {}
        for rank in changed:
            if nodes.knows(rank):
                verdicts += self._judge(rank, nodes.slots_of(rank), now)
        while self._looks and self._looks[0][0] <= now:
            _, _, rank, row = heappop(self._looks)
            if row is self._rows.get(rank) and nodes.knows(rank) and row.trust in (Trust.WAITS, Trust.SUSPECT):
                verdicts += self._probe(rank, row, nodes.slots_of(rank), now, hands.holds(rank))
        return verdicts

    def _judge(self, rank: int, slots: int, now: float) -> list[Verdict]:
        row = self._rows.get(rank)
        if row is None:
            return []
        guilty, known, succeeded = self._evidence(row)
        if row.trust is Trust.FULL:
            waits = not known and row.fails >= max(slots, self._limits.suspect_fails)
            if not (guilty or waits) or (self._held + 1) * 2 > self._nodes:
                return []
            self._held += 1
            row.pause_s = self._limits.probe_every_s
            self._look_again(now, rank, row)
        elif row.trust is not Trust.WAITS or not guilty:
            return []
        row.trust = Trust.SUSPECT if guilty else Trust.WAITS
        row.probes = 0
        return [Verdict(rank, row.trust, why=_why(row, succeeded) if guilty else "")]

    def _probe(self, rank: int, row: _Row, slots: int, now: float, busy: bool) -> list[Verdict]:
        """A pause is over."""
        guilty, known, succeeded = self._evidence(row)
        if known and not guilty:
            self._held -= 1
            row.trust = Trust.FULL
            return [Verdict(rank, Trust.FULL)]
        if busy:
            self._look_again(now, rank, row)
            return []
        if row.trust is Trust.SUSPECT:
            if row.probes >= self._limits.probes_max:
                row.trust = Trust.NONE
                return [Verdict(rank, row.trust, why=_why(row, succeeded))]
            row.pause_s = min(2 * row.pause_s, self._limits.probe_every_max_s)
        row.probes += 1
        self._look_again(now, rank, row)
        # Perhaps nobody else will ever be dealt of these jobs: who only waits gets more and more.
        cpus = 1 if row.trust is Trust.SUSPECT else slots << min(row.probes - 1, 20)
        return [Verdict(rank, row.trust, probe=cpus)]

    def _look_again(self, now: float, rank: int, row: _Row) -> None:
        self._turn += 1
        heappush(self._looks, (now + row.pause_s, self._turn, rank, row))

    def _evidence(self, row: _Row) -> tuple[bool, bool, int]:
        """Whether this cannot be chance; whether others have ended attempts of these jobs; how many of them succeeded.

        The chance is that of the next k attempts failing after so many successes and failures of others, when nothing
        was known before (a Beta prior).
        """
        chance, known, succeeded = 0.0, False, 0
        for job, (fails, good_then, bad_then) in row.jobs.items():
            good = self._good[job] - good_then
            bad = self._bad[job] - bad_then - fails
            if good > 0 or bad > 0:
                known = True
            if good > 0:
                succeeded += good
                all_ = good + bad + 2
                chance += lgamma(bad + 1 + fails) - lgamma(bad + 1) + lgamma(all_) - lgamma(all_ + fails)
        return chance < log(_CHANCE / self._nodes), known, succeeded

    def gone(self, rank: int) -> None:
        """This node is no more. Where too few that are trusted are left, all are."""
        self._nodes -= 1
        if rank in self._rows:
            self._forget(rank)
        if self._held * 2 > self._nodes:
            for held in [held for held, row in self._rows.items() if row.trust is not Trust.FULL]:
                self._forget(held)


def _why(row: _Row, succeeded: int) -> str:
    last = counted(row.fails, "task")
    return f"its last {last} failed, while {succeeded:,} of the same jobs succeeded elsewhere"
