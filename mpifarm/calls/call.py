"""A call as the body of a task: one line of text, so that it can be read wherever a command can.

    pkg.mod:f [1, 2] {"x": 3}          a function by its import path, with JSON
    pkg.mod:f pickle gASVDw...         arguments that are more than JSON
    <lambda> pickle gASVpQ...          a function that no import finds, by value (cloudpickle)

An empty list or object is left out. Nothing of a body is unpickled but by the interpreter that makes the call.
"""

from __future__ import annotations

import base64
import importlib
import json
import pickle
import re
from collections.abc import Callable, Mapping, Sequence
from math import isfinite
from typing import Any, NamedTuple

_PATH = re.compile(r"[^\W\d]\w*(\.[^\W\d]\w*)*:[^\W\d]\w*(\.[^\W\d]\w*)*")
_PICKLE = "pickle "


class NotACallError(ValueError):
    """What cannot become a call, or is none; says why."""


class Parsed(NamedTuple):
    """A body, read but not loaded."""

    function: str
    """`pkg.mod:f`; only for people when it is by value."""
    args: Sequence[Any] = ()
    kwargs: Mapping[str, Any] = {}
    pickled: bytes | None = None
    """(the pickled function or None, args, kwargs); None: the three above are all."""


def check_path(function: str) -> None:
    """Raises NotACallError for what is no `pkg.mod:f`."""
    if not _PATH.fullmatch(function):
        hint = f": perhaps {function.rpartition('.')[0]}:{function.rpartition('.')[2]}" if "." in function else ""
        raise NotACallError(f"{function[:60]!r} is not the import path of a function, such as pkg.mod:f{hint}")


def by_path(function: str, args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None) -> bytes:
    """The body of a call with JSON for arguments. Raises NotACallError."""
    check_path(function)
    return _joined(function, args, kwargs or {}).encode()


class Sender:
    """Makes bodies of calls of a function that is at hand. Raises NotACallError for one that cannot be sent."""

    def __init__(self, function: Callable[..., Any]) -> None:
        self._path = import_path(function)
        self._name = self._path or _shown(function)
        self._pickled = None if self._path else _pickled_function(function, self._name)

    def body(self, args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None) -> bytes:
        """The call with these arguments. Raises NotACallError when they cannot be sent."""
        kwargs = kwargs or {}
        if self._path is not None and exact_json(list(args)) and exact_json(dict(kwargs)):
            return _joined(self._path, args, kwargs).encode()
        pickled = base64.b64encode(_pickled((self._pickled, tuple(args), dict(kwargs)), self._name)).decode()
        return f"{self._name} {_PICKLE}{pickled}".encode()


class Senders:
    """Makes bodies of calls of any function, and looks at each once."""

    _MOST = 1000

    def __init__(self) -> None:
        self._known: dict[int, tuple[Callable[..., Any], Sender]] = {}
        """By `id`, since not everything that can be called can be a key; the function is held so that it stays it."""

    def body(self, function: Callable[..., Any], args: Sequence[Any], kwargs: Mapping[str, Any]) -> bytes:
        """As `Sender.body`."""
        known = self._known.get(id(function))
        if known is None:
            if len(self._known) >= self._MOST:
                self._known.clear()
            known = self._known[id(function)] = function, Sender(function)
        return known[1].body(args, kwargs)


def _shown(function: Callable[..., Any]) -> str:
    """One word for people."""
    name = getattr(function, "__qualname__", type(function).__name__).rpartition(".")[2]
    return "_".join(name.split())


def _pickled_function(function: Callable[..., Any], name: str) -> bytes:
    try:
        import cloudpickle
    except ImportError:
        raise NotACallError(
            f"{name} is local, a lambda, or of __main__, so no other process can import it;"
            " with cloudpickle installed (pip install 'mpifarm[calls]') it is sent by value"
        ) from None
    try:
        pickled: bytes = cloudpickle.dumps(function, protocol=5)
    except Exception as error:
        raise NotACallError(f"{name} cannot be sent by value: {error}") from error
    return pickled


def _pickled(value: object, name: str) -> bytes:
    try:
        return pickle.dumps(value, protocol=5)
    except Exception as error:
        try:
            import cloudpickle

            pickled: bytes = cloudpickle.dumps(value, protocol=5)
        except Exception:
            raise NotACallError(f"the arguments of {name} cannot be pickled: {error}") from error
        return pickled


def import_path(function: Callable[..., Any]) -> str | None:
    """`pkg.mod:f` when that is this very function in every process that can import it."""
    module, name = getattr(function, "__module__", None), getattr(function, "__qualname__", "")
    path = f"{module}:{name}"
    if not module or module == "__main__" or not _PATH.fullmatch(path):
        return None
    try:
        return path if load(path) is function else None
    except (ImportError, AttributeError):
        return None


def load(path: str) -> Callable[..., Any]:
    """The function itself. Raises ImportError, AttributeError, and whatever its module raises."""
    module, _, name = path.partition(":")
    found: Any = importlib.import_module(module)
    for step in name.split("."):
        found = getattr(found, step)
    return found  # type: ignore[no-any-return]


def parse(body: bytes) -> Parsed:
    """What a body says. Raises NotACallError."""
    try:
        function, _, rest = body.decode().partition(" ")
        if rest.startswith(_PICKLE):
            return Parsed(function, pickled=base64.b64decode(rest[len(_PICKLE) :], validate=True))
        check_path(function)
        args: list[Any] = []
        kwargs: dict[str, Any] = {}
        if rest.startswith("["):
            args, end = json.JSONDecoder().raw_decode(rest)
            rest = rest[end:].lstrip(" ")
        if rest:
            kwargs = json.loads(rest)
        if not isinstance(kwargs, dict):
            raise NotACallError("its arguments are neither a list nor an object")
    except NotACallError:
        raise
    except ValueError as error:
        raise NotACallError(f"no call: {error}") from error
    return Parsed(function, args, kwargs)


def exact_json(value: Any) -> bool:
    """Whether JSON gives back just this."""
    kind = type(value)
    if value is None or kind in (bool, int, str):
        return kind is not str or _is_unicode(value)
    if kind is float:
        return isfinite(value)
    if kind is list:
        return all(map(exact_json, value))
    return kind is dict and all(type(key) is str and _is_unicode(key) and exact_json(value[key]) for key in value)


def _is_unicode(text: str) -> bool:
    """No lone surrogates, which stand for bytes that are no text."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _joined(function: str, args: Sequence[Any], kwargs: Mapping[str, Any]) -> str:
    parts = [function]
    if args:
        parts.append(json.dumps(list(args), ensure_ascii=False))
    if kwargs:
        parts.append(json.dumps(dict(kwargs), ensure_ascii=False))
    return " ".join(parts)
