"""What JSON records wait for: by number, by name, earlier ones and later ones."""

from __future__ import annotations

import io
import json
import os
import tracemalloc
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mpifarm.core.model import Parent, Part
from mpifarm.core.needs import Needs
from mpifarm.errors import UsageError
from mpifarm.intake.expand import Expansion, expand_arguments

ONE, TWO, THREE = Parent(1, 2), Parent(2, 3), Parent(3, 4)


def parts_of(content: bytes) -> list[Part]:
    return list(expand_arguments(Expansion(["prog {a}"], from_json="-"), Needs(2), io.BytesIO(content)))


def needs(*records: dict[str, Any]) -> list[tuple[Parent, ...]]:
    content = "\n".join(json.dumps({"a": number} | record) for number, record in enumerate(records))
    parts = parts_of(content.encode())
    commands = [task.body for part in parts for task in part.tasks]
    assert commands == [b"prog %d" % number for number in range(len(records))]
    array = "[" + content.replace("\n", ",\n") + "]"
    assert parts == parts_of(array.encode())
    return [part.parents for part in parts for _ in part.tasks]


@pytest.mark.parametrize(
    ("wanted", "expected"),
    [
        ({"requires": 1}, [ONE]),
        ({"requires": [2, 1]}, [Parent(1, 3)]),
        ({"requires": -1}, [TWO]),
        ({"requires": [-1, "relax"]}, [Parent(1, 3)]),
        ({"requires": "relax"}, [ONE]),
        ({"requires": ["later"], "requires_any": ["relax", 2]}, [Parent(4, 5), Parent(1, 3, True)]),
        ({"requires": 4}, [Parent(4, 5)]),
        ({"requires": []}, []),
        ({"requires": None, "requires_any": None}, []),
    ],
)
def test_what_a_record_requires(wanted: dict[str, Any], expected: list[Parent]) -> None:
    assert needs({"name": "relax"}, {"name": "same"}, wanted, {"name": "later"}, {"name": "same"}) == [
        (),
        (),
        tuple(expected),
        (),
        (),
    ]


@pytest.mark.parametrize(
    ("records", "reason"),
    [
        ([{"requires": 0}], "-:1: record 1 requires 0, and tasks count from 1"),
        ([{}, {"requires": -2}], "-:2: record 2 requires -2, and tasks count from 1 (-1 is the one before)"),
        ([{"requires": 1}], "-:1: record 1 requires itself"),
        ([{"name": "x", "requires": "x"}], "-:1: record 1 requires itself"),
        ([{"requires": 3}, {}], "-:1: there is no task 3 to wait for: - has 2 tasks"),
        ([{"requires": 10**30}], "no job has so many tasks"),
        ([{"name": "relax"}, {"requires": "relx"}], "requires 'relx', and no record is called so (there is relax)"),
        ([{"requires": "x" * 10_000}], "requires 'xxxx"),
        ([{"requires": True}], "has true in 'requires': numbers of tasks and names can stand there"),
        ([{"requires": [1.5]}], "has 1.5 in 'requires'"),
        ([{"requires_any": [[1]]}], "has [1] in 'requires_any'"),
        ([{"requires": {"a": 1}}], "in 'requires'"),
        ([{"name": "x"}, {"name": "x"}, {"requires": "x"}], "record 3 requires 'x', and records 1 and 2 are called so"),
        ([{"name": "x"}, {"requires": "x"}, {"name": "x"}], "-:3: record 3 is called 'x', as record 1 is"),
        ([{"name": "x", "requires": "y"}, {"name": "y", "requires": "x"}], "-:1: tasks wait for each other"),
    ],
)  # fmt: skip
def test_what_is_refused(records: list[dict[str, Any]], reason: str) -> None:
    with pytest.raises(UsageError) as caught:
        needs(*records)
    assert reason in str(caught.value)
    assert len(str(caught.value)) < 300


def test_a_key_that_is_spelled_with_escapes() -> None:
    parts = parts_of(b'{"a":1,"name":"x"}\n{"a":2,"r\\u0065quires":"x"}\n')
    assert [part.parents for part in parts] == [(), (ONE,)]


@pytest.mark.slow
def test_names_cost_nothing_where_nobody_requires(tmp_path: Path) -> None:
    path = tmp_path / "records.jsonl"

    def peak(count: int) -> int:
        path.write_text("".join(f'{{"a":{n},"name":"molecule-{n:09}"}}\n' for n in range(count)))
        tracemalloc.start()
        read = sum(
            len(part.tasks)
            for part in expand_arguments(Expansion(["prog {a}"], from_json=os.fspath(path)), Needs(), io.BytesIO())
        )
        _, peak = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        assert read == count
        return peak

    peak(10)  # what is imported once
    assert peak(40_000) < 1.3 * peak(20_000)


@settings(deadline=None, max_examples=100)
@given(st.lists(st.tuples(st.booleans(), st.lists(st.integers(1, 9), max_size=3)), min_size=1, max_size=9))
def test_names_and_numbers_mean_the_same(wanted: list[tuple[bool, list[int]]]) -> None:
    """Each record is called by its number; those that are there are required by name, or all by number."""
    found: list[Any] = []
    for by_name in (False, True):
        records = [
            {
                "name": f"n{number}",
                "requires_any" if any_end else "requires": [f"n{n}" if by_name else n for n in others],
            }
            for number, (any_end, others) in enumerate(wanted, 1)
        ]
        try:
            found.append(needs(*records))
        except UsageError:
            found.append(None)
    assert found[0] == found[1]
