"""How far something is, at what rate, and when it will be done: on stderr, so that stdout stays for results.

On a terminal a bar of one line; elsewhere (a batch job's log) a plain line every 30 s. Nothing at all is printed, and
rich is not even imported, for what is over within a second. No thread: whoever works calls `show` as often as it likes.
Must never import mpi4py, psycopg or h5py.
"""

from __future__ import annotations

import sys
import time
from collections import deque
from collections.abc import Callable
from typing import TYPE_CHECKING, TextIO

from mpifarm.units import format_seconds

if TYPE_CHECKING:
    from rich.progress import Progress as Bar

_FIRST_BAR_S = 1.0
_BAR_EVERY_S = 0.2
_LINE_EVERY_S = 30.0
_RATE_OVER_S = 30.0
"""A rate is the mean of this long: an ETA that follows every hiccup tells nobody anything."""


def rate_text(per_s: float) -> str:
    """Tasks per second with the digits that mean something: `2,400/s`, `3.1/s`, `42/h`."""
    if per_s >= 10:
        return f"{per_s:,.0f}/s"
    if per_s >= 0.1:
        return f"{per_s:.1f}/s"
    return f"{per_s * 3600:.0f}/h"


def progress_text(done: int, total: int | None, unit: str, per_s: float, note: str = "") -> str:
    """One line: `12,000 of 100,000 tasks (12 %), 2,400/s, done in 37s`."""
    words = [f"{done:,} {unit}" if total is None else f"{done:,} of {total:,} {unit} ({_percent(done, total)} %)"]
    if per_s > 0:
        words.append(rate_text(per_s))
        if total is not None and total > done:
            words.append(f"done in {format_seconds((total - done) / per_s)}")
    if note:
        words.append(note)
    return ", ".join(words)


def _percent(done: int, total: int) -> int:
    return 100 * done // total if total else 100  # rounded down: 100 % is said only when it is over


class Progress:
    """Shows `done` of `total` things; a context manager. `total` None: not known."""

    def __init__(
        self,
        unit: str = "tasks",
        *,
        stream: TextIO | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._unit = unit
        self._stream = stream if stream is not None else sys.stderr
        self._clock = clock
        self._samples: deque[tuple[float, int]] = deque([(clock(), 0)])
        self._terminal = self._stream.isatty()
        self._due = clock() + (_FIRST_BAR_S if self._terminal else _LINE_EVERY_S)
        self._bar: Bar | None = None

    def show(self, done: int, total: int | None = None, note: str = "") -> None:
        """Remember how far it is; print only when it is time to. Cheap enough for every few tasks."""
        now = self._clock()
        if now < self._due:
            return
        per_s = self._rate(done, now)
        if self._terminal:
            self._due = now + _BAR_EVERY_S
            self._draw(done, total, progress_text(done, total, self._unit, per_s, note))
        else:
            self._due = now + _LINE_EVERY_S
            print("mpifarm:", progress_text(done, total, self._unit, per_s, note), file=self._stream, flush=True)

    def _rate(self, done: int, now: float) -> float:
        samples = self._samples
        samples.append((now, done))
        while len(samples) > 2 and samples[1][0] <= now - _RATE_OVER_S:
            samples.popleft()
        then, before = samples[0]
        return max(0.0, (done - before) / max(now - then, 1e-6))

    def _draw(self, done: int, total: int | None, text: str) -> None:
        if self._bar is None:
            from rich.console import Console
            from rich.progress import BarColumn, TextColumn
            from rich.progress import Progress as Bar

            columns = (BarColumn(bar_width=30), TextColumn("{task.description}", markup=False))
            console = Console(file=self._stream)
            # What others print on stderr appears above the bar; stdout is for results and stays untouched.
            self._bar = Bar(*columns, console=console, auto_refresh=False, transient=True, redirect_stdout=False)
            self._bar.add_task("", total=None)
            self._bar.start()
        self._bar.update(self._bar.task_ids[0], completed=done, total=total, description=text, refresh=True)

    def close(self) -> None:
        """Take the bar away; what was reached is for the caller to say."""
        if self._bar is not None:
            self._bar.stop()
            self._bar = None

    def __enter__(self) -> Progress:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
