"""A packed row passes a leader, which looks at some of its fields and sets two of them in place."""

from __future__ import annotations

from mpifarm.core.row import AttemptRow, Glance, glances, set_extents, unpack_rows
from tests.rows import a_row


def test_what_a_leader_sees_and_sets() -> None:
    """Every field of a Glance is the row's, and only the extents of only that row change."""
    rows = [a_row(7, task, 3, cpus=task + 1, left=task)._replace(**_numbered(task)) for task in range(1, 4)]
    packed = bytearray(b"".join(row.packed() for row in rows))
    seen = list(glances(bytes(packed)))
    assert seen == [Glance(*(getattr(row, name) for name in Glance._fields)) for row in rows]
    set_extents(packed, len(rows[0].packed()), -5, 1 << 40)
    assert list(unpack_rows(bytes(packed))) == [rows[0], rows[1]._replace(extent_lo=-5, extent_hi=1 << 40), rows[2]]


def _numbered(start: int) -> dict[str, int]:
    """Fields of which each has another value."""
    names = [name for name in AttemptRow._fields if name not in ("started", "ended", "user_s", "system_s")]
    return {name: start * 40 + number for number, name in enumerate(names)}
