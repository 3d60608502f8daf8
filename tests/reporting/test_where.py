"""The language of `--where`: what it means, what it refuses and where, and that nothing written in it does harm."""

from __future__ import annotations

import math
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mpifarm.errors import UsageError
from mpifarm.queue.client import TaskLine
from mpifarm.selection.where import FIELDS, NESTED_MAX, parse_where
from tests.reporting.rows import a_task

LONG = a_task(
    17, state="failed", failure="exit", exit_code=3, seconds=61.5, started=1e9, node="nid0012", attempts=2,
    command=b"./fit --seed 7 \xff", entry=b"a",
)  # fmt: skip
GOOD = a_task(4, state="succeeded", failure="none", exit_code=0, seconds=2.0, started=2e9, node="nid0007", attempts=1)
KILLED = a_task(5, state="failed", failure="signal", signal=9, seconds=0.0, started=1e9, node="nid0007", attempts=1)
WAITING = a_task(9)
ALL = (LONG, GOOD, KILLED, WAITING)


def chosen(text: str) -> list[int]:
    holds = parse_where(text)
    return [line.task for line in ALL if holds(line)]


@pytest.mark.parametrize(
    ("text", "tasks"),
    [
        ('seconds > 60 and node = "nid0012"', [17]),
        ("seconds>60and node='nid0012'", None),
        ("seconds >60 and node=nid0012", [17]),
        ("task = 4 or task = 9", [4, 9]),
        ("task = 4 or task = 9 and state = succeeded", [4]),
        ("(task = 4 or task = 9) and state = succeeded", [4]),
        ("(task = 4 or task = 9) and not state = succeeded", [9]),
        ("NOT (task = 4 OR task = 9) AND task < 1.7e1", [5]),
        ("not not task = 4", [4]),
        ("state = done", [4]),
        ("state == FAILED", [17, 5]),
        ("state ~ ^f", None),
        ('state ~ "^f"', [17, 5]),
        ("state != failed", [4, 9]),
        ("class = exit", [17]),
        ('class = ""', [4, 9]),
        ("class = none", [4, 9]),
        ("signal = 9", [5]),
        ("exit_code != 0", [17]),
        ("not exit_code = 0", [17, 5, 9]),
        ("seconds >= 0", [17, 4, 5]),
        ("seconds <= .0", [5]),
        ("seconds < -1", []),
        ("attempts = 0", [9]),
        ('node < "nid0010" and node != ""', [4, 5]),
        (r'command ~ "--seed \d+"', [17]),
        ('command = "./simulate 4"', [4]),
        ("entry = a", [17]),
        ('entry = ""', [4, 5, 9]),
        (r"entry ~ '^\w$'", [17]),
        ("command ~ 'simulate [45]$'", [4, 5]),
        ('started > "2010-01-01"', [4]),
        ('started > "2001-09-09 01:46:39+00:00" and started < 1000000001', [17, 5]),
        (" task\t=\n4 ", [4]),
        ("TASK = 4", [4]),
        ("\x1c\N{NO-BREAK SPACE}task = 4\N{EM SPACE}\n", [4]),
        ("\N{ZERO WIDTH SPACE}task = 4", None),
    ],
)
def test_what_it_means(text: str, tasks: list[int] | None) -> None:
    if tasks is None:
        with pytest.raises(UsageError):
            parse_where(text)
    else:
        assert chosen(text) == tasks


@pytest.mark.parametrize(
    ("text", "caret", "said"),
    [
        ("", 0, "a field is expected"),
        ("tsak = 3", 0, "did you mean task"),
        ("colour = 3", 0, "no field is called 'colour'; there are task, state"),
        ("task = 3 task = 4", 9, "`and`, `or` or the end"),
        ("task = 3 and", 12, "a field is expected"),
        ("(task = 3", 9, "`and`, `or` or `)`"),
        ("task = 3)", 8, "or the end"),
        ("task 3", 5, "one of = !="),
        ("task =", 6, "a value is expected"),
        ("task = = 3", 7, "a value is expected"),
        ("task = many", 7, "task is a number"),
        ("task ~ 3", 5, "~ is for text"),
        ("node = 12", 7, "put this in quotes"),
        ("node = nid0012 and state = 'faild'", 27, "no state is called 'faild'"),
        ("class = exti", 8, "no class is called 'exti'"),
        ("node = 'nid", 7, "this quote is not closed"),
        ("task = 3; drop", 8, "this is not understood"),
        ("task = 12abc", 7, "this is not understood"),
        ("node ~ '('", 7, "no regular expression"),
        ("started > '31.7.'", 10, "a time looks like"),
        ("3 < task", 0, "a field is expected"),
        ("task = 1 and " + "(" * 60 + "task = 1" + ")" * 60, 13 + NESTED_MAX + 1, "nested too deeply"),
    ],
)
def test_the_caret_stands_under_what_is_wrong(text: str, caret: int, said: str) -> None:
    with pytest.raises(UsageError) as refused:
        parse_where(text)
    reason, excerpt, mark = str(refused.value).split("\n")
    assert said in reason
    assert mark.endswith("^")
    # The excerpt is indented by four, as the mark is; a long text is cut on its left.
    assert excerpt[4:][mark.index("^") - 4 :] == text[caret:][: len(excerpt) - mark.index("^")]


