"""`mpifarm submit`: opens what the tasks come from and streams them into the queue as one job, all of it or nothing.

Must never import click or mpi4py.
"""

from __future__ import annotations

import hashlib
import json
import os
import signal
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, BinaryIO, cast

from mpifarm.commands.answer import run_command_here, tell
from mpifarm.commands.meant import choose
from mpifarm.commands.why_pending import never_held
from mpifarm.core.model import Parent, Part
from mpifarm.core.needs import Needs
from mpifarm.core.plural import counted
from mpifarm.core.protocol.facts import Submitted, Terms
from mpifarm.errors import UsageError
from mpifarm.intake.attempt_options import Wish, Wishes, shared_capture
from mpifarm.show.progress import Progress
from mpifarm.units import listed

if TYPE_CHECKING:
    from mpifarm.queue.client import Client

Parts = Iterator[Part]

BORN_CANCELLED = 1
"""What `submit` exits with when tasks are queued that will not run as things are."""


@dataclass(frozen=True, slots=True)
class Request:
    """What the command line of a submit says."""

    files: tuple[str, ...] = ()
    words: list[str] | None = None
    """What follows `--`: the command, and the values for it."""
    array: str | None = None
    each_line: str | None = None
    from_json: str | None = None
    function: str | None = None
    """`pkg.mod:f`, to be called."""
    name: str | None = None
    job: str | None = None
    """An existing one, to add to."""
    hold: bool = False
    priority: int | None = None
    tags: Mapping[str, str] = field(default_factory=dict)
    dedupe: bool = False
    once: bool = False
    needs: Needs = field(default_factory=Needs)
    """Of tasks that say nothing of their own."""
    retries: int | None = None
    retry_on: Sequence[Wish] | None = None
    crash_limit: int | None = None
    max_fails: int | None = None
    keep: str | None = None
    capture: tuple[str, ...] = ()
    after: tuple[str, ...] = ()
    """Selectors of tasks that must have succeeded."""
    afterany: tuple[str, ...] = ()
    """Of tasks that must have ended."""
    dsn: str | None = None
    as_json: bool = False

    @property
    def wishes(self) -> Wishes:
        return Wishes(self.retries, self.retry_on, self.crash_limit, self.keep, self.capture)

    @property
    def source(self) -> str:
        """Where the tasks come from, in a word that can name the job: the file, or the program to start."""
        if self.files:
            return "stdin" if self.files[0] == "-" else self.files[0]
        if self.function is not None:
            return self.function.rpartition(":")[2]
        command = " ".join(self.words or []).split()
        return command[0] if command else "tasks"


def check(request: Request) -> None:
    """Raises UsageError unless the tasks come from exactly one place."""
    repeated = [option for option in (request.array, request.each_line, request.from_json) if option is not None]
    if len(request.files) > 1:
        words = " ".join(request.files)
        raise UsageError(f"one task file at a time; a command stands after --, as in `mpifarm submit -- {words}`")
    if request.files and request.function is not None:
        raise UsageError(f"either the task file {request.files[0]} or --function, not both; values stand after :::")
    if request.files and request.words is not None:
        raise UsageError(f"either the task file {request.files[0]} or a command after --, not both")
    if request.files and repeated:
        raise UsageError(
            f"--array, --each-line and --from-json want a command after --, not the file {request.files[0]}"
        )
    if request.function is not None and request.capture:
        raise UsageError("--capture is for commands: what a function has to give, it returns")
    check_terms(request)
    if not request.files and request.words is None and not repeated and request.function is None:
        raise UsageError("which tasks? mpifarm submit FILE, or - for stdin, or -- COMMAND {} ::: VALUE...")


