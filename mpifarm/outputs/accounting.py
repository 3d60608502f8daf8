"""Where the time of a run's cores went: seven shares that add up to all of it. Pure arithmetic over attempts.

What is shared out is slots x wall: every slot from the start of the run to its end.

    start-up  before the first attempt of the run started
    task      attempts whose outcome stands
    lost      attempts that were given back or superseded
    launch    idle for at most LAUNCH_S_MAX, and used again: the gap between two attempts
    waiting   idle for longer, and used again: the queue had nothing that fits
    tail      idle and not used again, until the last attempt of the run ended
    drain     after the last attempt ended

A row tells how many cores an attempt held and not which, so idle time is told by level: the k-th core of a node is busy
while at least k of its cores are. With one-core tasks packed onto the lowest free slots that is the slot itself; with
wide ones it is the only reading in which no core idles beside one that is needed. An idle level before its first use
counts as a gap that began with the first attempt of the run; a level never used is tail.

Rows of a node stand in a run file in the order in which the attempts ended. Read from the last row back, an attempt is
met at its end and its start lies ahead, so that what must be kept is what runs at one moment: memory is flat whatever
the number of attempts. A row out of order by more than a block is taken to have ended with the row after it.
Must never import h5py or the queue.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from mpifarm.units import format_seconds

LAUNCH_S_MAX = 0.2
"""A core that gets its next task from its node's stock waits for less, also on a loaded node; a lease takes longer."""

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
Bools = NDArray[np.bool_]


class Account(NamedTuple):
    """Core seconds by what became of them."""

    start_up: float = 0.0
    waiting: float = 0.0
    launch: float = 0.0
    task: float = 0.0
    lost: float = 0.0
    tail: float = 0.0
    drain: float = 0.0

    @property
    def total(self) -> float:
        return sum(self)

    def percent(self) -> list[float]:
        """The shares in percent with one decimal; they add up to exactly 100, or are all zero for no time at all."""
        total = self.total
        if total <= 0:
            return [0.0] * len(self)
        exact = [1000 * seconds / total for seconds in self]
        tenths = [int(share) for share in exact]
        # What rounding down left over goes where it took most.
        order = sorted(range(len(self)), key=lambda i: tenths[i] - exact[i])
        for i in order[: 1000 - sum(tenths)]:
            tenths[i] += 1
        return [share / 10 for share in tenths]

    def plus(self, other: Account) -> Account:
        return Account(*(a + b for a, b in zip(self, other)))


NAMES = tuple(name.replace("_", "-") for name in Account._fields)


def core_time(seconds: float) -> str:
    """Core seconds as people count them: from an hour on in hours."""
    return format_seconds(seconds) if seconds < 3600 else f"{seconds / 3600:,.1f} h"


class Work(NamedTuple):
    """Attempts in the order of their rows, a column each. Times in Unix seconds; `lost`: the outcome does not stand."""

    node: Ints
    cpus: Ints
    started: Floats
    ended: Floats
    lost: Bools


class _Events(NamedTuple):
    """How the busy cores of a node change, seen backwards in time: an end adds the cores, a start takes them off."""

    node: Ints
    change: Ints
    time: Floats

    def where(self, mask: Bools) -> _Events:
        return _Events(self.node[mask], self.change[mask], self.time[mask])

    def joined(self, other: _Events) -> _Events:
        return _Events._make(np.concatenate(columns) for columns in zip(self, other))


_NO_EVENTS = _Events(np.zeros(0, np.int64), np.zeros(0, np.int64), np.zeros(0))


