"""The queue in Python: `mpifarm.submit(...)` puts a job in it, `mpifarm.wait(...)` waits for one, and
`mpifarm.open_queue()` has all the verbs. Outputs are read with `mpifarm.open_job`.

The words are those of the command line (`mpifarm submit --help`). Must never import click or mpi4py; psycopg comes with
the first call.
"""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, TypedDict

from mpifarm.calls.call import NotACallError, Senders
from mpifarm.core.model import Kind, Limits, Part, TaskText
from mpifarm.core.needs import Needs
from mpifarm.errors import UsageError

if TYPE_CHECKING:
    from typing_extensions import Unpack

    from mpifarm.commands.submit import Request
    from mpifarm.core.protocol.facts import Submitted
    from mpifarm.intake.told import Tell
    from mpifarm.queue.client import Client

Wanted = int | str | Sequence[int | str]
"""Tasks of the same submit: by number from 1, or from -1 for the one before; by name; or several of these."""


class Command(NamedTuple):
    """A task of `submit` that needs or waits for something of its own."""

    command: str | bytes
    requires: Wanted = ()
    """Must have succeeded before it begins."""
    requires_any: Wanted = ()
    """Must have ended."""
    name: str | None = None
    """By which others require it."""
    cpus: int | None = None
    """None, here and below: as `submit` says."""
    mem: str | int | None = None
    """Bytes, or as in "4G"."""
    gpus: float | None = None
    resource: Mapping[str, float] | None = None
    node_packing_count: int | None = None
    time_limit: str | float | None = None
    """Seconds, or as in "10m"."""
    time_request: str | float | None = None
    category: str | None = None


class Call:
    """A call of a Python function as a task of `submit`: `Call(f, 1, x=2)` is `f(1, x=2)` in a warm interpreter on a
    node. A function that can be imported goes by its path, found as `python` finds it in the directory of the submit;
    any other by value, with cloudpickle."""

    __slots__ = ("args", "function", "kwargs")

    def __init__(self, function: Callable[..., Any], /, *args: Any, **kwargs: Any) -> None:
        self.function, self.args, self.kwargs = function, args, kwargs


class Options(TypedDict, total=False):
    """What `submit` takes, as `mpifarm submit` does; selectors are JOB, JOB.17 or JOB.10-20."""

    name: str
    job: str
    cpus: int
    mem: str | int
    gpus: float
    resource: Mapping[str, float]
    node_packing_count: int
    time_limit: str | float
    time_request: str | float
    category: str
    hold: bool
    priority: int
    tags: Mapping[str, str]
    dedupe: bool
    once: bool
    retries: int
    retry_on: str
    crash_limit: int
    """0: never."""
    max_fails: int
    keep: str
    capture: Sequence[str]
    after: str | Sequence[str]
    afterany: str | Sequence[str]
    dsn: str


def submit(commands: Iterable[str | bytes | Command | Call], **options: Unpack[Options]) -> Submitted:
    """Queue a job of these commands or calls, all of it or nothing; they start in the directory of now. Returns what
    was done: `job`, `tasks`, `skipped`, and `cancelled` at once, since what they wait for has failed; this and what
    else `mpifarm submit` tells of is a warning. They may come from a generator; none is kept. Raises mpifarm.FarmError.

    >>> import mpifarm
    >>> done = mpifarm.submit(
    ...     [
    ...         "sh mesh.sh",
    ...         mpifarm.Command("sh solve.sh a", requires=1, cpus=4, name="a"),
    ...         mpifarm.Command("sh plot.sh", requires=["a"]),
    ...     ],
    ...     name="plots", retries=2, tags={"owner": "ann"},
    ... )
    >>> done.job.name, done.tasks, done.job.waiting
    ('plots', 3, 2)
    """
    from mpifarm.commands.submit import check_terms, in_vain, terms_of
    from mpifarm.intake.attempt_options import shared_capture

    unknown = options.keys() - Options.__annotations__.keys()
    if unknown:
        raise TypeError(f"submit() has no option {', '.join(sorted(unknown))}")
    if isinstance(commands, (str, bytes)):
        raise UsageError("submit() wants a list of commands, or anything else that can be gone through")
    request = _request(options)
    check_terms(request)
    told: list[str] = []
    with open_queue(options.get("dsn")) as queue:
        cwd = os.fsencode(Path.cwd())
        parts = _parts(commands, request.needs, told.append)
        done = queue.submit_on(terms_of(queue, request), request.name or "python", cwd, parts)
    if shared := shared_capture(request.capture, done.tasks):
        told.append(shared)
    if done.cancelled:
        told.append(f"{done.cancelled:,} of the tasks {in_vain(done)}")
    for sentence in told:
        warnings.warn(sentence.removeprefix("warning: "), stacklevel=2)
    return done