def check_terms(request: Request) -> None:
    """Raises UsageError for what cannot be said of tasks that are added to a job, or is said twice."""
    if request.job is not None and (request.name or request.hold or request.priority is not None or request.tags):
        raise UsageError(
            "--job adds to a job, which keeps its name and what it was given: --name, --hold, --priority and --tag are"
            f" for new ones (mpifarm set {request.job} changes it)"
        )
    if request.job is not None and (request.wishes != Wishes() or request.max_fails is not None):
        raise UsageError(
            "--job adds to a job, which keeps what it was given: --retries, --retry-on, --crash-limit, --max-fails,"
            " --keep and --capture are for new ones"
        )
    request.wishes.policy()


def terms_of(client: Client, request: Request) -> Terms:
    """Raises UsageError for jobs and tasks that are not there."""
    return Terms(
        name=request.name,
        job=None if request.job is None else client.find(request.job).id,
        priority=request.priority or 0,
        held=request.hold,
        tags=request.tags,
        policy=request.wishes.policy(),
        max_fails=request.max_fails,
        after=(*_named(client, request.after, False), *_named(client, request.afterany, True)),
        dedupe=request.dedupe,
        once=request.once,
    )


def _named(client: Client, selectors: Sequence[str], any_end: bool) -> Iterator[Parent]:
    """The tasks that are meant: of a whole job, those that it has by now."""
    for selector in selectors:
        for job, ranges in choose(client, selector):
            yield from (Parent(lo, hi, any_end, job.id) for lo, hi in ranges or [(1, job.total + 1)])


def submit(client: Client, request: Request, until_commit: Interruptible) -> int:
    """Queue the job, all of it or nothing, and say what was queued. Returns the exit code."""
    started = time.monotonic()
    terms = terms_of(client, request)
    with ExitStack() as stack:
        content = _Content()
        parts = _parts(request, stack, content)
        progress = stack.enter_context(Progress())
        cwd = os.fsencode(Path.cwd())
        path = os.path.realpath(os.fsencode(request.files[0])) if request.files and request.files[0] != "-" else None
        terms = replace(terms, path=path, digest=content.digest)
        done = client.submit_on(terms, request.source, cwd, until_commit.all_of(parts), progress.show)
    for line in never_held(client, done.job) if done.job is not None else ():
        tell(f"warning: {line}")
    _say(request, done, time.monotonic() - started)
    return BORN_CANCELLED if done.cancelled else 0


def _say(request: Request, done: Submitted, seconds: float) -> None:
    per_s = (done.tasks + done.skipped) / max(seconds, 1e-6)
    run = run_command_here(request.dsn)
    if done.before:
        tell(
            f"warning: {request.source} was submitted before just as it is now, to {listed(done.before)};"
            " its tasks will run again (--dedupe leaves out what has succeeded or is queued)"
        )
    shared = shared_capture(request.capture, done.tasks)
    if shared is not None:
        tell(shared)
    name = done.job.name if done.job else None
    if request.as_json:
        facts: dict[str, object] = {"name": name, "id": done.job.id if done.job else None}
        facts |= {
            "tasks": done.tasks,
            "waiting": done.job.waiting if done.job else 0,
            "cancelled": done.cancelled,
            "skipped": done.skipped,
            "queued_before": dict(done.queued),
            "ended_before": dict(done.ended),
            "submitted_before": list(done.before),
        }
        print(json.dumps(facts | {"seconds": round(seconds, 3), "tasks_per_s": round(per_s), "next": run}))
    elif done.job is None:
        print(f"nothing to do: all {'; '.join(_skipped(done))}")
    else:
        to, more = ("added", f", {done.job.total:,} in all") if request.job is not None else ("queued", "")
        print(f"job {name}: {counted(done.tasks, 'task')} {to} in {seconds:.2f} s ({per_s:,.0f} tasks/s){more}")
        if done.job.waiting:
            print(f"{counted(done.job.waiting, 'of them waits', 'of them wait')} for other tasks")
        for skipped in _skipped(done):
            print(skipped)
        if done.cancelled:
            print(f"{done.cancelled:,} of them {in_vain(done)}")
        left = done.job.waiting + done.job.pending + done.job.running
        explain = f"mpifarm explain {name}"
        print(f"next: {f'mpifarm set {name} --release' if done.job.held else run if left else explain}")


