"""A call as text, and back."""

from __future__ import annotations

import pickle
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mpifarm.calls.call import NotACallError, Sender, by_path, exact_json, import_path, load, parse

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)


@given(st.lists(JSON, max_size=3), st.dictionaries(st.text(), JSON, max_size=3))
def test_json_comes_back_as_it_was(args: list[Any], kwargs: dict[str, Any]) -> None:
    body = by_path("pkg.mod:Class.f", args, kwargs)
    parsed = parse(body)
    assert b"\n" not in body
    assert (parsed.function, list(parsed.args), dict(parsed.kwargs)) == ("pkg.mod:Class.f", args, kwargs)


def test_a_body_reads_as_a_call() -> None:
    assert by_path("m:f", [1, "é"], {"x": None}) == 'm:f [1, "é"] {"x": null}'.encode()
    assert by_path("m:f") == b"m:f"


@pytest.mark.parametrize("value", [(1,), b"", float("nan"), {1: 2}, "\udc80", 1j, {"a": (1,)}])
def test_what_json_does_not_give_back_is_no_json(value: object) -> None:
    assert not exact_json(value)
    if not isinstance(value, bytes | str):
        parsed = parse(Sender(json_of).body([value]))
        assert parsed.pickled is not None and pickle.loads(parsed.pickled)[0] is None


def json_of(value: object) -> object:
    return value


def test_a_function_that_can_be_imported_goes_by_its_path() -> None:
    assert import_path(json_of) == "tests.calls.test_call:json_of"
    assert load("tests.calls.test_call:json_of") is json_of
    assert Sender(json_of).body([1]) == b"tests.calls.test_call:json_of [1]"


def test_one_that_cannot_goes_by_value() -> None:
    pytest.importorskip("cloudpickle")
    parsed = parse(Sender(lambda x: x + 1).body([1]))
    assert parsed.function == "<lambda>" and parsed.pickled is not None
    function, args, _ = pickle.loads(parsed.pickled)
    assert pickle.loads(function)(*args) == 2


@pytest.mark.parametrize(
    ("body", "says"),
    [
        (b"f", "import path"), (b"pkg.mod.f [1]", "perhaps pkg.mod:f"), (b"m:f [1", "no call"), (b"m:f 3", "neither"),
        (b"m:f pickle !", "no call"), (b"\xff", "no call"), (b"", "import path"),
    ],
)  # fmt: skip
def test_what_is_no_call_is_refused(body: bytes, says: str) -> None:
    with pytest.raises(NotACallError, match=says):
        parse(body)
