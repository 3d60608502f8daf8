"""`--grep`: lines of outputs in which a regular expression is found, as `TASK: line`. Streams; pure but for the stream.

Lines are bytes between newlines. One that is longer than `LINE_BYTES_MAX` is searched in parts of that length, so that
memory stays flat whatever a task wrote.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, BinaryIO

from mpifarm.outputs.streams_of_tasks import Attempt, Choice, Missing, Outputs, each_attempt

if TYPE_CHECKING:
    from mpifarm.queue.client import TaskLine

LINE_BYTES_MAX = 1 << 20


def lines_of(pieces: Iterable[bytes | memoryview]) -> Iterator[bytes]:
    """The lines, without their newlines, of bytes that come in pieces."""
    rest = b""
    for piece in pieces:
        *lines, rest = (rest + bytes(piece)).split(b"\n")
        yield from lines
        if len(rest) >= LINE_BYTES_MAX:
            yield rest
            rest = b""
    if rest:
        yield rest


class Searching:
    """Prints the lines in which a pattern is found, of `streams` of tasks as they come."""

    def __init__(self, pattern: re.Pattern[bytes], streams: tuple[int, ...], out: BinaryIO) -> None:
        self._search, self._streams, self._out = pattern.search, streams, out
        self._found = False

    def plain(self, tasks: Sequence[int], texts: Iterable[Iterable[Iterable[bytes | memoryview]]]) -> None:
        """Of each task, the pieces of each stream."""
        for task, text in zip(tasks, texts):
            for pieces in text:
                self._look(task, pieces)

    def careful(self, outputs: Outputs, line: TaskLine, attempt: Attempt) -> None:
        for stream in self._streams:
            self._look(line.task, outputs.stream(attempt, stream))

    def _look(self, task: int, pieces: Iterable[bytes | memoryview]) -> None:
        for line in lines_of(pieces):
            if self._search(line):
                self._found = True
                self._out.write(b"%d: %s\n" % (task, line))

    def judged(self, missing: Missing) -> Missing:
        """The code is 1 when nothing was found, as of grep; that of damaged or lost outputs comes first."""
        sentences, code = missing
        return Missing(sentences, code if code > 1 else int(not self._found))


def grep(
    lines: Iterable[TaskLine],
    pattern: re.Pattern[bytes],
    streams: tuple[int, ...],
    out: BinaryIO,
    choice: Choice = Outputs.recorded,
) -> Missing:
    """Print what is found of the chosen attempts."""
    searching = Searching(pattern, streams, out)
    return searching.judged(each_attempt(lines, choice, searching.careful, streams))
