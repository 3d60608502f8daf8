"""Kind: a key of a JSON record is obeyed, or refused with a caret, or told to be data; never silently ignored."""

from __future__ import annotations

import io
import json
from typing import Any

import pytest

from mpifarm.core.model import Parent, Part
from mpifarm.core.needs import Needs
from mpifarm.errors import UsageError
from mpifarm.intake.directives import parse_options
from mpifarm.intake.expand import Expansion, expand_arguments
from mpifarm.intake.task_options import OPTIONS

ASKED = Needs(2, time_limit_s=60.0)


def parts_of(content: str, words: list[str], told: list[str] | None = None) -> list[Part]:
    tell = [].append if told is None else told.append
    return list(expand_arguments(Expansion(words, from_json="-"), ASKED, io.BytesIO(content.encode()), tell))


def needs(key: str, value: Any) -> Needs:
    return parts_of(json.dumps({"a": 1, key: value}), ["prog {a}"])[0].needs


def refusal(content: str, words: list[str]) -> str:
    with pytest.raises(UsageError) as caught:
        parts_of(content, words)
    return str(caught.value)


def test_a_record_says_what_a_directive_says() -> None:
    samples = {"--cpus": "4", "--time-limit": "10m", "--time-request": "10m", "--mem": "4G", "--resource": "x=1"}
    for option in OPTIONS:
        sample = samples.get(option.flag, "1")
        directive = parse_options(f"{option.flag} {sample}".encode(), 0, ASKED)
        assert directive != ASKED
        assert needs(option.key, sample) == directive


def test_what_values_mean() -> None:
    assert needs("cpus", 4) == needs("cpus", "4") == Needs(4, time_limit_s=60.0)
    assert needs("time_limit", "0s") == Needs(2)
    assert needs("cpus", None) == needs("time_limit", None) == ASKED


def test_tasks_are_grouped_by_what_they_need_and_wait_for() -> None:
    own: list[dict[str, Any]] = [
        {}, {"cpus": 2}, {"cpus": 8}, {"cpus": 8, "requires": "x"}, {"cpus": 8, "requires": "x"}, {"name": "x"},
    ]  # fmt: skip
    records = [{"a": number} | record for number, record in enumerate(own, 1)]
    eight = ASKED._replace(cpus=8)
    x = (Parent(6, 7),)
    for content in ("\n".join(map(json.dumps, records)), json.dumps(records)):
        parts = parts_of(content, ["prog {a}"])
        assert [(part.needs, len(part.tasks), part.parents) for part in parts] == [
            (ASKED, 2, ()), (eight, 1, ()), (eight, 2, x), (ASKED, 1, ()),
        ]  # fmt: skip
        assert [task.body for part in parts for task in part.tasks] == [b"prog %d" % n for n in range(1, 7)]  # type: ignore[union-attr]


def test_what_the_command_fills_in_is_data_and_is_obeyed_too() -> None:
    told: list[str] = []
    part = parts_of(
        '{"cpus": 4, "mem": "2G", "retries": 3, "cores": 1}', ["prog {cpus} {mem} {retries} {cores}"], told
    )[0]
    assert (part.tasks[0].body, part.needs.cpus, told) == (b"prog 4 2G 3 1", 4, [])  # type: ignore[union-attr]


@pytest.mark.parametrize(
    ("key", "value", "reason"),
    [
        ("cpus", 0, "'0' is not a whole number from 1 to 65535"),
        ("cpus", 1.5, "'1.5' is not a whole number"),
        ("cpus", True, "true is not a value"),
        ("cpus", [4], "[4] is not a value"),
        ("cpus", 10**30, "is not a whole number"),
        ("time_limit", 600, "duration '600' has no unit: write 600s or 600m"),
        ("time_limit", "soon", "'soon' is not a duration"),
        ("time_limit", {"s": 1}, "is not a value"),
        ("time-limit", "10m", "did you mean 'time_limit'?"),
        ("timeLimit", "10m", "did you mean 'time_limit'?"),
        ("CPUs", 4, "did you mean 'cpus'?"),
        ("cpu", 4, "did you mean 'cpus'?"),
        ("cores", 4, "did you mean 'cpus'?"),
        ("walltime", "1h", "did you mean 'time_limit'?"),
        ("require", 1, "did you mean 'requires'?"),
        ("depends_on", 1, "did you mean 'requires'?"),
        ("requiresAny", 1, "did you mean 'requires_any'?"),
        ("retries", 3, "is for all tasks of a submit, not for one record: mpifarm submit --retries"),
        ("max-fails", 3, "mpifarm submit --max-fails"),
        ("env", {"A": "b"}, "nothing obeys 'env' (as data for the command it is filled in: {env})"),
        ("stdin", "x", "nothing obeys 'stdin'"),
    ],
)
@pytest.mark.parametrize("command", ["prog {a}", "prog"])
def test_what_cannot_be_obeyed_is_refused_with_record_and_caret(
    key: str, value: object, reason: str, command: str
) -> None:
    record = {"a": {"cpus": [1, {}]}, "b": '{"x":', key: value, "c": 1}
    written = json.dumps(value)
    lines = f'{{"a": 1}}\n\n  {json.dumps(record)}\n'
    array = json.dumps([{"a": 1}, record], indent=1)
    for content in (lines, array):
        message = refusal(content, [command])
        where, _, rest = message.partition(": ")
        assert rest.startswith("record 2: ")
        assert reason in rest
        line, column = map(int, where.split(":")[1:])
        assert content.split("\n")[line - 1][column - 1 :].startswith(written.split("\n")[0][:1])
        shown, caret = message.split("\n")[-2:]
        assert shown[: len(caret) - 1].rstrip().endswith(":")


def test_data_that_only_the_entry_holds_is_told_once() -> None:
    told: list[str] = []
    parts_of('{"a": 1, "id": 1}\n{"a": 2, "id": 2, "weight": 3}\n' * 5, ["prog {a}"], told)
    assert told == ["-: 'id', 'weight' are not filled in anywhere: tasks find the whole record in MPIFARM_ENTRY"]
    told.clear()
    parts_of('{"a": 1, "name": "x", "requires": []}', ["prog {a}"], told)
    assert told == []
    parts_of('{"a": 1}', ["prog"], told)
    assert told == ["the command is the same for all tasks: each finds its value in MPIFARM_ENTRY"]


@pytest.mark.parametrize(
    ("content", "where"),
    [
        ('{"a": 1}\n{"a": 1, "cpus": 2, "cpus": 4}', "-:2:1"),
        ('[{"a": 1},\n\n {"a": {"b": 1, "b": 1}}]', "-:3:2"),
    ],
)
def test_a_key_that_stands_twice(content: str, where: str) -> None:
    assert refusal(content, ["prog {a}"]).startswith(f"{where}: the key ")
