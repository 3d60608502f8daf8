"""Reads the records of `submit --from-json`: an array of objects, or one object on each line. Never opens a file.

Everything streams but JSON arrays. What a record waits for:

- `"requires": [1, "relax", -1]` or one of these alone: the numbers of tasks in this file (records count from 1; -1 is
  the one before), or the `"name"` of a record. They must have succeeded; those in `"requires_any"` must have ended.
- A record may require later ones. By name, tasks are held back until that record has been read; names are kept when
  anything in the file may require them.
"""

from __future__ import annotations

import json
import re
from collections import deque
from collections.abc import Iterable, Iterator
from typing import BinaryIO, NamedTuple, cast

from mpifarm.core.model import Parent, TaskText
from mpifarm.errors import UsageError
from mpifarm.intake.parents import TASKS_MAX, Parents, merged
from mpifarm.intake.replacement import Record, Template, encode_json
from mpifarm.intake.taskfile import check_command

_BOM = b"\xef\xbb\xbf"
_WAYS = (("requires", False), ("requires_any", True))
_PIECE_BYTES = 1 << 20


Settled = tuple[TaskText, tuple[Parent, ...]]
"""A task and what it waits for."""


class _Held(NamedTuple):
    """A task that may wait for records not read yet, and what it waits for."""

    task: TaskText
    number: int
    line: int
    parents: list[Parent]
    names: list[tuple[str, bool]]
    """Of records, with `any`."""


def tasks_of(template: Template[Record], path: str, stream: BinaryIO) -> Iterator[Settled]:
    """A task for each record, and what it waits for."""
    naming = Naming(path, "record", keep=_may_require(stream))
    return naming.settle(_filled(template, path, stream))


def _filled(template: Template[Record], path: str, stream: BinaryIO) -> Iterator[tuple[int, TaskText, Record]]:
    number = 0
    for number, (line, record) in enumerate(_values(stream, path), 1):
        if not isinstance(record, dict):
            raise UsageError(f'{path}:{line}: record {number} is not an object such as {{"a": 1}}')
        try:
            entry = encode_json(record)
            task = TaskText(template.fill(record, number), entry)
        except UsageError as error:
            raise UsageError(f"{path}:{line}: record {number} {error}") from None
        check_command(task.body, path, line)
        yield line, task, record
    if number == 0:
        raise UsageError(f"{path}: there is no record in it")


class Naming:
    """Which record is called what, and who waits for whom. `path` and `noun` (what a record is) are for messages;
    `keep`: names are remembered."""

    def __init__(self, path: str, noun: str, keep: bool) -> None:
        self._parents = Parents(path)
        self._path, self._noun = path, noun
        self._keep = keep
        self._numbers: dict[str, int] = {}
        self._twice: dict[str, int] = {}
        """The second record of that name."""
        self._used: set[str] = set()

    def settle(self, tasks: Iterable[tuple[int, TaskText, Record]]) -> Iterator[Settled]:
        """Tasks with their lines and records, as tasks with what they wait for; in order."""
        held: deque[_Held] = deque()
        number = 0
        for number, (line, task, record) in enumerate(tasks, 1):
            try:
                parents, names = _required(record, number)
                self._called(record.get("name"), number)
            except UsageError as error:
                raise UsageError(f"{self._path}:{line}: {self._noun} {number} {error}") from None
            if held or parents or names:
                held.append(_Held(task, number, line, parents, names))
                while held and self._resolve(held[0]):
                    yield self._settled(held.popleft())
            else:
                yield task, ()
        if held:
            raise self._unknown(held[0])
        self._parents.check(number)

    def _called(self, name: object, number: int) -> None:
        if not self._keep or not isinstance(name, str):
            return
        first = self._numbers.setdefault(name, number)
        if first != number:
            self._twice.setdefault(name, number)
            if name in self._used:
                raise UsageError(f"is called {name!r}, as {self._noun} {first} is, which others require by that name")

    def _resolve(self, held: _Held) -> bool:
        """Names become numbers as far as they are known. False: some are not, yet."""
        while held.names:
            name, any_end = held.names[-1]
            number = self._numbers.get(name)
            if number is None:
                return False
            where = f"{self._path}:{held.line}: {self._noun} {held.number} requires"
            if name in self._twice:
                raise UsageError(f"{where} {name!r}, and {self._noun}s {number} and {self._twice[name]} are called so")
            if number == held.number:
                raise UsageError(f"{where} itself")
            self._used.add(name)
            held.names.pop()
            held.parents.append(Parent(number, number + 1, any_end))
        return True

    def _settled(self, held: _Held) -> tuple[TaskText, tuple[Parent, ...]]:
        parents = merged(held.parents)
        if parents:
            self._parents.add(held.number, held.number + 1, held.line, parents)
            furthest = max(parent.hi for parent in parents)
            if furthest > held.number:
                self._parents.looks_forward(held.line, 0, None, furthest)
        return held.task, parents

    def _unknown(self, held: _Held) -> UsageError:
        from difflib import get_close_matches

        name = held.names[-1][0]
        near = get_close_matches(name, list(self._numbers)[-1000:], n=3)
        hint = f" (there is {', '.join(near)})" if near else ""
        shown = name if len(name) <= 60 else f"{name[:60]}..."
        return UsageError(
            f"{self._path}:{held.line}: {self._noun} {held.number} requires {shown!r},"
            f" and no {self._noun} is called so{hint}"
        )


