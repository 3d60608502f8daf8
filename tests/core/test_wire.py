"""Every message comes out of the wire as it went in."""

from __future__ import annotations

from dataclasses import fields
from typing import get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mpifarm.core.job.policy import JobText, Policy, RetryRule
from mpifarm.core.model import Block, FailureClass, Kind, Span, TaskText
from mpifarm.core.needs import Needs
from mpifarm.core.protocol.messages import LinkMessage, Message, Output
from mpifarm.core.protocol.wire import decode, encode

KINDS = get_args(Message) + tuple(kind for kind in get_args(LinkMessage) if kind not in get_args(Message))
COUNT = st.integers(0, 2**40)
TASKS = st.lists(st.builds(TaskText, st.binary(), st.none() | st.binary()), min_size=1, max_size=5)
SECONDS = st.floats(0, 1e9)
NEEDS = st.builds(Needs, cpus=COUNT, memory_bytes=COUNT, time_limit_s=SECONDS, time_request_s=SECONDS)
JOBS = st.builds(
    JobText,
    COUNT,
    st.text(),
    st.binary(),
    st.builds(Policy, COUNT, st.tuples(st.builds(RetryRule, st.sampled_from(FailureClass), st.none() | COUNT, COUNT))),
)
BLOCKS = st.builds(Block, COUNT, COUNT, COUNT, NEEDS, COUNT, TASKS, COUNT, COUNT, st.sampled_from(Kind))
SPANS = st.builds(Span, COUNT, COUNT, COUNT, COUNT, COUNT, COUNT, COUNT)


def tuples(*of: st.SearchStrategy[object]) -> st.SearchStrategy[tuple[object, ...]]:
    return st.lists(st.tuples(*of) if len(of) > 1 else of[0], max_size=3).map(tuple)


ANY = {
    "int": COUNT,
    "bool": st.booleans(),
    "Needs | None": st.none() | NEEDS,
    "float": st.floats(allow_nan=False),
    "str": st.text(),
    "bytes": st.binary(max_size=300),
    "dict[tuple[LeaseId, int], bytes]": st.dictionaries(st.tuples(COUNT, COUNT), st.binary(), max_size=3),
    "dict[str, str]": st.dictionaries(st.text(), st.text(), max_size=3),
    "tuple[str, ...]": tuples(st.text()),
    "tuple[int, ...]": tuples(COUNT),
    "tuple[Span, ...]": tuples(SPANS),
    "tuple[JobText, ...]": tuples(JOBS),
    "tuple[Block, ...]": tuples(BLOCKS),
    "tuple[tuple[int, int], ...]": tuples(COUNT, COUNT),
    "tuple[tuple[LeaseId, int, int], ...]": tuples(COUNT, COUNT, COUNT),
    "tuple[tuple[bool, bytes | memoryview], ...]": tuples(st.booleans(), st.binary()),
    "tuple[tuple[bool, int, int], ...]": tuples(st.booleans(), COUNT, COUNT),
    "tuple[tuple[str, int, int], ...]": tuples(st.text(), COUNT, COUNT),
    "tuple[tuple[tuple[int, int, int], int, int, int, int], ...]": tuples(
        st.tuples(COUNT, COUNT, COUNT), COUNT, COUNT, COUNT, COUNT
    ),
    "tuple[tuple[object, ...], ...]": tuples(COUNT, st.floats(allow_nan=False), st.none() | st.tuples(COUNT)),
}
"""What a field of a message may hold, by its annotation."""


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__)
@given(data=st.data())
def test_what_goes_in_comes_out(kind: type, data: st.DataObject) -> None:
    message = kind(*(data.draw(ANY[field.type]) for field in fields(kind)))
    again = decode(bytearray(encode(message)))
    assert type(again) is kind and again == message


def test_a_chunk_in_an_arena_comes_out_as_bytes() -> None:
    sent = Output(1, b"", b"", ((False, memoryview(b"abcd")[1:3]),), {})
    assert decode(encode(sent)) == Output(1, b"", b"", ((False, b"bc"),), {})
