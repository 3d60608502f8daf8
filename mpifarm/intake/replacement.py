"""Commands with replacement strings, cut once and filled many times. Never opens a file.

What is put in is quoted as GNU parallel quotes it, so a value stays one word of the shell whatever is in it. Positions
(`:::`, `--array`, `--each-line`):

    {}    the value, or all values with blanks between    {#}    the number of the task, from 1
    {.}   without its last extension                      {2}    the value of the second source
    {/}   its last component                              {-1}   the value of the last source
    {//}  its directory                                   {2/}   both at once, likewise {2.} {2//} {2/.}
    {/.}  its last component without extension

Keys (`--from-json`): `{key}` is a string as it is, or any other value as JSON writes it; `{{` and `}}` are braces.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Generic, TypeVar

from mpifarm.errors import UsageError

V = TypeVar("V")
Values = tuple[bytes, ...]
Record = dict[str, object]


@dataclass(frozen=True, slots=True)
class Template(Generic[V]):
    """A command in parts: bytes that stand, and what makes bytes of the values V and the number of the task."""

    parts: tuple[bytes | Callable[[V, int], bytes], ...]

    def fill(self, values: V, task: int) -> bytes:
        return b"".join([part if isinstance(part, bytes) else part(values, task) for part in self.parts])


_UNQUOTED = re.compile(rb"[-_.+a-zA-Z0-9/]+")


def quote(value: bytes) -> bytes:
    """One word of any POSIX shell, byte for byte as GNU parallel writes it."""
    if _UNQUOTED.fullmatch(value):
        return value
    if not value:
        return b"''"
    quoted = b"'" + value.replace(b"'", b"'\"'\"'") + b"'"
    return quoted.removeprefix(b"''").removesuffix(b"''")


# Positions.

_REPLACEMENT = re.compile(rb"\{(?:(-?[1-9][0-9]{0,8})?(//|/\.|/|\.)?|(#)|(%))\}")


def _without_extension(value: bytes) -> bytes:
    stem, dot, extension = value.rpartition(b".")
    return stem if dot and b"/" not in extension else value


def _last_component(value: bytes) -> bytes:
    return value.rpartition(b"/")[2]


def _directory(value: bytes) -> bytes:
    """As dirname(1): slashes at the end do not count."""
    directory, slash, _ = value.rstrip(b"/").rpartition(b"/")
    if slash:
        return directory.rstrip(b"/") or b"/"
    return b"/" if value.startswith(b"/") else b"."


_CHANGES: dict[bytes, Callable[[bytes], bytes]] = {
    b"": lambda value: value,
    b".": _without_extension,
    b"/": _last_component,
    b"//": _directory,
    b"/.": lambda value: _without_extension(_last_component(value)),
}


def compile_positions(command: bytes, sources: int, *, append: bool = False) -> Template[Values]:
    """`append`: the values follow a command without replacement strings, and are the command where it is blank."""
    if append and not command.strip():
        return Template((lambda values, _: b" ".join(values),))
    parts: list[bytes | Callable[[Values, int], bytes]] = []
    end = 0
    for match in _REPLACEMENT.finditer(command):
        parts += (command[end : match.start()], _position(match, sources))
        end = match.end()
    parts.append(command[end:])
    if append and len(parts) == 1:
        parts += (b" ", _all_values(_CHANGES[b""]))
    return Template(tuple(parts))


def _position(match: re.Match[bytes], sources: int) -> Callable[[Values, int], bytes]:
    position, change, number, slot = match.groups()
    if slot:
        raise UsageError("{%} cannot be filled in: the slot of a task is known only when it starts")
    if number:
        return lambda _, task: b"%d" % task
    changed = _CHANGES[change or b""]
    if position is None:
        return _all_values(changed)
    index = int(position)
    if abs(index) > sources:
        raise UsageError(f"{match[0].decode()} stands in the command, but the number of sources is {sources}")
    index -= index > 0
    return lambda values, _: quote(changed(values[index]))


def _all_values(changed: Callable[[bytes], bytes]) -> Callable[[Values, int], bytes]:
    return lambda values, _: b" ".join([quote(changed(value)) for value in values])


# Keys.

_KEY = re.compile(rb"\{\{|\}\}|\{([^{}]*)\}|[{}]")
_BRACES = {b"{{": b"{", b"}}": b"}"}
_COMPACT = json.JSONEncoder(ensure_ascii=False, allow_nan=False, separators=(",", ":"))


def encode_json(value: object) -> bytes:
    """Compact UTF-8. UsageError for what is no JSON or no text (infinite numbers, halves of surrogate pairs)."""
    try:
        return _COMPACT.encode(value).encode()
    except ValueError as error:
        raise UsageError(f"cannot be written as JSON: {error}") from None


def compile_keys(command: bytes) -> Template[Record]:
    parts: list[bytes | Callable[[Record, int], bytes]] = []
    end = 0
    for match in _KEY.finditer(command):
        parts.append(command[end : match.start()])
        end = match.end()
        key: bytes | None = match[1]
        if key is not None:
            parts.append(_value_of(key.decode("utf-8", "surrogateescape")))
        elif match[0] in _BRACES:
            parts.append(_BRACES[match[0]])
        else:
            raise UsageError(
                f"a single {match[0].decode()} stands at {match.start() + 1} in the command: write {{key}}, "
                "or {{ and }} for braces"
            )
    parts.append(command[end:])
    return Template(tuple(parts))


def _value_of(key: str) -> Callable[[Record, int], bytes]:
    def fill_in(record: Record, _: int) -> bytes:
        if key not in record:
            keys = ", ".join(record) or "no keys at all"
            raise UsageError(f"has no key {key!r}; it has {keys} (braces that are no key are written {{{{ and }}}})")
        value = record[key]
        text = value.encode() if isinstance(value, str) else encode_json(value)
        if b"\0" in text:
            raise UsageError(f"has a NUL character in {key!r}, which no command can hold")
        return quote(text)

    return fill_in
