"""Between the end of a task's process and the report of it, for jobs that keep less than all or capture files.

An attempt of such a job holds its slot until its files are in, so that the next task cannot write over them, and until
the clock of the file system has moved on, so that it does not take them for its own if it writes none. They are
read by turns of the launcher's loop, one attempt after the other, and only while the rank takes what it is sent. When a
drain's grace ends meanwhile, the attempt counts as cut short and runs again. Imports nothing heavy.
"""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Generator, Iterable
from functools import partial
from math import inf
from typing import NamedTuple

from mpifarm.core.job.capture import CapturePattern
from mpifarm.core.job.keep import ALL, Keep, parse_keep
from mpifarm.core.job.policy import JobText
from mpifarm.core.launcher.launching import Launching, Running
from mpifarm.core.launcher.verdict import unlaunched
from mpifarm.core.model import AttemptKey, FailureClass, JobId, Kind, State
from mpifarm.core.row import (
    CAPTURED,
    CONTENTS,
    HAS_CONTENTS,
    NOT_ALL_TAKEN,
    STDERR,
    STDERR_CUT,
    STDOUT,
    STDOUT_CUT,
)
from mpifarm.launch.captured_files import TICK_MAX_NS, Step, Taking, file_clock_ns
from mpifarm.launch.judging import Conclude, Concluded, EndedProcess
from mpifarm.launch.kept_output import Holding, hold
from mpifarm.launch.outbox import Outbox
from mpifarm.launch.seat import Said, Stream, fresh

STEPS_AT_ONCE = 64
BYTES_AT_ONCE = 1 << 20
READ_BYTES = 64 << 10
TICK_WAIT_S = 0.001


class _Wishes(NamedTuple):
    """Says what a job wants that is not served by the common way."""

    job: JobText
    keep: Keep
    patterns: tuple[CapturePattern, ...]


class _Begun(NamedTuple):
    """An attempt that runs."""

    holding: Holding
    clock_ns: int
    """The time of files as it began."""
    said: dict[int, Said]
    """Of what was sent on, by stream."""


class _Closed(NamedTuple):
    """An attempt whose files are being taken."""

    running: Running
    concluded: Concluded
    taking: Taking
    steps: Generator[Step, None, None]