def map_calls(function: Callable[..., Any], items: Iterable[Any], /, **options: Unpack[Options]) -> Submitted:
    """Queue a job of `function(item)` for each of the items; as `submit` otherwise. `open_job(...).values()` brings
    back what they returned.

    >>> import mpifarm, operator
    >>> mpifarm.map(operator.neg, range(1000), name="negated").tasks
    1000
    """
    return submit((Call(function, item) for item in items), **options)


def wait(job: str, timeout_s: float | None = None, dsn: str | None = None) -> dict[str, int]:
    """Wait until all tasks of JOB, JOB.17, JOB.10-20, `last` or `all` have ended, or so many seconds. Returns how many
    are in which state: none is waiting, pending or running unless the time was over. Raises mpifarm.FarmError.

    >>> import mpifarm
    >>> mpifarm.wait("scan")["failed"]
    1
    """
    from mpifarm.commands.meant import choose
    from mpifarm.commands.wait import until_ended

    with _connect(dsn, Limits().answer_s) as queue:
        return until_ended(queue, choose(queue, job), timeout_s, lambda _: None)


def open_queue(dsn: str | None = None) -> Client:
    """A connection to the queue, found as by the commands unless `dsn` says where it is: a context manager with `find`,
    `jobs`, `tasks`, `counts`, `attempts`, `needed`, `runs`, `set_job`, `retry`, `rerun`, `cancel`, `drain`, `recover`
    and `drop`. Jobs are named by their `id`, tasks by half-open ranges. Raises mpifarm.FarmError.

    >>> import mpifarm
    >>> with mpifarm.open_queue() as queue:
    ...     scan = queue.find("scan")
    ...     print(scan.state, scan.total, scan.failed)
    ...     print(queue.retry(scan.id, ranges=[(2, 3)]))
    ...     print(queue.cancel(scan.id).tasks)
    failed 3 1
    1
    1
    """
    return _connect(dsn)


def _connect(dsn: str | None, answer_s: float | None = None) -> Client:
    from mpifarm.queue.client import Client
    from mpifarm.server.dsn import find_dsn

    return Client.connect(find_dsn(dsn, os.environ, Path.cwd()), answer_s)


def _request(options: Mapping[str, Any]) -> Request:
    """The options as those of the command line, checked as there."""
    from mpifarm.commands.submit import Request
    from mpifarm.intake.attempt_options import (
        CRASHES_MAX,
        RETRIES_MAX,
        parse_capture,
        parse_keep,
        parse_retry_on,
        parse_tag,
    )
    from mpifarm.intake.task_options import BY_KEY

    limits = {
        "priority": (-(2**31), 2**31 - 1),
        "retries": (0, RETRIES_MAX),
        "crash_limit": (0, CRASHES_MAX),
        "max_fails": (0, 2**31 - 1),
    }
    for name, (lowest, highest) in limits.items():
        if name in options:
            _check_whole(options[name], name, lowest, highest)
    known = dict(options)
    for name in ("capture", "after", "afterany"):
        if name in known:
            known[name] = (known[name],) if isinstance(known[name], str) else tuple(known[name])
    known["capture"] = tuple(map(parse_capture, known.get("capture", ())))
    if "retry_on" in known:
        known["retry_on"] = parse_retry_on(known["retry_on"])
    if "keep" in known:
        known["keep"] = parse_keep(known["keep"])
    for name, value in known.get("tags", {}).items():
        parse_tag(f"{name}={value}")
    needs = _saying(Needs(), {key: known.pop(key) for key in BY_KEY if key in known})
    return Request(needs=needs, **known)


