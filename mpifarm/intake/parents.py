"""What tasks wait for, as lines of a task file say it: `[# 1-9 #] merge`. GREASY's notation, with numbers of tasks.

- `[# 3 #]`, `[# 1,3-5 #]`: these tasks must have succeeded. Tasks count from 1 in the order of the file; comments,
  blank lines and directives do not count (GREASY counts lines). With `submit --job` they still count in the file.
- `[# -1 #]` is the task before, `[# -3--1 #]` the three before, `[# 1--1 #]` all before, `[# +1 #]` the one after.
- `[# any 1-9 #]`: these must have ended, however they did. Several annotations may stand in a row.

`Parents` remembers who waits for whom, which is nothing for lines that wait for nobody, and refuses at the end tasks
that are not there and tasks that wait for each other. Pure.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import NamedTuple

from mpifarm.core.model import Parent
from mpifarm.core.plural import counted
from mpifarm.core.ranges import disjoint
from mpifarm.errors import TaskFileError, UsageError
from mpifarm.intake.cycles import Waiting

TASKS_MAX = 2**31 - 2
"""In one job; see `mpifarm.queue.load`."""
RING_SHOWN = 6
LINES_KEPT = 10_000
"""Lines with forward references whose text is kept, to be shown in a refusal."""

_ELEMENT = re.compile(rb"([+-]?)([0-9]+)(?:[ \t]*-[ \t]*([+-]?)([0-9]+))?[ \t]*")
_ANY = re.compile(rb"[ \t]*any(?=[ \t])")
_FORMS = "write task numbers such as 3, 1-9 or -1 (the task before), with commas between"


class Unclear(Exception):
    """A flaw in an annotation: where it is, in bytes from the start of the line, and what it is."""

    def __init__(self, offset: int, reason: str) -> None:
        super().__init__(reason)
        self.offset, self.reason = offset, reason


class Element(NamedTuple):
    """`first` to `last` of a list: each a sign (empty: counted from 1) and an amount; `text` and where it stands."""

    any: bool
    first: tuple[bytes, int]
    last: tuple[bytes, int]
    offset: int
    text: str


class Annotated(NamedTuple):
    """A line with its annotations read: where its command starts, and what it waits for."""

    start: int
    parents: tuple[Parent, ...]
    elements: tuple[Element, ...]
    """As they were written."""
    forward: int | None
    """Where an element that names later tasks stands; None: there is none."""


class Annotations:
    """Reads the annotations of lines. Raises Unclear."""

    def __init__(self) -> None:
        self._text, self._elements = b"", ()  # type: tuple[bytes, tuple[Element, ...]]

    def read(self, line: bytes, task: int) -> Annotated:
        """Of the line, which begins with `[#` after blanks, that is task number `task`."""
        start = end = line.index(b"[#")
        while line.startswith(b"[#", end):
            close = line.find(b"#]", end + 2)
            if close < 0:
                raise Unclear(end, "[# is not closed: #] must stand before the command")
            end = close + 2
            while line[end : end + 1] in (b" ", b"\t"):
                end += 1
        if line[end : end + 1] in (b"", b"#"):
            raise Unclear(end, "there is no command after #]")
        text = line[start:end]
        if text != self._text:
            self._text, self._elements = text, tuple(_elements(text))
        try:
            parents = [_resolve(element, task) for element in self._elements]
        except Unclear as flaw:
            raise Unclear(start + flaw.offset, flaw.reason) from None
        forward = (start + element.offset for element, parent in zip(self._elements, parents) if parent.hi > task)
        return Annotated(end, merged(parents), self._elements, next(forward, None))


def _elements(text: bytes) -> Iterable[Element]:
    """What stands in all `[# ... #]` of the text, which are closed."""
    position = 0
    while text.startswith(b"[#", position):
        close = text.index(b"#]", position + 2)
        word = _ANY.match(text, position + 2, close)
        position = word.end() if word else position + 2
        if text[position:close].strip(b" \t"):
            for piece in text[position:close].split(b","):
                yield _element(piece, position, bool(word))
                position += len(piece) + 1
        position = close + 2
        while text[position : position + 1] in (b" ", b"\t"):
            position += 1


def _element(piece: bytes, position: int, any_end: bool) -> Element:
    offset = position + len(piece) - len(piece.lstrip(b" \t"))
    match = _ELEMENT.fullmatch(piece.strip(b" \t"))
    shown = piece.strip(b" \t")[:40].decode("utf-8", "replace")
    if match is None:
        raise Unclear(offset, f"{shown!r} is not a number or a range of tasks: {_FORMS}")
    sign, digits, last_sign, last_digits = match.groups()
    first = (sign, _amount(digits, offset))
    last = first if last_digits is None else (last_sign, _amount(last_digits, offset))
    return Element(any_end, first, last, offset, shown)


def _amount(digits: bytes, offset: int) -> int:
    if len(digits) > 20 or int(digits) > TASKS_MAX:
        raise Unclear(offset, f"a job holds {TASKS_MAX:,} tasks at most")
    return int(digits)


def _resolve(element: Element, task: int) -> Parent:
    lo, hi = (_number(end, task, element) for end in (element.first, element.last))
    if hi < lo:
        hint = " (-3--1 are the three before)" if element.first[0] == b"-" else ""
        raise Unclear(element.offset, f"{element.text!r} ends before it begins{hint}")
    if lo <= task <= hi:
        which = "itself" if lo == hi else f"tasks {lo} to {hi}, itself among them"
        raise Unclear(element.offset, f"this is task {task}, and it would wait for {which}{_COUNTING}")
    return Parent(lo, hi + 1, element.any)


def _number(end: tuple[bytes, int], task: int, element: Element) -> int:
    sign, amount = end
    if not amount:
        raise Unclear(element.offset, "there is no task 0: tasks count from 1")
    number = task - amount if sign == b"-" else task + amount if sign else amount
    if number < 1:
        before = "there is none before it" if task == 1 else f"there are {task - 1:,} before it"
        raise Unclear(element.offset, f"this is task {task}, and {before}, not {amount:,}{_COUNTING}")
    if number > TASKS_MAX:
        raise Unclear(element.offset, f"a job holds {TASKS_MAX:,} tasks at most")
    return number


_COUNTING = " (tasks are counted, not lines)"


def merged(parents: Iterable[Parent]) -> tuple[Parent, ...]:
    """In order, each task named once of either kind."""
    all_of = list(parents)
    return tuple(
        Parent(lo, hi, any_end)
        for any_end in (False, True)
        for lo, hi in disjoint((parent.lo, parent.hi) for parent in all_of if parent.any is any_end)
    )


class Parents:
    """Who waits for whom among the tasks of one source; `name` is for messages."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._waiting = Waiting()
        self._furthest = 0
        """Past the last task that is waited for, and what names it."""
        self._furthest_at: tuple[int, int, str | None] = (0, 0, None)
        self._forward: dict[int, tuple[int, str | None]] = {}
        self._looks_forward = False

    def add(self, first: int, end: int, line: int, parents: tuple[Parent, ...]) -> None:
        """Tasks `[first, end)`, in lines from `line` on, wait for these parents."""
        self._waiting.add(first, end, line, parents)

    def looks_forward(self, line: int, column: int, text: str | None, hi: int) -> None:
        """This line waits for tasks after its own, the last of them before `hi`; `text`: to show, with a caret."""
        self._looks_forward = True
        if hi > self._furthest:
            self._furthest, self._furthest_at = hi, (line, column, text)
        if len(self._forward) < LINES_KEPT:
            self._forward[line] = (column, text)

    def check(self, tasks: int) -> None:
        """Once all `tasks` are known. Raises UsageError with the line."""
        if self._furthest > tasks + 1:
            has = f"{self._name} has {counted(tasks, 'task')}{_COUNTING}"
            reason = f"there is no task {self._furthest - 1:,} to wait for: {has}"
            raise self._refusal(*self._furthest_at, reason)
        ring = self._waiting.cycle() if self._looks_forward else []
        if ring:
            at, line = next(
                ((at, line) for at, task in enumerate(ring) if (line := self._line(task)) in self._forward),
                (0, self._line(ring[0])),
            )
            raise self._refusal(line, *self._forward.get(line, (0, None)), self._told(ring[at:] + ring[:at]))

    def _line(self, task: int) -> int:
        return self._waiting.line_of(task)

    def _told(self, ring: list[int]) -> str:
        named = [f"{task} (line {self._line(task)})" for task in ring[:RING_SHOWN]]
        if len(ring) > RING_SHOWN:
            named.append(f"... {len(ring) - RING_SHOWN:,} more")
        return f"tasks wait for each other, so none can begin: {' -> '.join([*named, str(ring[0])])}"

    def _refusal(self, line: int, column: int, text: str | None, reason: str) -> UsageError:
        if text is None:
            return UsageError(f"{self._name}:{line}: {reason}")
        return TaskFileError(self._name, line, column, text, reason)
