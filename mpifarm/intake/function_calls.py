"""Makes calls of one function: `submit --function pkg.mod:f`, once for each value, number, line or JSON value.

`:::` and `--each-line` give strings, `--array` numbers; of `--from-json` an object is the keyword arguments, an array
the positional ones, anything else the one argument. Without any of these it is called once, with nothing. Whether there
is such a function, the nodes see, where it is imported in the directory of the submit.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import BinaryIO

from mpifarm.calls.call import NotACallError, by_path
from mpifarm.core.model import Kind, Part, TaskText
from mpifarm.core.needs import Needs
from mpifarm.errors import UsageError
from mpifarm.intake.expand import (
    MARKS,
    Expansion,
    check_count,
    check_sources,
    combined,
    in_parts,
    not_blank,
    opened,
    parse_sources,
)
from mpifarm.intake.json_values import values
from mpifarm.intake.replacement import Template, Values
from mpifarm.intake.told import Tell
from mpifarm.units import parse_numbers


def expand_calls(function: str, asked: Expansion, needs: Needs, stdin: BinaryIO, tell: Tell) -> Iterator[Part]:
    """The tasks in order, in parts. UsageErrors of the words are raised here, those of files while they stream by."""
    words = list(asked.words)
    if words and words[0] not in MARKS:
        raise UsageError(
            f"--function {function} is what runs; {words[0]!r} would be a command: values stand after :::, as in"
            f" mpifarm submit --function {function} ::: a b c"
        )
    check_sources(asked, words)
    try:
        by_path(function)
    except NotACallError as error:
        raise UsageError(f"--function: {error}") from None

    if words:
        template: Template[Values] = Template((lambda given, _: by_path(function, [*map(_text, given)]),))
        tasks = combined(template, parse_sources(words, stdin, tell))
    elif asked.array is not None:
        check_count(asked.array)
        numbers = (number for span in parse_numbers(asked.array) for number in span)
        tasks = (TaskText(by_path(function, [number]), b"%d" % number) for number in numbers)
    elif asked.each_line is not None:
        lines = not_blank(asked.each_line, stdin, tell)
        tasks = (TaskText(by_path(function, [_text(line)]), line) for _, line in lines)
    elif asked.from_json is not None:
        tasks = _of_json(function, asked.from_json, stdin)
    else:
        tasks = iter([TaskText(by_path(function))])
    return in_parts(needs, tasks, kind=Kind.FUNCTION)


def _text(value: bytes) -> str:
    try:
        return value.decode()
    except UnicodeDecodeError as error:
        raise UsageError(f"{value[:60]!r} is no text (UTF-8), and a function is given text: {error.reason}") from None


def _of_json(function: str, path: str, stdin: BinaryIO) -> Iterator[TaskText]:
    empty = True
    with opened(path, stdin) as stream:
        for found in values(stream, path):
            empty, given = False, found.value
            if isinstance(given, dict):
                yield TaskText(by_path(function, (), given))
            else:
                yield TaskText(by_path(function, given if isinstance(given, list) else [given]))
    if empty:
        raise UsageError(f"{path}: there is no value in it")