class Closing:
    """Stands before the outbox of a launcher."""

    def __init__(self, outbox: Outbox, launching: Launching, conclude: Conclude) -> None:
        self._outbox, self._launching, self._conclude = outbox, launching, conclude
        self._wishes: dict[JobId, _Wishes] = {}
        self._begun: dict[AttemptKey, _Begun] = {}
        self._closed: deque[_Closed] = deque()
        self._leaving: deque[tuple[Running, int]] = deque()
        """Attempts that are done, and the time of files when their slots are free."""
        self.due_at = inf
        """When `step` is due."""

    def learn(self, jobs: Iterable[JobText]) -> None:
        """Tasks of these jobs will come."""
        for job in jobs:
            try:
                keep = parse_keep(job.policy.keep)
                patterns = tuple(map(CapturePattern, job.policy.capture))
            except (
                ValueError
            ) as error:  # from the queue, and perhaps of a newer mpifarm: better too much than too little
                self._outbox.add_log(f"job {job.name} keeps everything and captures nothing: {error}", 0.0)
                continue
            if keep.what != ALL or patterns:
                self._wishes[job.id] = _Wishes(job, keep, patterns)

    def begin(self, running: Running) -> None:
        """It is about to be started."""
        wishes = self._wishes.get(running.block.job)
        if wishes is not None:
            said = {stream: fresh(stream) for stream in (STDOUT, STDERR)}
            self._begun[running.key] = _Begun(hold(wishes.keep), file_clock_ns(), said)

    def forget(self, running: Running) -> None:
        """It was not started."""
        self._begun.pop(running.key, None)

    @property
    def low(self) -> bool:
        """The outbox is."""
        return self._outbox.low

    def read(self, attempt: AttemptKey, stream: Stream, now: float) -> int:
        """As `Outbox.read`."""
        begun = self._begun.get(attempt)
        if begun is None:
            return self._outbox.read(attempt, stream, now)
        read = 0
        while read < stream.capacity:
            try:
                piece = os.read(stream.read_fd, READ_BYTES)
            except BlockingIOError:
                break
            if piece:
                begun.holding.add(stream.number, piece, partial(self._say, attempt, begun, now))
            read += len(piece)
            if len(piece) < READ_BYTES:
                break
        return read

    def _say(self, attempt: AttemptKey, begun: _Begun, now: float, stream: int, piece: bytes) -> None:
        """Send on a piece of stdout or stderr."""
        begun.said[stream].add(piece)
        self._outbox.write(attempt, stream, piece, now)

    def end(self, process: EndedProcess, now: float) -> bool:
        """Whether its attempt is one of those that end here; if so, its slot is freed here, too."""
        running = process.running
        attempt = running.key
        begun = self._begun.pop(attempt, None)
        if begun is None:
            return False
        wishes = self._wishes[running.block.job]
        row = next(iter(self._conclude([process])))[0]
        say = partial(self._say, attempt, begun, now)
        last, cut = begun.holding.end((b"", b""), row.state == State.SUCCEEDED, say)
        for stream, piece in zip((STDOUT, STDERR), last):
            say(stream, piece)
        out, err = begun.said[STDOUT], begun.said[STDERR]
        row = row._replace(
            stdout_bytes=out.length + cut.stdout,
            stderr_bytes=err.length + cut.stderr,
            stdout_crc32=out.crc32,
            stderr_crc32=err.crc32,
            flags=row.flags | (STDOUT_CUT if cut.stdout else 0) | (STDERR_CUT if cut.stderr else 0),
        )
        concluded = row, err.tail if row.state == State.FAILED else b""
        if (
            not wishes.patterns
            or running.block.kind is not Kind.COMMAND
            or running.killed_for not in (FailureClass.NONE, FailureClass.TIMEOUT)
        ):
            self._launching.free(running.slot)
            self._outbox.add_concluded(concluded, now)
            return True
        entry = running.text.body if running.text.entry is None else running.text.entry
        values: dict[str, int | str] = {"task": running.task, "attempt": running.block.attempt}
        values |= {"job": wishes.job.name, "": os.fsdecode(entry)}
        taking = Taking(wishes.job.cwd, wishes.patterns, values, begun.clock_ns)
        self._launching.outlived(running.slot, now)
        self._closed.append(_Closed(running, concluded, taking, taking.steps()))
        self.due_at = now
        return True

    def step(self, now: float) -> None:
        """Take a little more."""
        size = 0
        for _ in range(STEPS_AT_ONCE):
            if not self._closed or size >= BYTES_AT_ONCE:
                break
            closed = self._closed[0]
            cut = closed.concluded[0].state != State.RETURNED and closed.running.killed_for is FailureClass.WALLTIME
            piece = next(closed.steps, b"") if not cut else b""
            if piece == b"":
                self._closed.popleft()
                self._take_leave(closed, cut, now)
            elif piece is not None:
                size += len(piece)
                self._outbox.write(closed.running.key, CAPTURED, piece, now)
        clock_ns = file_clock_ns() if self._leaving else 0
        while self._leaving and not clock_ns <= self._leaving[0][1] < clock_ns + TICK_MAX_NS:
            self._launching.free(self._leaving.popleft()[0].slot)
        self.due_at = now if self._closed else now + TICK_WAIT_S if self._leaving else inf

    def _take_leave(self, closed: _Closed, cut: bool, now: float) -> None:
        (row, tail), taking = closed.concluded, closed.taking
        if cut:
            closed.steps.close()
            state, failure, exit_code, signal = unlaunched(FailureClass.WALLTIME)
            row = row._replace(state=state, failure=failure, exit_code=exit_code, signal=signal)
            taking.listing.note("the run ended while the files were taken")
        if taking.listing:
            self._outbox.write(closed.running.key, CONTENTS, taking.listing.text(), now)
            row = row._replace(flags=row.flags | HAS_CONTENTS | (NOT_ALL_TAKEN if taking.missed or cut else 0))
        self._outbox.add_concluded((row, tail), now)
        self._leaving.append((closed.running, taking.youngest_ns))
