"""What a call gave, through the bytes of a run file and back."""

from __future__ import annotations

import zlib
from collections import OrderedDict
from dataclasses import dataclass
from threading import Lock
from typing import Any, NamedTuple

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as st_numpy

from mpifarm.calls.value import encode, encode_exception
from mpifarm.core.left_behind import parse_contents
from mpifarm.outputs.values import Pickled, RaisedError, Record, plain, value_of


class Entry:
    """As runfile.captures.Captured, of bytes at hand."""

    def __init__(self, data: bytes, dtype: str | None, shape: tuple[int, ...] | None) -> None:
        self.bytes, self._dtype, self._shape = data, dtype, shape

    @property
    def array(self) -> Any:
        return np.frombuffer(self.bytes, self._dtype).reshape(self._shape or ()).copy()


def stored(encoded: Any) -> dict[str, Any]:
    values = b"".join(bytes(piece) for piece in encoded.pieces)
    found = {}
    for entry in parse_contents(encoded.contents).entries:
        data = values[entry.offset : entry.offset + entry.length]
        assert zlib.crc32(data) == entry.crc32
        assert entry.name not in found
        found[entry.name] = Entry(data, entry.dtype, entry.shape)
    assert sum(len(each.bytes) for each in found.values()) == len(values)
    return found


def through(value: object, **options: bool) -> Any:
    return value_of(stored(encode(value)), **options)


ARRAYS = st_numpy.arrays(
    st_numpy.scalar_dtypes() | st_numpy.unicode_string_dtypes(),
    st_numpy.array_shapes(min_dims=0, min_side=0, max_dims=3),
)
LEAVES = (
    st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.binary() | st.complex_numbers() | ARRAYS
)  # fmt: skip
VALUES = st.recursive(
    LEAVES,
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.lists(inner, max_size=3).map(tuple)
        | st.dictionaries(st.text(alphabet="ab$.#", max_size=3) | st.integers(), inner, max_size=3)
    ),
    max_leaves=6,
)


def same(one: Any, other: Any) -> bool:
    if type(one) is not type(other):
        return False
    if isinstance(one, np.ndarray):
        return one.dtype == other.dtype and one.shape == other.shape and one.tobytes() == other.tobytes()
    if isinstance(one, list | tuple):
        return len(one) == len(other) and all(map(same, one, other))
    if isinstance(one, dict):
        return len(one) == len(other) and all(map(same, one.items(), other.items()))
    return repr(one) == repr(other)


@given(VALUES)
def test_what_is_plain_comes_back_as_it_was_and_is_never_pickled(value: object) -> None:
    encoded = encode(value)
    assert b"$pickle" not in bytes(encoded.pieces[0])
    assert same(value_of(stored(encoded)), value)


@pytest.mark.parametrize(
    "value",
    [
        np.float32(1.5), np.datetime64("2026-01-01", "D"), np.array([], "M8[s]"), np.zeros((0, 3)),
        np.asfortranarray(np.eye(3)), np.arange(10)[::-2], np.array("x"), np.array(b""), 10**400,
        np.zeros((2, 0), ">i2"),
    ],
)  # fmt: skip
def test_arrays_of_any_kind_and_layout(value: Any) -> None:
    back = through(value)
    assert type(back) is type(value)
    assert np.array_equal(back, value)


@dataclass
class Point:
    x: float
    y: np.ndarray[Any, Any]


class Pair(NamedTuple):
    a: int
    b: Point


def test_records_are_their_fields_unless_code_may_run() -> None:
    value = Pair(1, Point(2.0, np.arange(3)))
    told = through(value)
    assert isinstance(told, Record) and told.type == "tests.calls.test_value:Pair"
    assert told["b"]["y"].tolist() == [0, 1, 2]
    back = through(value, unpickle=True)
    assert isinstance(back, Pair) and isinstance(back.b, Point) and back.b.x == 2.0


@pytest.mark.parametrize(
    "value", [{1, 2}, OrderedDict(a=1), range(3), np.array([object()], dtype=object), bytearray(b"x")]
)
def test_anything_else_is_pickled_marked_so_and_only_loaded_when_asked(value: Any) -> None:
    kept = through(value)
    assert isinstance(kept, Pickled)
    if not isinstance(value, np.ndarray):
        assert kept.load() == value == through(value, unpickle=True)


def test_entries_are_called_after_their_place() -> None:
    found = stored(encode({"energy": np.float64(1), "steps": [np.zeros(2), b"raw"]}))
    assert sorted(found) == ["", "energy", "steps.0", "steps.1"]
    assert sorted(stored(encode(np.zeros(2)))) == ["", "value"]


def test_what_holds_itself_has_an_end() -> None:
    value: list[Any] = []
    value.append(value)
    assert isinstance(through(value), Pickled)


def test_an_exception_is_raised_again_by_name() -> None:
    encoded = encode_exception(KeyError("a"), "Traceback ...")
    with pytest.raises(RaisedError, match="KeyError: 'a'") as raised:
        value_of(stored(encoded))
    assert raised.value.traceback == "Traceback ..."
    with pytest.raises(KeyError) as itself:
        value_of(stored(encoded), unpickle=True)
    assert isinstance(itself.value.__cause__, RaisedError)


def test_an_exception_that_cannot_be_pickled_is_told_all_the_same() -> None:
    error = ValueError(Lock())
    with pytest.raises(RaisedError, match="ValueError"):
        value_of(stored(encode_exception(error, "")), unpickle=True)


def test_as_json() -> None:
    value = {"a": np.arange(2), "b": (1, b"x", float("nan"), 1j), "c": {1}}
    told = plain(through(value | {"c": 1}))
    assert told == {"a": [0, 1], "b": [1, "x", "nan", [0.0, 1.0]], "c": 1}
