"""Loads the tasks of one submit but for those that are known in their directory: `submit --dedupe` and `--once`.

Two tasks are the same when they have the same command and entry and start in the same directory. Left out is what has
succeeded, and what is queued: it waits, is ready or is leased; with `once` also what has ended badly, so that a submit
brings each task one time, whatever becomes of it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

from mpifarm.core.model import Part
from mpifarm.queue.load import Loading, Place
from mpifarm.queue.statements import queries

SQL = queries()
_TABLES = ("make_staging", "make_staging_shapes", "make_staging_needs", "make_staging_kept", "make_staging_out")


class Screening(Loading):
    """Those that stay are numbered without gaps, and wait for what was left out where that is."""

    _COPY, _ADD_RANGES, _ADD_NEEDS = SQL["copy_staged"], SQL["add_staged_shapes"], SQL["add_staged_needs"]

    def __init__(self, place: Place, cwd: bytes, once: bool) -> None:
        super().__init__(place)
        self._known = {"cwd": cwd, "once": once}
        for statement in _TABLES:
            self._connection.execute(SQL[statement])

    def load(self, parts: Iterable[Part], progress: Callable[[int], None] | None = None) -> None:
        super().load(parts, progress)
        self._flush_ranges(keep=0)
        self._connection.execute(SQL["analyze_staged"])
        self._connection.execute(SQL["lock_screening"], self._known)
        self._connection.execute(SQL["leave_out"], self._known)
        for why, name, count in self._connection.execute(SQL["left_out"]):
            self.skipped += count
            if why:
                (self.queued if why == 1 else self.ended)[name] = count
        self._connection.execute(SQL["keep_unknown"], {"before": self._before})
        row = self._connection.execute(SQL["add_staged_tasks"]).fetchone()
        assert row is not None
        self.tasks, self.body_bytes = row

    def make_ready(self) -> None:
        place = {"job": self._job, "before": self._before}
        self._connection.execute(SQL["add_staged_ready"], place)
        self._connection.execute(SQL["keep_needs"], place)
        self.parents = {job for (job,) in self._connection.execute(SQL["need_left_out"], place)}
