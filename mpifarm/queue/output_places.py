"""Where the outputs of a job's tasks are, many at once: the server packs the rows, and one value crosses the wire.

A row of psycopg costs microseconds, which would be most of the time of whoever looks at a million tasks.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from mpifarm.core.model import JobId
from mpifarm.queue.caps import cap
from mpifarm.queue.connection import Connection
from mpifarm.queue.statements import queries

SQL = queries()

COLUMNS = (
    ("task", "i4"), ("run", "i4"), ("row", "i8"), ("lease", "i8"), ("attempt", "i2"), ("checksum", "i8"),
)  # fmt: skip
"""As the query `places` gives them; `checksum` 2 ** 40: it has none."""
PLACE_TYPE = np.dtype([(name, "<" + code) for name, code in COLUMNS])

_WIRE = np.dtype([(name, f">{code}") for name, code in COLUMNS])

Places = np.ndarray[Any, Any]


def places(connection: Connection, job: JobId, lo: int, hi: int) -> Iterator[Places]:
    """Tasks [lo, hi) that have an outcome, in order."""
    while lo < hi:
        values = {"job": job, "lo": lo, "hi": hi, "places": cap("places")}
        row = connection.execute(SQL["places"], values, binary=True).fetchone()
        wire = np.frombuffer((row and row[0]) or b"", _WIRE)
        if not len(wire):
            return
        yield wire.astype(PLACE_TYPE)
        lo = int(wire["task"][-1]) + 1
