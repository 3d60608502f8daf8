"""What a call gave, as bytes that say what they are: a tree of JSON, and arrays and bytes beside it with their dtype
and shape, so that whoever reads a run file without mpifarm, or without Python, finds them.

In the tree, an object with one key that begins with $ stands for what is no JSON:

    {"$array": NAME}  {"$bytes": NAME}  an entry of the stream VALUES, named after its place in the value
    {"$scalar": NAME}                   a NumPy scalar, an entry without dimensions
    {"$tuple": [...]}  {"$float": "nan"}  {"$complex": [1.0, 2.0]}
    {"$dict": [[KEY, VALUE], ...]}      a dict whose keys are not all strings, or begin with $
    {"$record": ["pkg.mod:Name", {...}]}  a dataclass or a named tuple, by its fields
    {"$pickle": NAME}                   anything else: the whole value, pickled
    {"$exception": {"type": ..., "message": ..., "traceback": ..., "bases": [...]}}

NumPy is not imported: who has arrays has imported it.
"""

from __future__ import annotations

import dataclasses
import json
import pickle
import sys
from math import isfinite
from typing import Any, NamedTuple
from zlib import crc32

from mpifarm.core.left_behind import PLAIN_KINDS, Listing
from mpifarm.core.row import VALUES

TREE, WHOLE, EXCEPTION = "", "value", "exception"
"""Names of entries: of the tree; of a value that is one array or bytes; of an exception, pickled if it can be."""
_DEPTH_MAX = 200


class Encoded(NamedTuple):
    """What is written of one call: the stream VALUES in pieces, and the text of the stream CONTENTS."""

    pieces: list[Any]
    """bytes, or whatever gives its bytes as a buffer."""
    contents: bytes


class _Beside(NamedTuple):
    name: str
    data: Any
    dtype: str | None
    shape: tuple[int, ...]


class _NotPlainError(Exception):
    """It has to be pickled."""


def encode(value: Any) -> Encoded:
    """Raises whatever pickling raises, for what is not plain."""
    beside: list[_Beside] = []
    try:
        tree = _Encoding(beside).node(value, (), 0)
    except (_NotPlainError, RecursionError):
        beside[:] = [_Beside(WHOLE, _pickled(value), None, ())]
        tree = {"$pickle": WHOLE}
    return _encoded(tree, beside)


def encode_exception(error: BaseException, traceback: str) -> Encoded:
    """What a call raised."""
    try:
        message = str(error)
    except Exception as another:
        message = f"its message cannot be had: {another!r}"
    bases = [_name(kind) for kind in type(error).__mro__ if kind not in (object, BaseException)]
    told = {"type": bases[0] if bases else _name(type(error)), "message": message, "traceback": traceback}
    try:
        beside = [_Beside(EXCEPTION, _pickled(error), None, ())]
    except Exception:  # as it says, it cannot be had whole elsewhere
        beside = []
    return _encoded({"$exception": {**told, "bases": bases}}, beside)


def _encoded(tree: Any, beside: list[_Beside]) -> Encoded:
    listing = Listing()
    text = json.dumps(tree, ensure_ascii=True).encode()
    listing.add(VALUES, TREE, len(text), crc32(text))
    pieces: list[Any] = [text]
    for name, data, dtype, shape in beside:
        view = memoryview(data).cast("B") if len(data) else b""
        listing.add(VALUES, name, len(view), crc32(view), dtype, shape)
        pieces.append(view)
    return Encoded(pieces, listing.text())


def _pickled(value: Any) -> bytes:
    try:
        return pickle.dumps(value, protocol=5)
    except Exception:
        try:
            import cloudpickle
        except ImportError:
            cloudpickle = None
        if cloudpickle is None:
            raise
        pickled: bytes = cloudpickle.dumps(value, protocol=5)
        return pickled


def _name(kind: type) -> str:
    return kind.__qualname__ if kind.__module__ == "builtins" else f"{kind.__module__}.{kind.__qualname__}"


class _Encoding:
    """Walks down a value, and gathers what goes beside its tree."""

    def __init__(self, beside: list[_Beside]) -> None:
        self._beside = beside
        self._numpy: Any = sys.modules.get("numpy")
        self._names: set[str] = {TREE}

    def node(self, value: Any, path: tuple[str, ...], depth: int) -> Any:
        kind = type(value)
        if value is None or kind is bool or kind is int or kind is str:
            return value
        if kind is float:
            return value if isfinite(value) else {"$float": repr(value)}
        if depth > _DEPTH_MAX:
            raise _NotPlainError
        below = depth + 1
        if kind is list:
            return [self.node(each, (*path, str(at)), below) for at, each in enumerate(value)]
        if kind is tuple:
            return {"$tuple": [self.node(each, (*path, str(at)), below) for at, each in enumerate(value)]}
        if kind is dict:
            return self._dict(value, path, below)
        if kind is complex:
            return {"$complex": [repr(value.real), repr(value.imag)]}
        if kind is bytes:
            return {"$bytes": self._add(path, value, None, ())}
        if self._numpy is not None:
            if kind is self._numpy.ndarray:
                return {"$array": self._array(value, path)}
            if isinstance(value, self._numpy.generic):
                return {"$scalar": self._array(self._numpy.asarray(value), path)}
        return self._record(value, kind, path, below)

    def _dict(self, value: dict[Any, Any], path: tuple[str, ...], depth: int) -> Any:
        if all(type(key) is str and not key.startswith("$") for key in value):
            return {key: self.node(each, (*path, key), depth) for key, each in value.items()}
        pairs = []
        for at, (key, each) in enumerate(value.items()):
            pairs.append([self.node(key, (*path, f"{at}k"), depth), self.node(each, (*path, str(at)), depth)])
        return {"$dict": pairs}

    def _record(self, value: Any, kind: type, path: tuple[str, ...], depth: int) -> Any:
        if dataclasses.is_dataclass(kind):
            names = [field.name for field in dataclasses.fields(kind)]
        elif issubclass(kind, tuple) and hasattr(kind, "_fields"):
            names = list(kind._fields)
        else:
            raise _NotPlainError
        fields = {name: self.node(getattr(value, name), (*path, name), depth) for name in names}
        return {"$record": [f"{kind.__module__}:{kind.__qualname__}", fields]}

    def _array(self, array: Any, path: tuple[str, ...]) -> str:
        if array.dtype.kind not in PLAIN_KINDS or array.dtype.hasobject:
            raise _NotPlainError
        data = self._numpy.ascontiguousarray(array)
        # As plain bytes, since some kinds (dates) are none that a buffer can be of; a view, no copy.
        plain = data.reshape(-1).view("u1") if data.size and data.itemsize else b""
        return self._add(path, plain, array.dtype.str, array.shape)

    def _add(self, path: tuple[str, ...], data: Any, dtype: str | None, shape: tuple[int, ...]) -> str:
        plain = name = ".".join(path) or WHOLE
        number = 1
        while name in self._names:
            number += 1
            name = f"{plain}#{number}"
        self._names.add(name)
        self._beside.append(_Beside(name, data, dtype, shape))
        return name
