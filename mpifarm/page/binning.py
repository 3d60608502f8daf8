"""What the charts of a job show, counted into bins while its attempts stream by. Pure arithmetic, flat memory.

Time is run time: the runs' intervals laid end to end, so that the night between two runs takes no room.
Must never import h5py or the queue.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from itertools import islice
from typing import NamedTuple

import numpy as np

from mpifarm.core.ranges import disjoint
from mpifarm.outputs.accounting import Bools, Floats, Ints

TIME_BINS, RATE_BINS = 240, 60
"""A rate needs some events in each bin."""
ROWS_MAX = 96
"""Of the chart by node and slot."""
DURATIONS_S = 10.0 ** (np.arange(-32, 57) / 8)
"""Edges of the histogram: 0.1 ms to four months, eight to a decade."""
MEMORY_KIB = 2.0 ** (np.arange(4 * 4, 36 * 4) / 4)
"""64 KiB to 32 TiB, four to an octave."""


class TimeAxis:
    """Places Unix times on the run time axis; what lies outside every span is placed at its edge."""

    def __init__(self, spans: Iterable[tuple[float, float]]) -> None:
        merged = disjoint(spans)
        self._times = np.array(merged).reshape(-1)
        lengths = np.array([end - start for start, end in merged])
        ends = np.cumsum(lengths)
        self._places = np.column_stack((ends - lengths, ends)).reshape(-1)
        self.length_s = max(1e-3, float(ends[-1])) if merged else 1e-3
        self.parts = [(float(end - length), start) for end, length, (start, _) in zip(ends, lengths, merged)]
        """(place on the axis, Unix time) of where each uninterrupted part begins."""

    def place(self, times: Floats) -> Floats:
        places: Floats = np.interp(times, self._times, self._places)
        return places


class Cover:
    """How many core seconds fall into each bin, by row: exact, from any number of intervals.

    The integral of an interval's indicator is a ramp: so each end adds to a slope and an offset, summed up at the end.
    """

    def __init__(self, rows: int, bins: int, length_s: float) -> None:
        self._rows, self._bins, self._width_s = rows, bins, length_s / bins
        self._slope = np.zeros(rows * (bins + 1))
        self._offset = np.zeros(rows * (bins + 1))

    def add(self, row: Ints, start: Floats, end: Floats, cores: Ints) -> None:
        """Intervals on the axis that this has bins of."""
        for times, weight in ((start, cores), (end, -cores)):
            place = np.clip(times / self._width_s, 0, self._bins)
            at = row * (self._bins + 1) + place.astype(np.int64)
            self._slope += np.bincount(at, weight, len(self._slope))
            self._offset += np.bincount(at, weight * place, len(self._offset))

    def seconds(self) -> Floats:
        """A row of bins for each row."""
        shape = (self._rows, self._bins + 1)
        slope, offset = (np.cumsum(part.reshape(shape), axis=1)[:, :-1] for part in (self._slope, self._offset))
        until = np.arange(1, self._bins + 1) * slope - offset
        seconds: Floats = np.maximum(0.0, np.diff(until, axis=1, prepend=0.0)) * self._width_s
        return seconds


class Histogram:
    """Counts of values between `edges`, those beyond in the outermost bins; good outcomes and bad ones apart."""

    def __init__(self, edges: Floats) -> None:
        self.edges = edges
        self.counts = np.zeros((2, len(edges) - 1), np.int64)

    def add(self, values: Floats, bad: Bools) -> None:
        """Only values above 0: nothing was measured where it is 0."""
        bins = len(self.edges) - 1
        at = np.clip(np.searchsorted(self.edges, values, "right") - 1, 0, bins - 1)
        some = values > 0
        for kind, mask in enumerate((some & ~bad, some & bad)):
            self.counts[kind] += np.bincount(at[mask], minlength=bins)


class Lanes:
    """The rows of the chart by node and slot: a slot each, or a node each, or some nodes each, as there is room.

    `wide`: there are attempts of several cores, of which a row cannot tell all slots, so that a slot gets no row.
    """

    def __init__(self, slots: Mapping[str, int], *, wide: bool = False) -> None:
        self.by_slot = sum(slots.values()) <= ROWS_MAX and not wide
        self.nodes_each = max(1, -(-len(slots) // ROWS_MAX))
        self.first: dict[str, int] = {}
        """The first row of each node."""
        self.names: list[str] = []
        """Of each row; empty where the node above goes on."""
        self.slots: list[int] = []
        for index, (node, count) in enumerate(slots.items()):
            if self.by_slot:
                self.first[node] = len(self.names)
                self.names += [node, *[""] * (count - 1)]
                self.slots += [1] * count
            elif index % self.nodes_each:
                self.first[node] = len(self.names) - 1
                self.slots[-1] += count
            else:
                self.first[node] = len(self.names)
                self.names.append(node)
                self.slots.append(count)

    def __len__(self) -> int:
        return len(self.names)


class Batch(NamedTuple):
    """Attempts of one run, a column each. `kind` is an index into KINDS; `started` and `ended` are on the axis."""

    kind: Ints
    node: Ints
    slot: Ints
    cpus: Ints
    started: Floats
    ended: Floats
    task: Ints
    attempt: Ints
    seconds: Floats
    max_rss_kib: Ints

    def where(self, mask: Bools) -> Batch:
        return Batch._make(column[mask] for column in self)

    def held(self, slots: Sequence[int]) -> list[list[tuple[int, int]]]:
        """The slots of each attempt, as (first, count) of neighbours; `slots` by node number.

        A row tells the lowest. The others are the next ones that were free when it started, since nodes are packed so.
        """
        free_from = [[-np.inf] * count for count in slots]
        held: list[list[tuple[int, int]]] = [[] for _ in self.node]
        for i in np.lexsort((self.ended, self.started)).tolist():
            free, started = free_from[self.node[i]], self.started[i]
            first = min(int(self.slot[i]), len(free) - 1)
            above = (slot for slot in range(first + 1, len(free)) if free[slot] <= started)
            for slot in (first, *islice(above, max(0, int(self.cpus[i]) - 1))):
                free[slot] = self.ended[i]
                if held[i] and sum(held[i][-1]) == slot:
                    held[i][-1] = (held[i][-1][0], held[i][-1][1] + 1)
                else:
                    held[i].append((slot, 1))
        return held


def joined(batches: Sequence[Batch]) -> Batch:
    return Batch._make(np.concatenate(columns) for columns in zip(*batches))


KINDS = ("succeeded", "failed", "cancelled", "lost", "other")
SUCCEEDED, FAILED, CANCELLED, LOST, OTHER = range(5)
"""Of the job with an outcome that stands; of the job without; of other jobs that the run also worked on."""


class Charted:
    """All charts of a job. `one_by_one`: keep its attempts, so that each gets a bar; there must not be many."""

    def __init__(self, axis: TimeAxis, lanes: Lanes, *, one_by_one: bool) -> None:
        self.axis, self.lanes, self.one_by_one = axis, lanes, one_by_one
        self.load = Cover(len(KINDS), TIME_BINS, axis.length_s)
        self.offered = Cover(1, TIME_BINS, axis.length_s)
        self.ended = np.zeros((2, RATE_BINS), np.int64)
        self.durations, self.memory = Histogram(DURATIONS_S), Histogram(MEMORY_KIB)
        self.on_node: dict[str, list[int]] = {}
        """Attempts that succeeded or failed, and how many of them failed."""
        self.kinds = np.zeros(len(KINDS), np.int64)
        self.bars: dict[int, list[Batch]] = {}
        """By run, when each attempt gets a bar. Else it is counted into:"""
        self.cells = Cover(max(1, len(lanes)), TIME_BINS, axis.length_s)
        self.ended_in, self.failed_in = np.zeros((2, max(1, len(lanes)), TIME_BINS), np.int64)
        """Tasks of the job that ended there with success or failure, and those that failed."""

    def offer(self, slots: int, started: float, ended: float) -> None:
        """A run's slots, between two Unix times."""
        places = self.axis.place(np.array([started, ended]))
        self.offered.add(np.zeros(1, np.int64), places[:1], places[1:], np.array([slots]))

    def add(self, run: int, nodes: Sequence[str], batch: Batch) -> None:
        """Attempts of a run; `nodes` are its nodes' names by number."""
        self.kinds += np.bincount(batch.kind, minlength=len(KINDS))
        self.load.add(batch.kind, batch.started, batch.ended, batch.cpus)
        mine = batch.where(batch.kind <= FAILED)
        bad = mine.kind == FAILED
        self.durations.add(mine.seconds, bad)
        self.memory.add(mine.max_rss_kib.astype(np.float64), bad)
        at = self._bin(mine.ended, RATE_BINS)
        for row, mask in enumerate((~bad, bad)):
            self.ended[row] += np.bincount(at[mask], minlength=RATE_BINS)
        for column, numbers in enumerate((mine.node, mine.node[bad])):
            for node, count in enumerate(np.bincount(numbers, minlength=len(nodes)).tolist()):
                if count:
                    self.on_node.setdefault(nodes[node], [0, 0])[column] += count
        if self.one_by_one:
            self.bars.setdefault(run, []).append(batch)
        else:
            self._shade(nodes, batch)

    def _bin(self, places: Floats, bins: int) -> Ints:
        return np.clip((places / self.axis.length_s * bins).astype(np.int64), 0, bins - 1)

    def _shade(self, nodes: Sequence[str], batch: Batch) -> None:
        row = np.array([self.lanes.first[node] for node in nodes])[batch.node]
        if self.lanes.by_slot:
            row = np.minimum(row + batch.slot, len(self.lanes) - 1)
        self.cells.add(row, batch.started, batch.ended, batch.cpus)
        at = row * TIME_BINS + self._bin(batch.ended, TIME_BINS)
        for counts, mask in ((self.ended_in, batch.kind <= FAILED), (self.failed_in, batch.kind == FAILED)):
            counts += np.bincount(at[mask], minlength=counts.size).reshape(counts.shape)