class Accounting:
    """The account of one run from its attempts, last block first. `slots` by node number; times in Unix seconds."""

    def __init__(self, slots: Sequence[int], started: float, ended: float) -> None:
        count = len(slots)
        self._slots = np.asarray(slots, np.int64)
        self._started, self._ended = started, ended
        self._first, self._last = np.inf, -np.inf
        self._horizon = np.full(count, np.inf)
        """Down to here everything of a node is told."""
        self._ahead = _NO_EVENTS
        """Starts of attempts whose end is told, beyond the horizon."""
        self._busy = np.zeros(count, np.int64)
        levels = int(self._slots.max(initial=0))
        self._used_from: Floats = np.full((count, levels), np.nan)
        self._used_to: Floats = np.full((count, levels), np.nan)
        """When each level of each node is used for the first (so far) and the last time; NaN: not at all."""
        self._launch = self._waiting = self._task = self._lost = 0.0

    def add(self, work: Work) -> None:
        """Attempts whose rows stand before all those added so far."""
        if not len(work.node):
            return
        # Relative to the run, since a Unix time leaves few digits for milliseconds.
        ended = np.minimum(work.ended - self._started, self._horizon[work.node])
        started = np.minimum(work.started - self._started, ended)
        self._first = min(self._first, float(started.min()))
        self._last = max(self._last, float(ended.max()))
        seconds = (ended - started) * work.cpus
        lost = float(seconds[work.lost].sum())
        self._lost += lost
        self._task += float(seconds.sum()) - lost
        np.minimum.at(self._horizon, work.node, ended)
        some = seconds > 0
        node, cpus = work.node[some], work.cpus[some]
        self._tell(_Events(node, -cpus, started[some]), _Events(node, cpus, ended[some]))

    def _tell(self, starts: _Events, ends: _Events) -> None:
        """Follow the events down to the horizon, keep the others."""
        starts = self._ahead.joined(starts)
        now = starts.time >= self._horizon[starts.node]
        self._ahead = starts.where(~now)
        events = starts.where(now).joined(ends)
        # Backwards; at one moment first what starts then (its end is told), so that the sum stays >= 0.
        order = np.lexsort((events.change > 0, -events.time, events.node))
        self._follow(_Events._make(column[order] for column in events))

    def _follow(self, events: _Events) -> None:
        """Events of each node in their order, node by node: how long was each level idle before it was used again?"""
        if not len(events.node):
            return
        top = _running_sum(events.node, events.change) + self._busy[events.node]
        nodes, last = np.unique(events.node[::-1], return_index=True)
        self._busy[nodes] = top[len(top) - 1 - last]
        self._make_room(int(np.maximum(top, top - events.change).max()))

        # One event per core: it takes or gives back the levels between the busy cores before it and after it.
        width = np.abs(events.change)
        each = np.repeat(np.arange(len(width)), width)
        level = np.minimum(top, top - events.change)[each] + np.arange(len(each)) - (np.cumsum(width) - width)[each]
        node, time, freed = events.node[each], events.time[each], events.change[each] > 0
        order = np.lexsort((level, node))  # stable: backwards in time within a level
        node, level, time, freed = node[order], level[order], time[order], freed[order]

        new = np.ones(len(node), bool)
        new[1:] = (node[1:] != node[:-1]) | (level[1:] != level[:-1])
        before = np.empty(len(node))
        before[1:] = time[:-1]
        before[new] = self._used_from[node[new], level[new]]
        self._gaps((before - time)[freed & ~np.isnan(before)])
        final = freed & np.isnan(before)
        self._used_to[node[final], level[final]] = time[final]
        earliest = np.roll(new, -1)
        self._used_from[node[earliest], level[earliest]] = time[earliest]

    def _make_room(self, levels: int) -> None:
        more = levels - self._used_from.shape[1]
        if more > 0:
            self._used_from = np.pad(self._used_from, ((0, 0), (0, more)), constant_values=np.nan)
            self._used_to = np.pad(self._used_to, ((0, 0), (0, more)), constant_values=np.nan)

    def _gaps(self, seconds: Floats) -> None:
        short = seconds <= LAUNCH_S_MAX
        self._launch += float(seconds[short].sum())
        self._waiting += float(seconds[~short].sum())

    def account(self, *, died: bool = False) -> Account:
        """Call once, after the last `add`. `died`: the run ended without a word, so what ran on its slots in the end
        left no row: the time after a slot's last attempt is lost.

        A node whose attempts overlap more than it has slots (a clock was set) counts with as many as it shows.
        """
        wall = float(self._ended - self._started)
        if self._last == -np.inf:
            idle = float(self._slots.sum()) * max(0.0, wall)
            return Account(lost=idle) if died else Account(waiting=idle)
        self._horizon[:] = -np.inf
        self._tell(_NO_EVENTS, _NO_EVENTS)
        used = ~np.isnan(self._used_from)
        self._gaps(self._used_from[used] - self._first)
        levels = np.maximum(self._slots, used.sum(axis=1))
        unused = float(levels.sum() - used.sum())
        tail = float((self._last - self._used_to[used]).sum()) + unused * (self._last - self._first)
        slots = float(levels.sum())
        drain = slots * max(0.0, wall - self._last)
        lost = self._lost
        if died:
            lost, tail, drain = lost + tail + drain, 0.0, 0.0
        start_up = slots * max(0.0, self._first)
        return Account(start_up, self._waiting, self._launch, self._task, lost, tail, drain)


def _running_sum(group: NDArray[Any], values: Ints) -> Ints:
    """The sum of `values` up to and with each, begun anew in each run of equal `group`s."""
    total = np.cumsum(values)
    new = np.flatnonzero(np.r_[True, group[1:] != group[:-1]])
    offset = np.repeat(total[new] - values[new], np.diff(np.r_[new, len(group)]))
    return total - offset
