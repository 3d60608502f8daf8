"""When a run ends: by its own terms, or since there is nothing left to do; and how that is said. Pure."""

from __future__ import annotations

from math import inf
from typing import NamedTuple

from mpifarm.core.needs import Needs
from mpifarm.core.plural import counted
from mpifarm.core.protocol.verbs import Grant

NO_MORE = Needs()
"""Nodes of which nothing but cores is known."""


class RunTerms(NamedTuple):
    """How long a run stays and what ends it. Durations in seconds."""

    grace_s: float = 30.0
    """What running tasks are given once the run is told to stop."""
    tasks_max: int | None = None
    """It begins so many attempts, then ends."""
    first_idle_s: float = 0.0
    """It waits so long for the first task,"""
    idle_s: float = 0.0
    """and so long for more, once it had one."""
    must_end_by: float = inf
    """Unix seconds: by then every task must have ended, for its record to be written before the allocation ends."""
    usr1_ranks: int = 1
    """A SIGUSR1 is a stop when so many ranks have caught it: hydra also sends one to all that live when a rank dies."""
    room: Needs = NO_MORE
    """What every node has besides cores."""

    def room_of(self, cpus: int) -> Needs:
        """What a node has, the widest of so many cores."""
        return self.room._replace(cpus=cpus)


class Idleness:
    """How long a run has had nothing to do, and whether it goes on waiting."""

    def __init__(self, terms: RunTerms) -> None:
        self._terms = terms
        self._since: float | None = None
        self._worked = False

    def work(self) -> None:
        """There is something to do."""
        self._worked = True
        self._since = None

    def begin(self, now: float) -> str:
        """Nothing to do now. Returns what to tell the person watching, when it begins to wait."""
        if self._since is not None:
            return ""
        self._since = now
        patience_s = self._patience_s
        if patience_s <= 0:
            return ""
        return "nothing to do; waiting for work" + ("" if patience_s == inf else f" for {duration(patience_s)}")

    @property
    def waiting(self) -> bool:
        return self._since is not None

    def over(self, now: float) -> bool:
        return self._since is not None and now - self._since >= self._patience_s

    @property
    def _patience_s(self) -> float:
        return self._terms.idle_s if self._worked else self._terms.first_idle_s


def left_behind(grant: Grant, room: Needs) -> list[str]:
    """What stays in the queue although the run ends, and why."""
    reasons = {
        "too_wide": f"they need more than a node offers: {room.said()}",
        "too_long": "their time limit is longer than this run has left",
        "waiting": "they wait for tasks that this run does not hold",
    }
    lines = []
    for name, reason in reasons.items():
        if tasks := getattr(grant, name):
            least = "at least " if name in grant.at_least else ""
            lines.append(f"{least}{counted(tasks, 'task stays', 'tasks stay')} in the queue: {reason}")
    return lines


def duration(seconds: float) -> str:
    """For a line to the person watching: 45 s, 10 min, 2.5 h."""
    if seconds < 120:
        return f"{seconds:.2g} s" if seconds < 10 else f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"
