"""Where the outputs of a job's tasks are, for all of them at once: the columns come as arrays, by binary COPY.

A row of psycopg costs microseconds, which is most of the time of whoever looks at a million tasks.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from mpifarm.core.model import JobId
from mpifarm.queue.connection import Connection
from mpifarm.queue.statements import queries

SQL = queries()

COLUMNS = (
    ("task", "i4"), ("run", "i4"), ("row", "i8"), ("lease", "i8"), ("attempt", "i2"), ("checksum", "i8"),
)  # fmt: skip
"""As the query `copy_places` gives them; `checksum` 2 ** 40: it has none."""
PLACE_TYPE = np.dtype([(name, "<" + code) for name, code in COLUMNS])
TASKS_AT_ONCE = 1 << 14

_WIRE = np.dtype(
    [("columns", ">i2")]
    + [field for name, code in COLUMNS for field in ((f"{name}_length", ">i4"), (name, f">{code}"))]
)
_HEADER_BYTES, _TRAILER_BYTES = 19, 2

Places = np.ndarray[Any, Any]


def places(connection: Connection, job: JobId, lo: int, hi: int) -> Iterator[Places]:
    """Tasks [lo, hi) that have an outcome, in order."""
    size = _WIRE.itemsize
    with connection.cursor().copy(SQL["copy_places"], {"job": job, "lo": lo, "hi": hi}) as copy:
        held, count = [bytes(copy.read())[_HEADER_BYTES:]], 0
        for data in copy:
            held.append(bytes(data))
            count += 1
            if count == TASKS_AT_ONCE:
                content = b"".join(held)
                whole = len(content) - len(content) % size
                yield _unpacked(content[:whole])
                held, count = [content[whole:]], 0
        content = b"".join(held)
        yield _unpacked(content[: len(content) - len(content) % size])


def _unpacked(content: bytes) -> Places:
    wire = np.frombuffer(content, _WIRE)
    rows = np.zeros(len(wire), PLACE_TYPE)
    for name, _ in COLUMNS:
        rows[name] = wire[name]
    return rows
