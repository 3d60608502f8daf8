"""`--grep`: lines of outputs in which a regular expression is found, as `TASK: line`. Streams; pure but for the stream.

Lines are bytes between newlines. One that is longer than `LINE_BYTES_MAX` is searched in parts of that length, so that
memory stays flat whatever a task wrote.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, BinaryIO

from mpifarm.reporting.outputs import Attempt, Choice, Missing, Outputs, each_attempt

if TYPE_CHECKING:
    from mpifarm.queue.client import TaskLine

LINE_BYTES_MAX = 1 << 20


def lines_of(pieces: Iterable[bytes]) -> Iterator[bytes]:
    """The lines, without their newlines, of bytes that come in pieces."""
    rest = b""
    for piece in pieces:
        *lines, rest = (rest + piece).split(b"\n")
        yield from lines
        if len(rest) >= LINE_BYTES_MAX:
            yield rest
            rest = b""
    if rest:
        yield rest


def grep(
    lines: Iterable[TaskLine],
    pattern: re.Pattern[bytes],
    streams: tuple[int, ...],
    out: BinaryIO,
    choice: Choice = Outputs.recorded,
) -> Missing:
    """Print what is found. The code is 1 when nothing is, as of grep; that of damaged or lost outputs comes first."""
    found = False
    search = pattern.search

    def write(outputs: Outputs, line: TaskLine, attempt: Attempt) -> None:
        nonlocal found
        for stream in streams:
            for text in lines_of(outputs.stream(attempt, stream)):
                if search(text):
                    found = True
                    out.write(b"%d: %s\n" % (line.task, text))

    sentences, code = each_attempt(lines, choice, write, streams)
    return Missing(sentences, code if code > 1 else int(not found))
