"""The language of `--where`, in which one says which tasks are meant: text in, a predicate of a task's line out. Pure.

    condition   = conjunction { "or" conjunction }
    conjunction = term { "and" term }
    term        = "not" term | "(" condition ")" | field operator value
    operator    = "=" | "!=" | "<" | "<=" | ">" | ">=" | "~"        ~ searches for a regular expression
    value       = number | "text" | 'text' | word

Nothing in it can do anything but compare: there are no calls, no names but the fields, no way to another object. A
number that a task does not have (the exit code of one that runs) stands in no relation to any other, not even `!=`.
Text that a task does not have is empty.
"""

from __future__ import annotations

import difflib
import operator
import re
import warnings
from collections.abc import Callable, Iterator
from datetime import datetime
from typing import TYPE_CHECKING, Any, AnyStr, NamedTuple, NoReturn

from mpifarm.core.model import FailureClass
from mpifarm.errors import UsageError
from mpifarm.show.objects import text_of
from mpifarm.show.text import state_named

if TYPE_CHECKING:
    from mpifarm.queue.client import TaskLine

Predicate = Callable[["TaskLine"], bool]

NESTED_MAX = 50
"""Parentheses and `not` within each other."""

_NUMBERS: dict[str, Callable[[TaskLine], float | None]] = {
    "task": lambda line: line.task,
    "exit_code": lambda line: line.exit_code,
    "signal": lambda line: line.signal,
    "seconds": lambda line: line.seconds,
    "attempts": lambda line: line.attempts,
    "started": lambda line: line.started,
    "left": lambda line: line.left or 0,
}
_TEXTS: dict[str, Callable[[TaskLine], str]] = {
    "state": lambda line: line.state,
    "class": lambda line: "" if line.failure == "none" else line.failure,
    "node": lambda line: line.node or "",
    "command": lambda line: text_of(line.command),
    "entry": lambda line: text_of(line.entry or b""),
}
FIELDS = (
    "task", "state", "class", "exit_code", "signal", "seconds", "node", "attempts", "started", "left", "command",
    "entry",
)  # fmt: skip
assert set(FIELDS) == _NUMBERS.keys() | _TEXTS.keys()

_CLASSES = tuple(failure.name.lower() for failure in FailureClass if failure)
_COMPARE: dict[str, Callable[[Any, Any], bool]] = {
    "=": operator.eq,
    "==": operator.eq,
    "!=": operator.ne,
    "<": operator.lt,
    "<=": operator.le,
    ">": operator.gt,
    ">=": operator.ge,
}
_TOKEN = re.compile(
    r"""\s*(?: (?P<number> -? (?: [0-9]+ (?:\.[0-9]*)? | \.[0-9]+ ) (?:[eE][+-]?[0-9]+)? (?![\w.]) )
    | (?P<text> "[^"]*" | '[^']*' )
    | (?P<word> [A-Za-z_][A-Za-z0-9_.+-]* )
    | (?P<symbol> <= | >= | != | == | [=<>~()] )
    | (?P<end> \Z ) )""",
    re.VERBOSE,
)


class _Token(NamedTuple):
    kind: str
    text: str
    position: int


def parse_where(text: str) -> Predicate:
    """The predicate that `text` describes. Raises UsageError, with a caret under what is wrong."""
    return _Parser(text).parse()


def select(lines: Iterator[TaskLine], where: Predicate | None) -> Iterator[TaskLine]:
    """Those for which the condition holds."""
    return lines if where is None else filter(where, lines)


