"""Charts as SVG text: numbers in, markup out. Pure. Colours are classes of the page's style sheet, never values.

Every text passes through `escape`, whoever wrote it. Must never import h5py or the queue.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from html import escape
from math import ceil, floor, log10
from typing import NamedTuple

import numpy as np

from mpifarm.core.plural import counted
from mpifarm.outputs.accounting import Floats, Ints
from mpifarm.page.binning import KINDS, Batch, Histogram, Lanes, TimeAxis
from mpifarm.show.text import when
from mpifarm.units import format_bytes, format_seconds

WIDTH, LEFT, RIGHT, TOP, BOTTOM = 960, 64, 12, 14, 28
_STAMP_WIDTH = 112
"""Of a date and time as text."""
_TIME_STEPS_S = [
    *(m * 10.0**e for e in range(-4, 1) for m in (1, 2, 5)), 10, 15, 30, 60, 120, 300, 600, 900, 1800,
    *(3600 * h for h in (1, 2, 3, 6, 12, 24, 48, 120, 240, 480, 1200)),
]  # fmt: skip
_DURATION_TICKS_S = (1e-4, 1e-3, 0.01, 0.1, 1, 10, 60, 600, 3600, 36000, 86400, 864000, 8640000)
_BINS_MIN = 8
"""Of a histogram: one value alone gets no bar as wide as the chart."""
_SHADES = 5
MARKED_SHARE = 0.1
"""Of the tasks that ended in a bin of time: so many failed that it gets a mark."""
_TOLD = ("succeeded", "failed", "cancelled", "lost", "of another job")
assert len(_TOLD) == len(KINDS)


class Layer(NamedTuple):
    """One of several amounts stacked on each other."""

    style: str
    name: str
    values: Floats


class Frame(NamedTuple):
    """Where the plot of a chart lies, in units of its viewBox."""

    width: int
    height: int
    left: int = LEFT
    bottom: int = BOTTOM

    def x(self, share: float) -> float:
        return self.left + share * (self.width - self.left - RIGHT)

    def y(self, share: float) -> float:
        return self.height - self.bottom - share * (self.height - self.bottom - TOP)

    def svg(self, name: str, label: str, parts: Iterable[str]) -> str:
        """The whole chart; `label` says what it shows to those who cannot see it."""
        head = f'<svg id="{name}" viewBox="0 0 {self.width} {self.height}" role="img" aria-label="{escape(label)}">'
        return f"{head}{''.join(parts)}</svg>"

    def text(self, x: float, y: float, text: str, anchor: str = "middle", style: str = "tick") -> str:
        return f'<text class="{style}" x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}">{escape(text)}</text>'

    def line(self, x1: float, y1: float, x2: float, y2: float, style: str = "grid") -> str:
        return f'<line class="{style}" x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}"/>'

    def amounts(self, top: float, unit: str) -> Iterator[str]:
        """Grid and numbers of a linear vertical axis from 0 to `top`."""
        step = _round_step(top / 5)
        for n in range(floor(top / step + 1e-9) + 1):
            y = self.y(n * step / top)
            yield self.line(self.left, y, self.width - RIGHT, y)
            yield self.text(self.left - 8, y + 4, f"{n * step:,.10g}", "end")
        middle = self.y(0.5)
        yield (
            f'<text class="unit" transform="translate(13 {middle:.1f}) rotate(-90)" text-anchor="middle">'
            f"{escape(unit)}</text>"
        )

    def tick(self, x: float, text: str) -> Iterator[str]:
        """A mark on the horizontal axis, its text within the chart."""
        yield self.line(x, self.y(0), x, self.y(0) + 4, "axis")
        yield self.text(min(x, self.width - 4 * len(text)), self.height - 8, text)

    def times(self, axis: TimeAxis) -> Iterator[str]:
        """Ticks of run time, and where a later part of it begins."""
        step = next((s for s in _TIME_STEPS_S if axis.length_s / s <= 9), axis.length_s)
        for n in range(floor(axis.length_s / step) + 1):
            x = self.x(n * step / axis.length_s)
            yield from self.tick(x, format_seconds(n * step))
        free_from = 0.0
        for place, started in axis.parts[1:]:
            x = self.x(place / axis.length_s)
            yield self.line(x, self.y(0), x, self.y(1), "break")
            if free_from <= x <= self.width - _STAMP_WIDTH:
                yield self.text(x, TOP - 3, when(started), "start")
                free_from = x + _STAMP_WIDTH


def _round_step(least: float) -> float:
    """The next of 1, 2, 5, 10, 20 ..."""
    if least <= 0:
        return 1.0
    power = 10.0 ** floor(log10(least))
    return power * next(m for m in (1, 2, 5, 10) if m * power >= least * (1 - 1e-9))


def over_time(name: str, label: str, unit: str, axis: TimeAxis, layers: Sequence[Layer], limit: Floats | None) -> str:
    """Amounts per bin of time, stacked in the order given; `limit` is drawn as a line above them."""
    frame = Frame(WIDTH, 200)
    stacked = np.cumsum([layer.values for layer in layers], axis=0)
    bins = stacked.shape[1]
    highest = max(float(stacked[-1].max()), 0.0 if limit is None else float(limit.max()))
    top = highest * 1.05 if highest > 0 else 1.0
    parts = [*frame.amounts(top, unit), *frame.times(axis)]
    below = np.zeros(bins)
    for layer, above in zip(layers, stacked):
        if layer.values.any():
            parts.append(f'<path class="{layer.style}" d="{_steps(frame, above, below, top)}"/>')
        below = above
    if limit is not None:
        parts.append(f'<path class="limit" d="{_outline(frame, limit, top)}"/>')
    width = frame.x(1 / bins) - frame.x(0)
    parts.append('<g class="hover">')
    for i in range(bins):
        told = ", ".join(f"{layer.values[i]:,.4g} {layer.name}" for layer in layers if layer.values[i] > 0)
        at = format_seconds((i + 0.5) / bins * axis.length_s)
        rest = f" of {limit[i]:,.4g} {unit}" if limit is not None else f" {unit}"
        parts.append(_box(frame.x(i / bins), frame.y(1), width, frame.y(0) - frame.y(1), f"{at}: {told or 0}{rest}"))
    return frame.svg(name, label, [*parts, "</g>"])


def _steps(frame: Frame, above: Floats, below: Floats, top: float) -> str:
    """The area between two step lines."""
    bins = len(above)
    there = [
        f"L{frame.x(i / bins):.1f} {frame.y(v / top):.1f}H{frame.x((i + 1) / bins):.1f}" for i, v in enumerate(above)
    ]
    back = [
        f"L{frame.x((i + 1) / bins):.1f} {frame.y(below[i] / top):.1f}H{frame.x(i / bins):.1f}"
        for i in range(bins - 1, -1, -1)
    ]
    return "M" + "".join(there)[1:] + "".join(back) + "Z"


def _outline(frame: Frame, values: Floats, top: float) -> str:
    bins = len(values)
    return "M" + "".join(
        f"L{frame.x(i / bins):.1f} {frame.y(v / top):.1f}H{frame.x((i + 1) / bins):.1f}" for i, v in enumerate(values)
    )[1:]  # fmt: skip


def _box(x: float, y: float, width: float, height: float, title: str, style: str = "") -> str:
    look = f' class="{style}"' if style else ""
    place = f'x="{x:.2f}" y="{y:.1f}" width="{width:.2f}" height="{height:.1f}"'
    return f"<rect{look} {place}><title>{escape(title)}</title></rect>"


def histogram(
    name: str, label: str, counts: Histogram, ticks: Iterable[tuple[float, str]], show: Callable[[float], str]
) -> str:
    """Counts over a logarithmic axis, cut to where there are any; `show` writes a value of it."""
    total = counts.counts.sum(axis=0)
    used = np.flatnonzero(total)
    lo, hi = (int(used[0]), int(used[-1]) + 1) if used.size else (0, 1)
    while hi - lo < min(_BINS_MIN, len(total)):
        lo, hi = max(0, lo - 1), min(len(total), hi + 1)
    frame = Frame(WIDTH // 2 - 12, 220)
    edges, top = counts.edges, max(1.0, float(total[lo:hi].max())) * 1.05
    bins, first, last = hi - lo, float(np.log(edges[lo])), float(np.log(edges[hi]))
    parts = list(frame.amounts(top, "tasks"))
    shown = [
        (frame.x((np.log(value) - first) / (last - first)), text)
        for value, text in ticks
        if edges[lo] <= value <= edges[hi]
    ]
    for x, text in shown[:: ceil(len(shown) / 7) or 1]:
        parts += frame.tick(x, text)
    for i in range(bins):
        y = 0.0
        for kind, style in enumerate(("succeeded", "failed")):
            count = int(counts.counts[kind][lo + i])
            if count:
                x, width = frame.x(i / bins) + 0.5, frame.x(1 / bins) - frame.x(0) - 1
                title = f"{show(edges[lo + i])} to {show(edges[lo + i + 1])}: {count:,} {style}"
                high = frame.y(y / top) - frame.y((y + count) / top)
                parts.append(_box(x, frame.y((y + count) / top), width, high, title, style))
                y += count
    return frame.svg(name, label, parts)


def durations(counts: Histogram) -> str:
    ticks = [(s, format_seconds(s)) for s in _DURATION_TICKS_S]
    return histogram("durations", "how long the tasks took", counts, ticks, format_seconds)


def memory(counts: Histogram) -> str:
    ticks = [(2.0**n, format_bytes(1 << (n + 10))) for n in range(4, 36)]
    return histogram(
        "memory", "how much memory the tasks used", counts, ticks, lambda kib: format_bytes(int(kib * 1024))
    )


def _lane_frame(lanes: Lanes) -> tuple[Frame, float]:
    """The frame of a chart with these rows, and how high each is."""
    high = min(22.0, max(5.0, 420 / max(1, len(lanes))))
    return Frame(WIDTH, round(TOP + BOTTOM + high * max(1, len(lanes))), left=104), high


def _lane_names(frame: Frame, lanes: Lanes, high: float) -> Iterator[str]:
    """Node names beside the rows, where there is room for them."""
    free_from = 0.0
    for row, name in enumerate(lanes.names):
        y = TOP + row * high
        if name:
            yield frame.line(frame.left, y, frame.width - RIGHT, y)
            if y >= free_from:
                shown = name if len(name) <= 14 else name[:6] + "…" + name[-7:]
                yield frame.text(frame.left - 8, y + min(high, 14) / 2 + 4, shown, "end")
                free_from = y + 13


def bars(axis: TimeAxis, lanes: Lanes, runs: Sequence[tuple[int, Sequence[tuple[str, int]], Batch]]) -> str:
    """One bar for each attempt; `runs` are (number, (name, slots) of its nodes, attempts)."""
    frame, high = _lane_frame(lanes)
    groups: list[list[str]] = [[] for _ in KINDS]
    for run, nodes, batch in runs:
        for i, stretches in enumerate(batch.held([slots for _, slots in nodes])):
            node, cpus, kind = nodes[batch.node[i]][0], int(batch.cpus[i]), int(batch.kind[i])
            title = f"task {batch.task[i]} {_TOLD[kind]}, {format_seconds(float(batch.seconds[i]))}, {node}"
            title += f" slot {batch.slot[i]}, {counted(cpus, 'core')}" if cpus > 1 else f" slot {batch.slot[i]}"
            title += f", attempt {batch.attempt[i]}, run {run}"
            x = frame.x(batch.started[i] / axis.length_s)
            width = max(0.6, frame.x(batch.ended[i] / axis.length_s) - x)
            for first, count in stretches:
                y = TOP + (lanes.first[node] + first) * high + 0.5
                groups[kind].append(_box(x, y, width, count * high - 1, title))
    parts = [*_lane_names(frame, lanes, high), *frame.times(axis)]
    for kind in range(len(KINDS) - 1, -1, -1):  # a failure is not to vanish behind a neighbour
        parts += [f'<g class="{KINDS[kind]} bars">', *groups[kind], "</g>"]
    return frame.svg("gantt", "when each task ran, by node and slot", parts)


def shades(axis: TimeAxis, lanes: Lanes, seconds: Floats, ended: Ints, failed: Ints) -> str:
    """How busy each row was in each bin of time, in fifths, neighbours of a shade joined; marked where many failed."""
    frame, high = _lane_frame(lanes)
    bins = seconds.shape[1]
    full = np.array(lanes.slots, float)[:, None] * axis.length_s / bins
    shade = np.ceil(np.minimum(1.0, seconds / full) * _SHADES - 1e-6).astype(int)
    parts = [*_lane_names(frame, lanes, high), *frame.times(axis)]
    for level in range(1, _SHADES + 1):
        parts.append(f'<g class="shade{level}">')
        for row in range(len(lanes)):
            for lo, hi in _stretches(shade[row] == level):
                x, y, width = frame.x(lo / bins), TOP + row * high, frame.x(hi / bins) - frame.x(lo / bins)
                parts.append(f'<rect x="{x:.1f}" y="{y + 0.5:.1f}" width="{width:.1f}" height="{high - 1:.1f}"/>')
        parts.append("</g>")
    parts.append('<g class="failed">')
    for row, at in np.argwhere((failed > 0) & (failed >= MARKED_SHARE * ended)):
        x, y = frame.x(at / bins), TOP + (row + 1) * high - 0.5 - max(2.0, high / 4)
        title = (
            f"{failed[row, at]:,} of {ended[row, at]:,} failed at {format_seconds((at + 0.5) / bins * axis.length_s)}"
        )
        parts.append(_box(x, y, frame.x(1 / bins) - frame.x(0), max(2.0, high / 4), title))
    return frame.svg("gantt", "how busy each row was over time", [*parts, "</g>"])


def _stretches(mask: np.ndarray[tuple[int], np.dtype[np.bool_]]) -> Iterator[tuple[int, int]]:
    """Half-open index ranges where it holds."""
    edges = np.flatnonzero(np.diff(np.r_[False, mask, False]))
    return zip(edges[::2].tolist(), edges[1::2].tolist())
