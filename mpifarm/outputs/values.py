"""Brings back what a call gave, from its tree and the entries beside it (`calls.value`). Unpickles only if asked."""

from __future__ import annotations

import json
import pickle
from collections.abc import Callable, Iterable, Mapping
from math import isfinite
from typing import TYPE_CHECKING, Any, BinaryIO

from mpifarm.calls.call import load
from mpifarm.calls.value import EXCEPTION, TREE
from mpifarm.errors import FarmError, OutputError
from mpifarm.outputs.streams_of_tasks import each_attempt

if TYPE_CHECKING:
    from mpifarm.core.row import AttemptRow
    from mpifarm.outputs.streams_of_tasks import Attempt, Choice, Missing, Outputs
    from mpifarm.queue.client import TaskLine
    from mpifarm.runfile.captures import Captured


class RaisedError(FarmError):
    """The call raised an exception: what is known of it as text, for its type may not exist here."""

    def __init__(self, kind: str, message: str, traceback: str) -> None:
        super().__init__(f"{kind}: {message}" if message else kind)
        self.type, self.message, self.traceback = kind, message, traceback


class Pickled:
    """A value that only unpickling brings back, which runs code of whoever wrote it."""

    def __init__(self, data: Callable[[], bytes]) -> None:
        self._data = data

    @property
    def data(self) -> bytes:
        return self._data()

    def load(self) -> Any:
        """Unpickle it."""
        return pickle.loads(self._data())

    def __repr__(self) -> str:
        return "<pickled value: .load() unpickles it>"


class Record(dict[str, Any]):
    """The fields of a dataclass or named tuple, by name; `type` is `pkg.mod:Name`."""

    def __init__(self, kind: str, fields: Mapping[str, Any]) -> None:
        super().__init__(fields)
        self.type = kind


class NoValueError(OutputError):
    """The attempt gave no value: it is none of a function, or did not get so far."""


def give_values(lines: Iterable[TaskLine], out: BinaryIO, choice: Choice, *, as_json: bool) -> Missing:
    """Write the value of each task as JSON, `TASK<TAB>VALUE`; or as an array of objects, with what each call used."""
    from mpifarm.runfile.captures import values

    written = 0

    def give(outputs: Outputs, line: TaskLine, attempt: Attempt) -> None:
        nonlocal written
        try:
            told: dict[str, Any] = {"value": plain(value_of(values(outputs.file(attempt.path), attempt.row)))}
        except RaisedError as error:
            told = {"exception": {"type": error.type, "message": error.message}}
        except NoValueError:
            if line.state == "succeeded":
                raise
            told = {"failure": line.failure}
        if as_json:
            facts = {"task": line.task, "attempt": attempt.row.attempt, **told, **usage_of(attempt.row)}
            out.write((",\n" if written else "[\n").encode() + json.dumps(facts).encode())
        else:
            shown = told["value"] if "value" in told else {f"${name}": what for name, what in told.items()}
            out.write(f"{line.task}\t{json.dumps(shown)}\n".encode())
        written += 1

    missing = each_attempt(lines, choice, give, streams=())
    if as_json:
        out.write(b"\n]\n" if written else b"[]\n")
    return missing


def usage_of(row: AttemptRow) -> dict[str, float]:
    """What an attempt used: seconds of wall time and of processors, the most memory (0: too little to be told)."""
    names = ("user_s", "system_s", "max_rss_kib", "read_bytes", "write_bytes")
    return {"seconds": row.ended - row.started} | {name: getattr(row, name) for name in names}


def value_of(entries: Mapping[str, Captured], *, unpickle: bool = False) -> Any:
    """The value. Raises RaisedError when the call raised, NoValueError when there is none, OutputError when it is
    damaged."""
    if TREE not in entries:
        raise NoValueError("the task gave no value: it is no call of a function, or did not get so far")
    decoding = _Decoding(entries, unpickle)
    try:
        tree = json.loads(entries[TREE].bytes)
        raised = tree["$exception"] if isinstance(tree, dict) and "$exception" in tree else None
        if raised is None:
            return decoding.node(tree)
        told = RaisedError(raised["type"], raised["message"], raised["traceback"])
    except (ValueError, KeyError, TypeError, IndexError) as error:
        raise OutputError(f"the value is damaged: {error}") from error
    raise decoding.exception(told)


class _Decoding:
    def __init__(self, entries: Mapping[str, Captured], unpickle: bool) -> None:
        self._entries, self._unpickle = entries, unpickle

    def node(self, tree: Any) -> Any:
        if isinstance(tree, list):
            return [self.node(each) for each in tree]
        if not isinstance(tree, dict):
            return tree
        (key,) = tree if len(tree) == 1 else ("",)
        if not key.startswith("$"):
            return {name: self.node(each) for name, each in tree.items()}
        return self._special(key, tree[key])

    def _special(self, key: str, told: Any) -> Any:
        match key:
            case "$array":
                return self._entries[told].array
            case "$scalar":
                return self._entries[told].array[()]
            case "$bytes":
                return self._entries[told].bytes
            case "$tuple":
                return tuple(map(self.node, told))
            case "$float":
                return float(told)
            case "$complex":
                return complex(*map(float, told))
            case "$dict":
                return {self.node(name): self.node(each) for name, each in told}
            case "$record":
                return self._record(told[0], self.node(told[1]))
            case "$pickle":
                pickled = Pickled(lambda: self._entries[told].bytes)
                return pickled.load() if self._unpickle else pickled
            case _:
                raise OutputError(f"a newer mpifarm has written it: {key}")

    def exception(self, told: RaisedError) -> BaseException:
        """Itself, when code of whoever wrote it may run and knows it; else what is told of it."""
        if not self._unpickle or EXCEPTION not in self._entries:
            return told
        try:
            found = pickle.loads(self._entries[EXCEPTION].bytes)
        except Exception:
            return told
        if not isinstance(found, BaseException):
            return told
        found.__cause__ = told
        return found

    def _record(self, kind: str, fields: dict[str, Any]) -> Any:
        """Itself, when code of whoever wrote it may run; else its fields."""
        if not self._unpickle:
            return Record(kind, fields)
        found: Any = load(kind)
        if issubclass(found, tuple):
            return found(**fields)
        made = object.__new__(found)
        for field, each in fields.items():
            object.__setattr__(made, field, each)
        return made


def plain(value: Any) -> Any:
    """The value as JSON can say it: arrays as nested lists, bytes as text or hexadecimal, what is pickled by name."""
    if isinstance(value, dict):
        return {str(key): plain(each) for key, each in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(each) for each in value]
    if isinstance(value, bytes):
        try:
            return value.decode()
        except UnicodeDecodeError:
            return value.hex()
    if isinstance(value, Pickled):
        return {"pickled_bytes": len(value.data)}
    if isinstance(value, complex):
        return [value.real, value.imag]
    if hasattr(value, "tolist"):
        return plain(value.tolist())
    if isinstance(value, float) and not isfinite(value):
        return repr(value)
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    return str(value)