def compile_pattern(pattern: AnyStr) -> re.Pattern[AnyStr]:
    """A regular expression as `re` has them. Raises UsageError."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of what a pattern may mean in a later Python
            return re.compile(pattern)
    except (re.error, OverflowError, RecursionError) as error:
        raise UsageError(f"this is no regular expression: {error}") from None


class _Parser:
    """Recursive descent; each method reads one construct of the grammar and leaves the token after it as `_next`."""

    def __init__(self, text: str) -> None:
        self._text = text
        self._next = self._read(0)

    def parse(self) -> Predicate:
        predicate = self._condition(0)
        if self._next.kind != "end":
            self._refuse(self._next, "here `and`, `or` or the end is expected")
        return predicate

    def _condition(self, depth: int) -> Predicate:
        parts = [self._conjunction(depth)]
        while self._is("or"):
            parts.append(self._conjunction(depth))
        return parts[0] if len(parts) == 1 else lambda line: any(part(line) for part in parts)

    def _conjunction(self, depth: int) -> Predicate:
        parts = [self._term(depth)]
        while self._is("and"):
            parts.append(self._term(depth))
        return parts[0] if len(parts) == 1 else lambda line: all(part(line) for part in parts)

    def _term(self, depth: int) -> Predicate:
        if depth > NESTED_MAX:
            self._refuse(self._next, "this is nested too deeply")
        if self._is("not"):
            inner = self._term(depth + 1)
            return lambda line: not inner(line)
        if self._is("("):
            inside = self._condition(depth + 1)
            if not self._is(")"):
                self._refuse(self._next, "here `and`, `or` or `)` is expected")
            return inside
        return self._comparison()

    def _comparison(self) -> Predicate:
        field = self._take()
        name = field.text.lower()
        if field.kind != "word" or name in ("and", "or", "not"):
            self._refuse(field, f"here a field is expected: {', '.join(FIELDS)}")
        if name not in FIELDS:
            near = difflib.get_close_matches(name, FIELDS, n=1)
            meant = f"did you mean {near[0]}?" if near else f"there are {', '.join(FIELDS)}"
            self._refuse(field, f"no field is called {field.text!r}; {meant}")
        sign = self._take()
        if sign.text != "~" and sign.text not in _COMPARE:
            self._refuse(sign, "here one of = != < <= > >= ~ is expected")
        value = self._take()
        if value.kind not in ("number", "text", "word"):
            self._refuse(value, "here a value is expected: a number, or text in quotes")
        return self._of_number(name, sign, value) if name in _NUMBERS else self._of_text(name, sign, value)

    def _of_number(self, name: str, sign: _Token, value: _Token) -> Predicate:
        if sign.text == "~":
            self._refuse(sign, f"~ is for text, and {name} is a number")
        if value.kind == "number":
            wanted = float(value.text)
        elif name == "started":
            wanted = self._time(value)
        else:
            self._refuse(value, f"{name} is a number")
        field, compare = _NUMBERS[name], _COMPARE[sign.text]

        def holds(line: TaskLine) -> bool:
            found = field(line)
            return found is not None and compare(found, wanted)

        return holds

    def _time(self, value: _Token) -> float:
        try:
            return datetime.fromisoformat(_content(value)).timestamp()  # without a zone: local time
        except (ValueError, OverflowError, OSError):
            self._refuse(value, 'a time looks like "2026-07-31" or "2026-07-31 14:05", or is in Unix seconds')

    def _of_text(self, name: str, sign: _Token, value: _Token) -> Predicate:
        if value.kind == "number":
            self._refuse(value, f"{name} is text: put this in quotes")
        field, wanted = _TEXTS[name], _content(value)
        if sign.text == "~":
            try:
                search = compile_pattern(wanted).search
            except UsageError as error:
                self._refuse(value, str(error))
            return lambda line: search(field(line)) is not None
        if sign.text in ("=", "==", "!="):
            wanted = self._known(name, value, wanted)
        compare = _COMPARE[sign.text]
        return lambda line: compare(field(line), wanted)

    def _known(self, name: str, value: _Token, wanted: str) -> str:
        """A state or class that exists, so that a mistyped one does not silently select nothing."""
        if name == "state":
            try:
                return state_named(wanted)
            except UsageError as error:
                self._refuse(value, str(error))
        if name == "class":
            wanted = "" if wanted.lower() == "none" else wanted.lower()
            if wanted not in ("", *_CLASSES):
                self._refuse(value, f"no class is called {wanted!r}; there are {', '.join(_CLASSES)}")
        return wanted

    # --- tokens ----------------------------------------------------------------------------------------------

    def _is(self, text: str) -> bool:
        """Whether the next token is this word or symbol; it is taken then."""
        found = self._next.kind in ("word", "symbol") and self._next.text.lower() == text
        if found:
            self._take()
        return found

    def _take(self) -> _Token:
        token = self._next
        if token.kind != "end":
            self._next = self._read(token.position + len(token.text))
        return token

    def _read(self, position: int) -> _Token:
        match = _TOKEN.match(self._text, position)
        if match is None:
            start = position + len(self._text[position:]) - len(self._text[position:].lstrip())
            quote = self._text[start] in "\"'"
            reason = "this quote is not closed" if quote else "this is not understood (put text in quotes)"
            self._refuse(_Token("unknown", self._text[start], start), reason)
        kind = str(match.lastgroup)
        return _Token(kind, match[kind], match.start(kind))

    def _refuse(self, token: _Token, reason: str) -> NoReturn:
        shown = "".join(c if c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in self._text)
        start = max(0, token.position - 60)
        raise UsageError(f"{reason}\n    {shown[start : start + 100]}\n    {' ' * (token.position - start)}^")


def _content(value: _Token) -> str:
    return value.text[1:-1] if value.kind == "text" else value.text
