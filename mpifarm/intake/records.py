"""Makes tasks of the records of `submit --from-json`, an array of objects or one object on each line. Opens no file.

Everything streams but JSON arrays. What a task needs: see `mpifarm.intake.record_keys`. What it waits for:

- `"requires": [1, "relax", -1]` or one of these alone: the numbers of tasks in this file (records count from 1; -1 is
  the one before), or the `"name"` of a record. They must have succeeded; those in `"requires_any"` must have ended.
- A record may require later ones. By name, tasks are held back until that record has been read; names are kept when
  anything in the file may require them.
"""

from __future__ import annotations

import json
from collections import deque
from collections.abc import Iterable, Iterator
from typing import BinaryIO, NamedTuple

from mpifarm.core.model import Kind, Parent, TaskText
from mpifarm.core.needs import Needs
from mpifarm.errors import UsageError
from mpifarm.intake.json_values import refused, values
from mpifarm.intake.parents import TASKS_MAX, Parents, merged
from mpifarm.intake.record_keys import WAITS, Keys, WrongKey
from mpifarm.intake.replacement import Record, Template, encode_json
from mpifarm.intake.taskfile import check_command

_WAYS = tuple(zip(WAITS, (False, True)))
_PIECE_BYTES = 1 << 20


class Unsettled(NamedTuple):
    """A task as it was read: `record` holds its name and what it requires."""

    line: int
    task: TaskText
    needs: Needs
    record: Record
    kind: Kind = Kind.COMMAND


class Settled(NamedTuple):
    """A task, what it needs and what it waits for."""

    task: TaskText
    needs: Needs
    parents: tuple[Parent, ...]
    kind: Kind = Kind.COMMAND


class _Held(NamedTuple):
    """A task that may wait for records not read yet, and what it waits for."""

    task: TaskText
    needs: Needs
    number: int
    line: int
    parents: list[Parent]
    names: list[tuple[str, bool]]
    """Of records, with `any`."""
    kind: Kind


def tasks_of(template: Template[Record], keys: Keys, path: str, stream: BinaryIO) -> Iterator[Settled]:
    """A task for each record, in order."""
    naming = Naming(path, "record", keep=_may_require(stream))
    return naming.settle(_filled(template, keys, path, stream))


def _filled(template: Template[Record], keys: Keys, path: str, stream: BinaryIO) -> Iterator[Unsettled]:
    number = 0
    for number, where in enumerate(values(stream, path), 1):
        line, record = where.line, where.value
        if not isinstance(record, dict):
            raise UsageError(f'{path}:{line}: record {number} is not an object such as {{"a": 1}}')
        try:
            entry = encode_json(record)
            task = TaskText(template.fill(record, number), entry)
            needs = keys.needs_of(record)
        except WrongKey as wrong:
            raise refused(path, where, wrong.key, f"record {number}: {wrong}") from None
        except UsageError as error:
            raise UsageError(f"{path}:{line}: record {number} {error}") from None
        check_command(task.body, path, line)
        yield Unsettled(line, task, needs, record)
    if number == 0:
        raise UsageError(f"{path}: there is no record in it")
    keys.end()


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

    def settle(self, tasks: Iterable[Unsettled]) -> Iterator[Settled]:
        """The tasks with what they wait for; in order."""
        held: deque[_Held] = deque()
        number = 0
        for number, (line, task, needs, record, kind) in enumerate(tasks, 1):
            try:
                parents, names = _required(record, number)
                self._called(record.get("name"), number)
            except UsageError as error:
                raise UsageError(f"{self._path}:{line}: {self._noun} {number} {error}") from None
            if held or parents or names:
                held.append(_Held(task, needs, number, line, parents, names, kind))
                while held and self._resolve(held[0]):
                    yield self._settled(held.popleft())
            else:
                yield Settled(task, needs, (), kind)
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

    def _settled(self, held: _Held) -> Settled:
        parents = merged(held.parents)
        if parents:
            self._parents.add(held.number, held.number + 1, held.line, parents)
            furthest = max(parent.hi for parent in parents)
            if furthest > held.number:
                self._parents.looks_forward(held.line, 0, None, furthest)
        return Settled(held.task, held.needs, parents, held.kind)

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