def test_depth_is_bounded_however_it_is_written() -> None:
    for text in ("(" * 100_000, "not " * 100_000 + "task = 1", "(" * 50 + "task = 4" + ")" * 49):
        with pytest.raises(UsageError):
            parse_where(text)
    assert parse_where("(" * NESTED_MAX + "task = 4" + ")" * NESTED_MAX)(GOOD)
    assert parse_where(" or ".join(["task = 4"] * 10_000))(GOOD), "a long one is not a deep one"


# Properties.

NAMES = st.sampled_from(["task", "exit_code", "signal", "seconds", "attempts", "started"])
SIGNS = {
    "=": lambda a, b: a == b,
    "!=": lambda a, b: a != b,
    "<": lambda a, b: a < b,
    "<=": lambda a, b: a <= b,
    ">": lambda a, b: a > b,
    ">=": lambda a, b: a >= b,
}
VALUES = st.integers(-5, 5) | st.floats(-1e6, 1e6, allow_nan=False)


@st.composite
def conditions(draw: st.DrawFn, depth: int = 3) -> tuple[str, Any]:
    """A condition as text, and what it means by Python's own operators."""
    kind = draw(st.sampled_from(["compare", "and", "or", "not"])) if depth else "compare"
    if kind == "compare":
        name, sign, value = draw(NAMES), draw(st.sampled_from(sorted(SIGNS))), draw(VALUES)
        return (
            f"{name}{sign}{value!r}",
            lambda line: getattr(line, name) is not None and SIGNS[sign](getattr(line, name), value),
        )
    text, means = draw(conditions(depth=depth - 1))
    if kind == "not":
        return f"not ({text})", lambda line: not means(line)
    more_text, more = draw(conditions(depth=depth - 1))
    if kind == "and":
        return f"({text}) and ({more_text})", lambda line: means(line) and more(line)
    return f"({text}) or ({more_text})", lambda line: means(line) or more(line)


LINES = st.builds(
    lambda task, exit_code, signal, seconds, attempts, started: a_task(
        task, exit_code=exit_code, signal=signal, seconds=seconds, attempts=attempts, started=started
    ),
    st.integers(1, 5),
    st.none() | st.integers(0, 3),
    st.none() | st.integers(0, 3),
    st.none() | st.floats(0, 5),
    st.integers(0, 3),
    st.none() | st.floats(0, 5),
)


@settings(deadline=None)
@given(conditions(), LINES)
def test_it_means_what_python_means(condition: tuple[str, Any], line: TaskLine) -> None:
    text, means = condition
    assert parse_where(text)(line) == means(line)


@settings(deadline=None)
@given(st.sampled_from(["=", "!=", "<", "<=", ">", ">="]), st.text(st.characters(exclude_characters='"')), st.binary())
def test_text_is_compared_as_text(sign: str, value: str, command: bytes) -> None:
    line = a_task(1, command=command)
    found = parse_where(f'command {sign} "{value}"')(line)
    assert found == SIGNS[sign](command.decode("utf-8", "surrogateescape"), value)


WORDS = [
    *FIELDS,
    *SIGNS,
    "~",
    "and",
    "or",
    "not",
    "(",
    ")",
    "3",
    "-1.5e3",
    "'x'",
    '"["',
    "done",
    "exit",
    "'",
    "\0",
    "é",
    "\x1c",
    "\xa0",
    "__class__",
]


@settings(max_examples=300, deadline=None)
@given(st.lists(st.sampled_from(WORDS), max_size=12).map(" ".join) | st.text(max_size=60))
def test_anything_is_either_a_condition_or_refused(text: str) -> None:
    try:
        holds = parse_where(text)
    except UsageError as refused:
        lines = str(refused).split("\n")
        assert lines[-1].strip() == "^"
        assert len(lines[-1]) <= len(lines[-2]) + 1
        return
    assert all(holds(line) in (True, False) for line in ALL)


def test_numbers_too_large_are_just_large() -> None:
    assert parse_where("seconds < " + "9" * 5000)(GOOD)
    assert parse_where("seconds < 1e999")(GOOD)
    assert math.isinf(float("1e999"))