def in_vain(done: Submitted) -> str:
    """Why tasks were cancelled as they came, and what revives them."""
    were = "was" if done.cancelled == 1 else "were"
    return f"{were} cancelled at once: what they wait for has not succeeded (mpifarm retry of that revives them)"


def _skipped(done: Submitted) -> Iterator[str]:
    """How many were left out, and why."""
    reasons = {"are queued": dict(done.queued), "ended badly": dict(done.ended)}
    succeeded = done.skipped - sum(sum(of.values()) for of in reasons.values())
    if succeeded:
        yield f"{succeeded:,} skipped: they have succeeded before"
    for reason, jobs in reasons.items():
        if jobs:
            where = listed([f"{name} ({tasks:,})" for name, tasks in jobs.items()])
            retry = "" if reason == "are queued" else ": mpifarm retry brings them back"
            yield f"{sum(jobs.values()):,} skipped: they {reason} in {where}{retry}"


class _Content:
    """What is read through `of` is digested on the way: to know the same file again without reading it twice."""

    def __init__(self) -> None:
        self._sum = hashlib.sha256()
        self._read: Callable[[int], bytes] = bytes

    def of(self, stream: BinaryIO) -> BinaryIO:
        # What a named pipe has by now, where there is such a read: between two of them a Ctrl-C is noticed.
        self._read = getattr(stream, "read1", stream.read)
        return cast("BinaryIO", self)

    def read(self, size: int) -> bytes:
        piece = self._read(size)
        self._sum.update(piece)
        return piece

    def digest(self) -> bytes:
        return self._sum.digest()


def _parts(request: Request, stack: ExitStack, content: _Content) -> Parts:
    """The tasks of the job; a file they come from stays open as long as `stack`, and is read through `content`."""
    from mpifarm.intake.expand import Expansion, expand_arguments
    from mpifarm.intake.taskfile import read_tasks

    if not request.files:
        asked = Expansion(request.words or (), request.array, request.each_line, request.from_json)
        if request.function is not None:
            from mpifarm.intake.function_calls import expand_calls

            return expand_calls(request.function, asked, request.needs, sys.stdin.buffer, tell)
        return expand_arguments(asked, request.needs, sys.stdin.buffer, tell)
    name = request.files[0]
    if name == "-":
        return read_tasks(sys.stdin.buffer, "stdin", request.needs, tell)
    return read_tasks(content.of(stack.enter_context(_open(name))), name, request.needs, tell)


def _open(name: str) -> BinaryIO:
    try:
        return open(name, "rb")
    except OSError as error:
        raise UsageError(f"cannot read the task file {name}: {error.strerror}") from None


class Interruptible:
    """Lets Ctrl-C stop a submit up to its last task, and not between COMMIT and its answer: who interrupts must know
    whether there is a job now. A second Ctrl-C ends the waiting for a database that does not answer.
    """

    def __init__(self) -> None:
        self._committing = False
        self._asked = 0
        self._before = signal.getsignal(signal.SIGINT)

    def all_of(self, parts: Parts) -> Parts:
        """The parts; once they are all taken, only the commit is left."""
        yield from parts
        self._committing = True

    def _on_signal(self, _number: int, _frame: FrameType | None) -> None:
        self._asked += 1
        if not self._committing or self._asked > 1:
            raise KeyboardInterrupt
        print("mpifarm: too late to stop: all tasks are with the database", file=sys.stderr)

    def __enter__(self) -> Interruptible:
        if self._before is signal.default_int_handler:  # else somebody wants it ignored, nohup for one
            signal.signal(signal.SIGINT, self._on_signal)
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        signal.signal(signal.SIGINT, self._before)
        if kind is KeyboardInterrupt:
            verdict = "whether there is a job now, mpifarm report shows" if self._committing else "nothing was queued"
            print(f"mpifarm: interrupted: {verdict}", file=sys.stderr)
