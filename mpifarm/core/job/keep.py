"""What a job keeps of its tasks' stdout and stderr: `--keep all|failed|none|tail:64K`. Pure.

`Policy.keep` holds the text; `parse_keep` is for whoever takes it from a user and for the launcher, which applies it.
"""

from __future__ import annotations

import re
from typing import NamedTuple

ALL, FAILED, NONE, TAIL = "all", "failed", "none", "tail"

TAIL_BYTES_MAX = 1 << 20
"""Of a stream: a node holds twice that in memory for each running attempt and stream."""

_TAIL = re.compile(r"tail:([0-9]{1,9})([kKmM]?)(?:i?[bB])?")
_UNITS = {"": 1, "k": 1 << 10, "m": 1 << 20}


class Keep(NamedTuple):
    what: str
    """ALL, FAILED (of attempts that did not succeed), NONE, or TAIL."""
    tail_bytes: int = 0
    """With TAIL: so many last bytes of each stream."""


def parse_keep(text: str) -> Keep:
    """Raises ValueError, whose text says what may be written."""
    plain = text.strip()
    if plain in (ALL, FAILED, NONE):
        return Keep(plain)
    found = _TAIL.fullmatch(plain)
    size = int(found[1]) * _UNITS[found[2].lower()] if found else 0
    if not 0 < size <= TAIL_BYTES_MAX:
        raise ValueError(f"{text!r}: write all, failed, none, or tail:64K for the last 64 KiB (at most tail:1M)")
    return Keep(TAIL, size)