def _parts(commands: Iterable[str | bytes | Command | Call], needs: Needs, tell: Tell) -> Iterator[Part]:
    """Tasks in parts that need and wait for the same."""
    from mpifarm.intake.expand import settled_parts
    from mpifarm.intake.foreign import ForeignVariables
    from mpifarm.intake.records import Naming, Unsettled
    from mpifarm.intake.shell_lines import ShellLines
    from mpifarm.intake.taskfile import check_command

    def read() -> Iterator[Unsettled]:
        shell, senders = ShellLines("commands"), Senders()
        variables = ForeignVariables("commands", tell)
        for number, given in enumerate(commands, 1):
            if isinstance(given, Call):
                yield Unsettled(number, TaskText(_call(senders, given, number)), needs, {}, Kind.FUNCTION)
                continue
            one = given if isinstance(given, Command) else Command(given)
            text = _bytes(one.command, number)
            check_command(text, "commands", number)
            shell.look(text, [text], number)
            variables.look(text, number)
            wanted = {"requires": _listed(one.requires), "requires_any": _listed(one.requires_any)}
            yield Unsettled(number, TaskText(text), _needs_of(one, needs, number), {"name": one.name, **wanted})
        shell.check()

    return settled_parts(Naming("commands", "command", keep=True).settle(read()))


def _call(senders: Senders, call: Call, number: int) -> bytes:
    try:
        return senders.body(call.function, call.args, call.kwargs)
    except NotACallError as error:
        raise UsageError(f"commands:{number}: {error}") from None


def _bytes(command: object, number: int) -> bytes:
    if not isinstance(command, (str, bytes)):
        kind = type(command).__name__
        raise UsageError(f"commands:{number}: a command is str, bytes, mpifarm.Command or mpifarm.Call, not {kind}")
    try:
        text = os.fsencode(command)
    except UnicodeEncodeError as error:
        raise UsageError(f"commands:{number}: {error}") from None
    if not text.strip():
        raise UsageError(f"commands:{number}: the command is empty")
    return text


def _needs_of(command: Command, needs: Needs, number: int) -> Needs:
    from mpifarm.intake.task_options import BY_KEY

    try:
        return _saying(needs, {key: getattr(command, key) for key in BY_KEY})
    except UsageError as error:
        raise UsageError(f"commands:{number}: {error}") from None


def _saying(needs: Needs, said: Mapping[str, Any]) -> Needs:
    """`needs` with what is said by these keys of the table. Numbers that want a unit are seconds and bytes here."""
    from mpifarm.intake.task_options import BY_KEY

    for key, value in said.items():
        if value is not None:
            try:
                needs = BY_KEY[key].put_value(needs, _with_unit(key, value))
            except UsageError as error:
                raise UsageError(f"{key}: {str(error).removeprefix(f'{BY_KEY[key].flag}: ')}") from None
    return needs


def _with_unit(key: str, value: object) -> object:
    from mpifarm.intake.task_options import seconds_said

    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return value
    if key in ("time_limit", "time_request"):
        if not 0 <= value < float("inf"):
            raise UsageError(f"{value!r} is not a number of seconds; 0 is no limit")
        return seconds_said(float(value))
    return f"{value}B" if key == "mem" else value


def _listed(wanted: Wanted) -> list[int | str]:
    return [wanted] if isinstance(wanted, (int, str)) else list(wanted)


def _check_whole(value: object, what: str, lowest: int, highest: int) -> None:
    if not isinstance(value, int) or isinstance(value, bool) or not lowest <= value <= highest:
        raise UsageError(f"{what}: {value!r} is not a whole number from {lowest} to {highest}")
