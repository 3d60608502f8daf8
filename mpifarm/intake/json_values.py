"""Reads a stream of JSON values, an array or one on each line, and knows where each stands. Opens no file."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import BinaryIO, NamedTuple, cast

from mpifarm.errors import TaskFileError, UsageError

_BOM = b"\xef\xbb\xbf"
_SEPARATOR = re.compile(r"[ \t\r\n]*([],]?)[ \t\r\n]*")


class Value(NamedTuple):
    """A value, and where it stands."""

    line: int
    """Where it begins."""
    value: object
    text: str
    """In which it stands from `start` on: its line, or the whole array."""
    start: int


def values(stream: BinaryIO, path: str) -> Iterator[Value]:
    """The values of the array or of the lines. Raises UsageError, also for an object that has a key twice."""
    seen = False
    for line, read in enumerate(stream, 1):
        raw = read.removeprefix(_BOM) if line == 1 else read
        if not raw.strip():
            continue
        try:
            if not seen and raw.lstrip().startswith(b"["):
                yield from _array_values(line, (raw + stream.read()).decode())
                return
            seen = True
            text = raw.rstrip().decode()
            start = _separator(text, 0).start(1)
            value, end = _read(text, start)
            if end != len(text):
                raise json.JSONDecodeError("Extra data", text, _separator(text, end).start(1))
            yield Value(line, value, text, start)
        except _Twice as error:
            raise UsageError(f"{path}:{line + error.lineno - 1}:{error.colno}: {error.msg}") from None
        except json.JSONDecodeError as error:
            where = f"{path}:{line + error.lineno - 1}:{error.colno}"
            raise UsageError(
                f"{where}: {error.msg} (an array of objects is needed, or one object on each line)"
            ) from None
        except (ValueError, RecursionError) as error:  # not UTF-8, NaN, a number or a nesting without end
            raise UsageError(f"{path}:{line}: {error}") from None


def refused(path: str, where: Value, key: str, reason: str) -> UsageError:
    """With the line and a caret under what stands behind the key."""
    text = where.text
    at = _value_of(text, where.start, key)
    line = where.line + text.count("\n", where.start, at)
    begin, end = text.rfind("\n", 0, at) + 1, text.find("\n", at)
    return TaskFileError(path, line, at - begin, text[begin : len(text) if end < 0 else end], reason)


def _value_of(text: str, start: int, key: str) -> int:
    """Where the value of that key begins, of the object that begins at `start`."""
    position, name = start + 1, ""
    while name != key:
        name, position = _DECODER.raw_decode(text, _separator(text, position).end())
        at = _separator(text, position).end() + 1  # behind the colon
        at = _separator(text, at).end()
        position = _separator(text, _DECODER.raw_decode(text, at)[1]).end()
    return at


class _Twice(json.JSONDecodeError):
    """An object has a key twice."""


def _refuse_constant(name: str) -> float:
    raise ValueError(f"{name} is not JSON")


def _object(pairs: list[tuple[str, object]]) -> dict[str, object]:
    made = dict(pairs)
    if len(made) != len(pairs):
        names = [name for name, _ in pairs]
        name = next(name for name in names if names.count(name) > 1)
        raise _Twice(f"the key {name[:40]!r} stands twice in one object", "", 0)
    return made


_DECODER = json.JSONDecoder(parse_constant=_refuse_constant, object_pairs_hook=_object)


def _read(text: str, position: int) -> tuple[object, int]:
    """The value that begins there, and where it ends."""
    try:
        return _DECODER.raw_decode(text, position)
    except _Twice as error:
        raise _Twice(error.msg, text, position) from None


def _array_values(line: int, text: str) -> Iterator[Value]:
    """The elements one by one, which makes their lines known. `line`: of the start of the text."""
    counted = 0
    position = text.index("[") + 1
    separator = _separator(text, position)
    if separator[1] == ",":
        raise json.JSONDecodeError("Expecting value", text, position)
    position = separator.end()
    while separator[1] != "]":
        value, end = _read(text, position)
        line += text.count("\n", counted, position)
        counted = position
        yield Value(line, value, text, position)
        separator = _separator(text, end)
        if not separator[1]:
            raise json.JSONDecodeError("Expecting ',' or ']'", text, separator.end())
        position = separator.end()
    if position != len(text):
        raise json.JSONDecodeError("Something follows the array", text, position)


def _separator(text: str, position: int) -> re.Match[str]:
    return cast("re.Match[str]", _SEPARATOR.match(text, position))  # it matches the empty string
