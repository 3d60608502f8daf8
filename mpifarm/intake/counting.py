"""Tells, once for a file, where GREASY would understand its `[# 3 #]` in another way: there numbers are lines. Pure.

Here they are tasks, so comments, blank lines and directives make the two countings differ.
"""

from __future__ import annotations

from bisect import bisect_right

from mpifarm.intake.parents import Element
from mpifarm.intake.told import Tell

SKIPPED_KEPT = 10_000


class Counting:
    """Knows which lines of the file `name` are no tasks, so far."""

    def __init__(self, name: str, tell: Tell) -> None:
        self._name, self._tell = name, tell
        self._told = False
        self._skipped: list[int] = []

    def skip(self, line: int) -> None:
        """This line is no task."""
        if len(self._skipped) < SKIPPED_KEPT:
            self._skipped.append(line)

    def compare(self, line: int, task: int, elements: tuple[Element, ...]) -> None:
        """The line, which is that task, waits for these."""
        if self._told or not self._skipped:
            return
        for element in elements:
            ours = [_number(end, task) for end in (element.first, element.last)]
            lines = [_number(end, line) for end in (element.first, element.last)]
            if [at - bisect_right(self._skipped, at) for at in lines] != ours or set(lines) & set(self._skipped):
                self._say(line, element.text, ours, lines)
                return

    def _say(self, line: int, text: str, ours: list[int], lines: list[int]) -> None:
        self._told = True
        readings = ""
        if len(self._skipped) < SKIPPED_KEPT:
            theirs = sorted({at - bisect_right(self._skipped, at) for at in lines if at not in self._skipped})
            meant = f"{_span('task', theirs)} of this file" if theirs else "no task"
            readings = f" ({_span('line', [self._line(number) for number in ours])}); GREASY counts lines, and"
            readings += f" {_span('line', lines)} would be {meant}"
        self._tell(
            f"warning: {self._name}:{line}: [# {text} #] waits for {_span('task', ours)}{readings or ' (not lines)'}"
        )

    def _line(self, task: int) -> int:
        line = task
        for skipped in self._skipped:
            if skipped > line:
                break
            line += 1
        return line


def _number(end: tuple[bytes, int], own: int) -> int:
    sign, amount = end
    return own - amount if sign == b"-" else own + amount if sign else amount


def _span(noun: str, ends: list[int]) -> str:
    lo, hi = min(ends), max(ends)
    return f"{noun} {lo}" if lo == hi else f"{noun}s {lo}-{hi}"
