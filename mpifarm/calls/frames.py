"""What a launcher and an interpreter say to each other, on a pair of stream sockets. Imports nothing heavy.

request: REQUEST(task, attempt, bytes of the body, bytes of the entry or NO_ENTRY), body, entry
answer:  ANSWER(...), the stream CONTENTS, the stream VALUES
"""

from __future__ import annotations

import struct
from pathlib import Path
from typing import NamedTuple

REQUEST = struct.Struct("<IHII")
"""Task, attempt, bytes of the body, of the entry."""
NO_ENTRY = 0xFFFF_FFFF
ANSWER = struct.Struct("<BHddddIQQIQ")
"""The fields of an Answer."""
PROGRAM = str(Path(__file__).with_name("interpreter.py"))


class Answer(NamedTuple):
    """How a call went. Times in Unix seconds, sizes in bytes."""

    raised: int
    """1: it raised."""
    left: int
    """Processes that it started and that live on."""
    started: float
    ended: float
    ru_utime: float
    ru_stime: float
    ru_maxrss: int
    """KiB."""
    ru_inblock: int
    ru_oublock: int
    contents_bytes: int
    values_bytes: int


def request(task: int, attempt: int, body: bytes, entry: bytes | None) -> bytes:
    """One call."""
    header = REQUEST.pack(task, attempt, len(body), NO_ENTRY if entry is None else len(entry))
    return header + body + (entry or b"")