def _required(record: Record, number: int) -> tuple[list[Parent], list[tuple[str, bool]]]:
    """What a record waits for, by number and by name."""
    parents: list[Parent] = []
    names: list[tuple[str, bool]] = []
    for key, any_end in _WAYS:
        wanted = record.get(key)
        for one in wanted if isinstance(wanted, list) else [] if wanted is None else [wanted]:
            if isinstance(one, str):
                names.append((one, any_end))
            elif isinstance(one, int) and not isinstance(one, bool):
                task = number + one if one < 0 else one
                if not 0 < task <= TASKS_MAX or task == number:
                    own = "itself" if task == number else f"{one}, and tasks count from 1 (-1 is the one before)"
                    raise UsageError(f"requires {own}" if one < TASKS_MAX else f"{key}: no job has so many tasks")
                parents.append(Parent(task, task + 1, any_end))
            else:
                raise UsageError(f"has {json.dumps(one)[:60]} in {key!r}: numbers of tasks and names can stand there")
    return parents, names


def _may_require(stream: BinaryIO) -> bool:
    """Whether anything in the stream may be the key `requires`; True when it cannot be read twice."""
    if not stream.seekable():
        return True
    start, found, last = stream.tell(), False, b""
    while not found and (piece := stream.read(_PIECE_BYTES)):
        last = last[-16:] + piece
        found = b'"requires' in last or b"\\u" in last  # an escape may spell it
    stream.seek(start)
    return found


# JSON.

_SEPARATOR = re.compile(r"[ \t\r\n]*([],]?)[ \t\r\n]*")


def _refuse_constant(name: str) -> float:
    raise ValueError(f"{name} is not JSON")


_DECODER = json.JSONDecoder(parse_constant=_refuse_constant)


def _values(stream: BinaryIO, path: str) -> Iterator[tuple[int, object]]:
    """The values of the array or of the lines, each with the line it begins on."""
    seen = False
    for line, read in enumerate(stream, 1):
        text = read.removeprefix(_BOM) if line == 1 else read
        if not text.strip():
            continue
        try:
            if not seen and text.lstrip().startswith(b"["):
                yield from _array_values(line, (text + stream.read()).decode())
                return
            seen = True
            yield line, _DECODER.decode(text.rstrip().decode())
        except json.JSONDecodeError as error:
            where = f"{path}:{line + error.lineno - 1}:{error.colno}"
            raise UsageError(
                f"{where}: {error.msg} (an array of objects is needed, or one object on each line)"
            ) from None
        except (ValueError, RecursionError) as error:  # not UTF-8, NaN, a number or a nesting without end
            raise UsageError(f"{path}:{line}: {error}") from None


def _array_values(line: int, text: str) -> Iterator[tuple[int, object]]:
    """The elements one by one, which makes their lines known. `line`: of the start of the text."""
    counted = 0
    position = text.index("[") + 1
    separator = _separator(text, position)
    if separator[1] == ",":
        raise json.JSONDecodeError("Expecting value", text, position)
    position = separator.end()
    while separator[1] != "]":
        value, end = _DECODER.raw_decode(text, position)
        line += text.count("\n", counted, position)
        counted = position
        yield line, value
        separator = _separator(text, end)
        if not separator[1]:
            raise json.JSONDecodeError("Expecting ',' or ']'", text, separator.end())
        position = separator.end()
    if position != len(text):
        raise json.JSONDecodeError("Something follows the array", text, position)


def _separator(text: str, position: int) -> re.Match[str]:
    return cast("re.Match[str]", _SEPARATOR.match(text, position))  # it matches the empty string
