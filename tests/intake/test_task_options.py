"""What a task needs can be said in every place where a task can be said, in everybody's words."""

from __future__ import annotations

import io
import json
from functools import reduce

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mpifarm.core.needs import MILLIS, NODE, Needs, share_of_node
from mpifarm.errors import UsageError
from mpifarm.intake.expand import Expansion, expand_arguments
from mpifarm.intake.task_options import (
    BY_FLAG,
    OPTIONS,
    PACKED_MAX,
    SPELLINGS,
    TaskOption,
    packing_count,
    reader,
    said,
)
from mpifarm.intake.taskfile import read_tasks
from mpifarm.units import exact_bytes, parse_bytes

SAYS: dict[str, tuple[str, object, Needs]] = {
    "--cpus": ("4", 4, Needs(4)),
    "--mem": ("1.5G", "1536M", Needs(memory_bytes=3 << 29)),
    "--gpus": ("0.25", 0.25, Needs(gpu_millis=250)),
    "--resource": ("licence=2", {"licence": 2}, Needs(resources=(("licence", 2000),))),
    "--node-packing-count": ("3", 3, Needs(resources=((NODE, 333333),))),
    "--time-limit": ("90s", "90s", Needs(time_limit_s=90.0)),
    "--time-request": ("2m", "120s", Needs(time_request_s=120.0)),
    "--category": ("relax", "relax", Needs(category="relax")),
}
"""Of every option: as text, as JSON, and what it means."""


@pytest.mark.parametrize("option", OPTIONS, ids=lambda option: option.flag)
def test_every_option_in_every_place(option: TaskOption) -> None:
    text, value, needs = SAYS[option.flag]
    assert option.put(Needs(), text) == needs
    (part,) = read_tasks(io.BytesIO(f"#MPIFARM {option.flag}={text}\na\n".encode()), "tasks.txt", Needs())
    assert part.needs == needs
    assert option.put_value(Needs(), value) == needs
    records = json.dumps([{"a": 1}, {"a": 2, option.key: value}, {"a": 3}]).encode()
    asked = Expansion(["run", "{a}"], from_json="-")
    assert [part.needs for part in expand_arguments(asked, Needs(), io.BytesIO(records))] == [Needs(), needs, Needs()]


@pytest.mark.parametrize(
    ("typed", "needs"),
    [
        ("-c 4", Needs(4)),
        ("--cpus-per-task 4", Needs(4)),
        ("--threads-per-rank 4", Needs(4)),
        ("--resource cpus=4", Needs(4)),
        ("--memory 2GiB", Needs(memory_bytes=2 << 30)),
        ("--resource mem=500M", Needs(memory_bytes=500 << 20)),
        ("--gpus-per-task 2", Needs(gpu_millis=2000)),
        ("--gres gpu:2", Needs(gpu_millis=2000)),
        ("--gres gpu:a100:2", Needs(gpu_millis=2000)),
        ("--gres gpu", Needs(gpu_millis=1000)),
        ("--gres licence:3", Needs(resources=(("licence", 3000),))),
        ("--resource gpus/nvidia=0.5", Needs(gpu_millis=500)),
        ("--time 01:00:00", Needs(time_limit_s=3600.0)),
        ("--wall-time-min 5", Needs(time_limit_s=300.0)),
        ("--nodes 1 --ranks-per-node 1", Needs()),
    ],
)
def test_what_people_type_from_elsewhere(typed: str, needs: Needs) -> None:
    (part,) = read_tasks(io.BytesIO(f"#MPIFARM {typed}\na\n".encode()), "tasks.txt", Needs())
    assert part.needs == needs


def test_no_spelling_hides_an_option() -> None:
    assert not SPELLINGS.keys() & BY_FLAG.keys()
    assert reader("--retries") is None


@pytest.mark.parametrize(
    ("key", "value", "reason"),
    [
        ("mem", 4, "'4' has no unit: write 4M or 4G"),
        ("mem", "4B", "'4B' is 4 bytes: write 4G"),
        ("gpus", [1], "[1] is not a value for it"),
        ("resource", 3, "'3' is not NAME=AMOUNT"),
        ("category", "", "'' is not a name"),
    ],
)
def test_bad_values_in_a_record(key: str, value: object, reason: str) -> None:
    records = io.BytesIO(json.dumps({"a": 1, key: value}).encode())
    with pytest.raises(UsageError) as caught:
        list(expand_arguments(Expansion(["run"], from_json="-"), Needs(), records))
    assert reason in str(caught.value)


def test_a_share_of_a_node_is_read_back() -> None:
    for count in range(1, PACKED_MAX + 1):
        assert packing_count(Needs(resources=((NODE, share_of_node(count)),))) == count


MILLIS_OF_ONE = st.integers(1, 1000 * MILLIS)
SPOKEN = st.builds(
    Needs,
    cpus=st.integers(1, 64),
    memory_bytes=st.just(0) | st.integers(1 << 20, 1 << 50),
    gpu_millis=st.integers(0, MILLIS) | st.integers(1, 8).map(lambda gpus: gpus * MILLIS),
    resources=st.dictionaries(st.sampled_from(["a", "b/c", "licence"]), MILLIS_OF_ONE).map(
        lambda named: tuple(sorted(named.items()))
    ),
    time_limit_s=st.floats(0, 1e6).map(lambda seconds: round(seconds, 6)),
    time_request_s=st.integers(0, 10).map(float),
    category=st.sampled_from(["", "relax", "md/npt"]),
    nodes=st.just(1),
    ranks=st.just(1),
)


@given(SPOKEN, SPOKEN)
def test_what_is_said_is_read_back(before: Needs, after: Needs) -> None:
    words = said(after, before)
    pairs = list(zip(words[::2], words[1::2]))
    assert reduce(lambda needs, pair: BY_FLAG[pair[0]].put(needs, pair[1]), pairs, before) == after
    line = f"#MPIFARM {' '.join(words)}\na\n" if words else "a\n"
    (part,) = read_tasks(io.BytesIO(line.encode()), "tasks.txt", before)
    assert part.needs == after


@given(st.integers(0, 1 << 60))
def test_sizes_are_read_back(size: int) -> None:
    assert parse_bytes(exact_bytes(size)) == size
