"""Commands with replacement strings, cut once and filled many times. Never opens a file.

A command is its words. One word is a line for the shell, as it stands. Several are an argument list: they are quoted,
so that the shell hands them to the program exactly as they are, and what is filled in stays inside its word.

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
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar, cast

from mpifarm.core.job.commandline import KEYWORDS
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
_PLAIN = re.compile(rb"[-_.+a-zA-Z0-9/=:,@%]+")
"""What needs no quotes in a word after the first."""


def quote(value: bytes, plain: re.Pattern[bytes] = _UNQUOTED) -> bytes:
    """One word of any POSIX shell, byte for byte as GNU parallel writes it. `plain`: what needs no quotes."""
    if plain.fullmatch(value):
        return value
    if not value:
        return b"''"
    quoted = b"'" + value.replace(b"'", b"'\"'\"'") + b"'"
    return quoted.removeprefix(b"''").removesuffix(b"''")


Piece = bytes | Callable[[V, int], bytes]


def compile_words(words: Sequence[bytes], cut: Callable[[bytes, int], Iterable[Piece[V]]]) -> list[Piece[V]]:
    """The pieces of the command line; `cut` makes pieces of a word that begins at an offset of the command."""
    if len(words) == 1:
        return list(_fused(cut(words[0], 0)))
    line: list[Piece[V]] = []
    offset = 0
    for number, word in enumerate(words):
        pieces = list(_fused(cut(word, offset))) or [b""]
        plain = _PLAIN if number else _UNQUOTED
        quoted = [quote(piece, plain) if isinstance(piece, bytes) else piece for piece in pieces]
        line += [b" ", *quoted] if number else _as_program(quoted)
        offset += len(word) + 1
    return list(_fused(line))


def command_line(words: Sequence[bytes]) -> bytes:
    """The line for the shell of words in which nothing is filled."""
    pieces: list[Piece[Values]] = compile_words(words, lambda word, _: [word])
    return Template(tuple(pieces)).fill((), 1)


def _as_program(pieces: list[Piece[V]]) -> list[Piece[V]]:
    """Those of the first word: never a keyword, nor an option of the shell itself."""
    whole = Template(tuple(pieces))
    if all(isinstance(piece, bytes) for piece in pieces):
        return [_no_syntax(b"".join(cast("list[bytes]", pieces)))]
    return [lambda values, task: _no_syntax(whole.fill(values, task))]


def _no_syntax(quoted: bytes) -> bytes:
    return b"''" + quoted if quoted in KEYWORDS or quoted[:1] in (b"-", b"+") else quoted


def _fused(pieces: Iterable[Piece[V]]) -> Iterator[Piece[V]]:
    """Without empty ones, bytes in a row as one."""
    kept = b""
    for piece in pieces:
        if isinstance(piece, bytes):
            kept += piece
            continue
        if kept:
            yield kept
        kept = b""
        yield piece
    if kept:
        yield kept


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


def compile_positions(words: Sequence[bytes], sources: int, *, append: bool = False) -> Template[Values]:
    """`append`: the values follow a command without replacement strings, and are the command where it is blank."""
    if append and not b"".join(words).strip():
        return Template((lambda values, _: b" ".join(values),))

    def cut(word: bytes, _offset: int) -> Iterator[Piece[Values]]:
        end = 0
        for match in _REPLACEMENT.finditer(word):
            yield word[end : match.start()]
            yield _position(match, sources)
            end = match.end()
        yield word[end:]

    pieces = compile_words(words, cut)
    if append and not has_positions(words):
        pieces += [b" ", _all_values(_CHANGES[b""])]
    return Template(tuple(pieces))


def has_positions(words: Iterable[bytes]) -> bool:
    """Whether something of a value, or its number, is put into the command."""
    return any(_REPLACEMENT.search(word) for word in words)


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


def compile_keys(words: Sequence[bytes]) -> Template[Record]:
    return Template(tuple(compile_words(words, _cut_keys)))


def _cut_keys(word: bytes, offset: int) -> Iterator[Piece[Record]]:
    end = 0
    for match in _KEY.finditer(word):
        yield word[end : match.start()]
        end = match.end()
        key: bytes | None = match[1]
        if key is not None:
            yield _value_of(_key(key))
        elif match[0] in _BRACES:
            yield _BRACES[match[0]]
        else:
            raise UsageError(
                f"a single {match[0].decode()} stands at {offset + match.start() + 1} in the command: write {{key}}, "
                "or {{ and }} for braces"
            )
    yield word[end:]


def keys_in(words: Iterable[bytes]) -> frozenset[str]:
    """The keys that are filled in."""
    found = (match[1] for word in words for match in _KEY.finditer(word))
    return frozenset(_key(key) for key in found if key is not None)


def _key(key: bytes) -> str:
    return key.decode("utf-8", "surrogateescape")


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
