"""Loads the tasks of one submit: binary COPY out of buffers packed here, ready ranges beside it.

`Loading` sends them straight to their table; `queue.screening` by way of temporary ones, where those that are known are
left out.

Part of `queue.client`. Nothing is kept but one buffer and the ranges of the COPY under way, so ten million tasks take
no more memory than ten thousand, also when every line needs something else.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Collection, Iterable, Iterator
from itertools import chain, count, repeat, starmap
from struct import Struct
from typing import NamedTuple

from mpifarm.core.model import JobId, Kind, Parent, Part, TaskText
from mpifarm.core.needs import Needs
from mpifarm.errors import UsageError
from mpifarm.queue.arrays import Int2s, Int4s
from mpifarm.queue.caps import cap
from mpifarm.queue.connection import Connection
from mpifarm.queue.lease_limits import check_kind
from mpifarm.queue.statements import queries

SQL = queries()

_HEADER = b"PGCOPY\n\xff\r\n\0" + bytes(8)
_TRAILER = b"\xff\xff"
_ROW = Struct(">hiiiii")
"""Four columns: (length, job), (length, number), length of the body."""
_LENGTH = Struct(">i")
_NULL = _LENGTH.pack(-1)

_FOUR = repeat(4)
_NULLS: Iterable[bytes] = repeat(_NULL)

TASKS_MAX = 2**31 - 2
"""In one job."""


class Place(NamedTuple):
    """Where tasks go. `before`: tasks the job has already; `after`: what all of them wait for."""

    connection: Connection
    job: JobId
    before: int = 0
    after: tuple[Parent, ...] = ()


class _Range(NamedTuple):
    """Tasks [lo, hi) on their way in."""

    needs: Needs
    kind: Kind
    parents: tuple[Parent, ...]
    lo: int
    hi: int


class Loading:
    """Tasks of one job on their way in, inside the caller's transaction."""

    _COPY, _ADD_RANGES, _ADD_NEEDS = SQL["copy_tasks"], SQL["add_ready"], SQL["add_needs"]

    def __init__(self, place: Place) -> None:
        self._connection, self._job, self._before, self._after = place
        self._ranges: list[_Range] = []
        self.tasks = 0
        self.body_bytes = 0
        self.skipped = 0
        """Tasks that were left out."""
        self.queued: dict[str, int] = {}
        """Of these, how many are queued in which job,"""
        self.ended: dict[str, int] = {}
        """and how many have ended badly in which."""
        self.parents: set[JobId] = set()
        """Other jobs that these wait for since tasks of theirs were left out."""

    def load(self, parts: Iterable[Part], progress: Callable[[int], None] | None = None) -> None:
        """Raises UsageError for more tasks than a job holds."""
        pieces = self._pieces(parts)
        for piece in pieces:
            with self._connection.cursor().copy(self._COPY) as copy:
                copy.write(_HEADER + piece)
                while len(self._ranges) <= cap("ranges") and (following := next(pieces, None)) is not None:
                    copy.write(following)
                    if progress is not None:
                        progress(self.tasks)
                copy.write(_TRAILER)
            self._flush_ranges(keep=1)

    def make_ready(self) -> None:
        """The last ranges; once the job has its row."""
        self._flush_ranges(keep=0)

    def _flush_ranges(self, keep: int) -> None:
        """`keep`: the youngest range may still grow."""
        ranges = self._ranges[: len(self._ranges) - keep]
        del self._ranges[: len(ranges)]
        shapes = self._shapes(dict.fromkeys((part.kind, part.needs) for part in ranges))
        values = {
            "job": self._job,
            "shape": Int4s([shapes[part.kind, part.needs] for part in ranges]),
            "lo": Int4s([part.lo for part in ranges]),
            "hi": Int4s([part.hi for part in ranges]),
            "waits": Int4s([len(part.parents) for part in ranges]),
        }
        self._connection.execute(self._ADD_RANGES, values)
        needs = [(part.lo, part.hi, *self._absolute(parent)) for part in ranges for parent in part.parents]
        if needs:
            names = ("lo", "hi", "parent", "parent_lo", "parent_hi", "any_end")
            columns = {name: Int4s(column) for name, column in zip(names, zip(*needs))}
            self._connection.execute(self._ADD_NEEDS, {"job": self._job, **columns})

    def _shapes(self, wanted: Collection[tuple[Kind, Needs]]) -> dict[tuple[Kind, Needs], int]:
        """The numbers of these shapes in the job; those that are new to it are added."""
        kinds, needs = Int2s([kind for kind, _ in wanted]), [json.dumps(needs.to_json()) for _, needs in wanted]
        rows = self._connection.execute(SQL["add_shapes"], {"job": self._job, "kind": kinds, "needs": needs})
        return dict(zip(wanted, (number for (number,) in rows)))

    def _absolute(self, parent: Parent) -> tuple[int, int, int, int]:
        """Job, lo, hi, any: numbers within the submission as those within the job."""
        shift, job = (self._before, self._job) if parent.job is None else (0, parent.job)
        return job, parent.lo + shift, parent.hi + shift, int(parent.any)

    def _pieces(self, parts: Iterable[Part]) -> Iterator[bytes]:
        """Rows for COPY, many at once; counts as it goes."""
        rows: list[bytes] = []
        sent, most = self.tasks, cap("piece")
        for needs, texts, parents, kind in starmap(Part, parts):
            for at in range(0, len(texts), most):
                self._append(Part(needs, texts[at : at + most], parents + self._after, kind), rows)
                if self.tasks - sent >= most:
                    yield b"".join(rows)
                    rows.clear()
                    sent = self.tasks
        if rows:
            yield b"".join(rows)

    def _append(self, part: Part, rows: list[bytes]) -> None:
        """Rows of `part`, made and joined without a step of Python per task: a submit should be bound by the server."""
        needs, texts, parents, kind = part
        check_kind(kind)
        first = self._before + self.tasks + 1
        if isinstance(texts[0], bytes):
            bodies, tails = texts, _NULLS
        else:
            bodies, tails = _columns(texts)
        sizes = list(map(len, bodies))
        heads = map(_ROW.pack, _FOUR, _FOUR, repeat(self._job), _FOUR, count(first), sizes)
        rows.append(b"".join(chain.from_iterable(zip(heads, bodies, tails))))
        self.body_bytes += sum(sizes)
        self.tasks += len(texts)
        end = first + len(texts)
        if end > TASKS_MAX + 1:
            raise UsageError(f"a job holds {TASKS_MAX:,} tasks at most")
        if self._ranges and self._ranges[-1][:3] == (needs, kind, parents):
            self._ranges[-1] = self._ranges[-1]._replace(hi=end)
        else:
            self._ranges.append(_Range(needs, kind, parents, first, end))


def _columns(texts: list[TaskText]) -> tuple[list[bytes], Iterable[bytes]]:
    """Bodies, and entries as they go over the wire."""
    bodies, entries = zip(*texts)
    if any(entry is not None for entry in entries):
        return list(bodies), [_NULL if entry is None else _LENGTH.pack(len(entry)) + entry for entry in entries]
    return list(bodies), _NULLS
