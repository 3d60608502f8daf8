"""What an attempt left besides its output: captured files, and arrays with their dtype and shape.

Whoever reads a run file without mpifarm finds them so (`a` and `e` as in `mpifarm.runfile.reader`, for `e` without the
condition on `stream`):

    def stream(n):
        return b"".join(f["bytes"][x["position"] : x["position"] + x["length"]].tobytes() for x in e[e["stream"] == n])

    for line in map(json.loads, stream(5).splitlines()):
        if "name" in line:
            content = stream(line["stream"])[line["offset"] : line["offset"] + line["length"]]

Nothing is ever unpickled. Raises OutputError where something is damaged.
"""

from __future__ import annotations

import io
import zlib
from collections.abc import Iterator
from functools import cached_property
from math import prod
from typing import Any

import numpy as np

from mpifarm.core.left_behind import PLAIN_KINDS, Contents, Entry, parse_contents
from mpifarm.core.row import CAPTURED, CONTENTS, HAS_CONTENTS, VALUES, AttemptRow
from mpifarm.errors import OutputError
from mpifarm.runfile.reader import RunFile


class Captured:
    """A captured file, or an array; it is read when it is asked for."""

    def __init__(self, run: RunFile, attempt: AttemptRow, entry: Entry) -> None:
        self._run, self._attempt, self._entry = run, attempt, entry

    def __repr__(self) -> str:
        return f"<{self.name!r}: {self.length} bytes>"

    @property
    def name(self) -> str:
        """Of a file: its path below the directory of the task. Bytes that are no UTF-8 are lone surrogates."""
        return self._entry.name

    @property
    def length(self) -> int:
        """In bytes."""
        return self._entry.length

    @property
    def dtype(self) -> str | None:
        """As numpy writes it; None: it is a file."""
        return self._entry.dtype

    @property
    def shape(self) -> tuple[int, ...] | None:
        return self._entry.shape

    def pieces(self) -> Iterator[bytes]:
        """The content in pieces of at most 256 KiB. Raises OutputError at the end when it is not what was captured."""
        size = checksum = 0
        for piece in self._run.part(self._attempt, self._entry.stream, self._entry.offset, self.length):
            size += len(piece)
            checksum = zlib.crc32(piece, checksum)
            yield piece
        if (size, checksum) != (self.length, self._entry.crc32):
            raise OutputError(f"{self._place()}: {size} bytes of {self.length} are there, or their CRC-32 is wrong")

    @cached_property
    def bytes(self) -> bytes:
        """The whole content."""
        return b"".join(self.pieces())

    @cached_property
    def array(self) -> np.ndarray[Any, Any]:
        """A value as it was given, or the array in a captured .npy file. Raises OutputError for any other content."""
        content = self.bytes
        try:
            if self._entry.dtype is None:
                file = io.BytesIO(content)
                # numpy 2.2, the last for Python 3.10, has no types for it
                found = np.lib.format.read_array(file, allow_pickle=False)  # type: ignore[no-untyped-call,unused-ignore]
                return np.asarray(found)
            kind, shape = np.dtype(self._entry.dtype), self._entry.shape or ()
            if kind.kind not in PLAIN_KINDS or kind.itemsize * prod(shape) != len(content):
                raise ValueError(f"no array of {kind} with shape {shape}")
            return np.frombuffer(content, kind).reshape(shape).copy()
        except (ValueError, TypeError, EOFError, SyntaxError, MemoryError, OverflowError) as error:
            raise OutputError(f"{self._place()} is no array: {error}") from error

    def _place(self) -> str:
        a = self._attempt
        return f"run file {self._run.path}: {self.name!r} of job {a.job} task {a.task}"


def contents(run: RunFile, attempt: AttemptRow) -> Contents:
    """What there is, and what is not."""
    if not attempt.flags & HAS_CONTENTS:
        return Contents()
    try:
        return parse_contents(b"".join(run.part(attempt, CONTENTS)))
    except (ValueError, KeyError, TypeError) as error:
        place = f"job {attempt.job} task {attempt.task}"
        raise OutputError(f"run file {run.path} is damaged: the contents of {place}: {error}") from error


def captured(run: RunFile, attempt: AttemptRow) -> dict[str, Captured]:
    """The captured files by name."""
    return _of_stream(run, attempt, CAPTURED)


def values(run: RunFile, attempt: AttemptRow) -> dict[str, Captured]:
    """The arrays by name."""
    return _of_stream(run, attempt, VALUES)


def everything(run: RunFile, attempt: AttemptRow) -> list[Captured]:
    """Files and arrays."""
    return [Captured(run, attempt, entry) for entry in contents(run, attempt).entries]


def _of_stream(run: RunFile, attempt: AttemptRow, stream: int) -> dict[str, Captured]:
    entries = contents(run, attempt).entries
    return {entry.name: Captured(run, attempt, entry) for entry in entries if entry.stream == stream}
