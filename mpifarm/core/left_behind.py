"""What an attempt left besides its output, and where it lies: the stream CONTENTS of an attempt. Pure.

Captured files lie one behind the other in the stream CAPTURED, arrays likewise in VALUES. CONTENTS is text, so that
anybody can read it: a JSON object per line,

    {"stream": 3, "name": "out/7.npy", "offset": 0, "length": 208, "crc32": 907060870}
    {"stream": 4, "name": "energy", "offset": 0, "length": 24, "crc32": 1, "dtype": "<f8", "shape": [3]}
    {"note": "no file out/*.txt"}
    {"lines": 3, "crc32": 123}

the last of which proves those before it. `offset` counts from the begin of the stream of that attempt. Bytes of a name
that are no UTF-8 are lone surrogates, as Python writes file names. An array is its bytes in C order.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import NamedTuple
from zlib import crc32

PLAIN_KINDS = "biufcSUmM?"
"""Kinds of NumPy's dtypes whose bytes are their value."""


class Entry(NamedTuple):
    """A file or an array. `dtype` (as numpy's `dtype.str`) and `shape` for arrays only."""

    stream: int
    name: str
    offset: int
    length: int
    crc32: int
    dtype: str | None = None
    shape: tuple[int, ...] | None = None


class Contents(NamedTuple):
    entries: tuple[Entry, ...] = ()
    notes: tuple[str, ...] = ()
    """Why something that was asked for is not there."""


class Listing:
    """Writes the contents of an attempt, line by line."""

    def __init__(self) -> None:
        self._lines: list[bytes] = []
        self._ends: dict[int, int] = {}

    def __bool__(self) -> bool:
        return bool(self._lines)

    def add(
        self, stream: int, name: str, length: int, checksum: int, dtype: str | None = None, shape: Iterable[int] = ()
    ) -> None:
        """What was appended to the stream last."""
        offset = self._ends.get(stream, 0)
        self._ends[stream] = offset + length
        entry: dict[str, object] = {"stream": stream, "name": name, "offset": offset}
        entry |= {"length": length, "crc32": checksum}
        if dtype is not None:
            entry |= {"dtype": dtype, "shape": list(shape)}
        self._append(entry)

    def note(self, text: str) -> None:
        self._append({"note": text})

    def _append(self, line: dict[str, object]) -> None:
        self._lines.append(json.dumps(line).encode() + b"\n")

    def text(self) -> bytes:
        """The whole stream CONTENTS."""
        body = b"".join(self._lines)
        return body + json.dumps({"lines": len(self._lines), "crc32": crc32(body)}).encode() + b"\n"


def parse_contents(text: bytes) -> Contents:
    """Raises ValueError when it is not whole."""
    body, _, last = text[:-1].rpartition(b"\n")
    body += b"\n" if body else b""
    end = json.loads(last)
    if end["lines"] != body.count(b"\n") or end["crc32"] != crc32(body):
        raise ValueError("its last line does not prove the others")
    lines = [json.loads(line) for line in body.splitlines()]
    notes = tuple(line["note"] for line in lines if "note" in line)
    return Contents(tuple(_entry(line) for line in lines if "name" in line), notes)


def _entry(line: dict[str, object]) -> Entry:
    known = {name: value for name, value in line.items() if name in Entry._fields}
    if isinstance(shape := known.get("shape"), list):
        known["shape"] = tuple(shape)
    return Entry(**known)  # type: ignore[arg-type]
