"""One node as its rank sees it: a real launcher at the other end, no MPI, no database."""

from __future__ import annotations

import os
import select
import time
import zlib
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from mpifarm.core.job.policy import JobText, Policy
from mpifarm.core.model import Block, JobId, LeaseId, Span, TaskText
from mpifarm.core.needs import Needs
from mpifarm.core.protocol.messages import (
    Closed,
    Drain,
    Ended,
    Free,
    LauncherLog,
    LinkMessage,
    NotStarted,
    Pieces,
    Setup,
    Start,
    Stopped,
)
from mpifarm.core.row import EXTENT, STDERR, STDERR_CUT, STDOUT, STDOUT_CUT, AttemptRow, unpack_rows
from mpifarm.launch.arena import CELL_BYTES
from mpifarm.launch.launcher import fork_launcher

DEADLINE_S = 20.0
ONE_CPU = Needs()


def until(fact: Callable[[], object], deadline_s: float = DEADLINE_S) -> None:
    """Wait until the fact holds; AssertionError when it does not in time."""
    end = time.monotonic() + deadline_s
    while not fact():
        assert time.monotonic() < end, f"not within {deadline_s} s"
        select.select([], [], [], 0.01)


def lives(pid: int) -> bool:
    """Whether a process exists and is no zombie."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except OSError:
        return False


def tree(root: int) -> list[int]:
    """A process and all its descendants, parents first."""
    children: dict[int, list[int]] = {}
    for folder in Path("/proc").iterdir():
        if folder.name.isdigit():
            try:
                parent = int((folder / "stat").read_text().rpartition(")")[2].split()[1])
            except OSError:
                continue
            children.setdefault(parent, []).append(int(folder.name))
    found = [root]
    for pid in found:
        found += children.get(pid, [])
    return found


class Whole:
    """An attempt that has ended, with all it wrote."""

    def __init__(self, attempt: AttemptRow, stdout: bytes, stderr: bytes, stderr_tail: bytes) -> None:
        self._how, self.stdout, self.stderr, self.stderr_tail = attempt, stdout, stderr, stderr_tail

    def __getattr__(self, name: str) -> Any:
        return getattr(self._how, name)


class OneNode:
    """Drives a launcher and gathers all it says."""

    def __init__(self, cwd: Path, slots: int = 2, cpus: tuple[int, ...] = ()) -> None:
        self.cwd = os.fsencode(cwd)
        self.launcher = fork_launcher()
        self.launcher.send(Setup("node7", 0, cpus or tuple(os.sched_getaffinity(0)), slots))
        self._open_fds = [self.launcher.stops.fileno(), self.launcher.stops.wakeup_fd]
        self.ended: dict[int, Whole] = {}
        """By task number."""
        self._told: dict[tuple[int, int], tuple[int, int]] = {}
        """Bytes and checksum of what came, by task and stream."""
        self._used: dict[int, None] = {}
        """Cells told of and not freed, in order."""
        self.order: list[int] = []
        self.pieces: list[tuple[float, int, int, bytes]] = []
        """When they came (monotonic), task, stream, bytes."""
        self.returned: list[tuple[Span, ...]] = []
        self.log: list[str] = []
        self.stopped: list[int] = []
        """Signals that the launcher was sent."""
        self._next = 1

    def start(
        self,
        *commands: str | bytes,
        cpus: int = 1,
        limit_s: float = 0.0,
        cwd: Path | None = None,
        attempt: int = 1,
        policy: Policy | None = None,
    ) -> int:
        """Start the commands as one block of a lease of its own. Returns the number of the first."""
        tasks = [TaskText(os.fsencode(command)) for command in commands]
        return self.start_tasks(tasks, Needs(cpus, time_limit_s=limit_s), cwd, attempt, policy)

    def start_tasks(
        self,
        tasks: list[TaskText],
        needs: Needs = ONE_CPU,
        cwd: Path | None = None,
        attempt: int = 1,
        policy: Policy | None = None,
    ) -> int:
        lo = self._next
        self._next += len(tasks)
        job = JobText(JobId(lo), "spectra", os.fsencode(cwd) if cwd else self.cwd, policy or Policy())
        self.launcher.send(Start((job,), (Block(LeaseId(lo), job.id, attempt, needs, lo, tasks),)))
        return lo

    def drain(self, grace_s: float) -> None:
        self.launcher.send(Drain(grace_s))

    def listen(self, wait_s: float = 0.0) -> None:
        """Take what the launcher has said."""
        select.select([self.launcher], [], [], wait_s)
        for message in self.launcher.poll():
            self._take(message)

    def until(self, fact: Callable[[], object], deadline_s: float = DEADLINE_S) -> None:
        """Listen until the fact holds."""
        end = time.monotonic() + deadline_s
        while not fact():
            assert time.monotonic() < end, f"not within {deadline_s} s; ended: {sorted(self.ended)}; {self.log}"
            assert self.launcher.alive, "the launcher is gone"
            self.listen(0.05)

    def wait(self, tasks: Iterable[int], deadline_s: float = DEADLINE_S) -> None:
        """Until these tasks have ended."""
        wanted = set(tasks)
        self.until(lambda: wanted <= self.ended.keys(), deadline_s)

    def run(self, command: str | bytes, deadline_s: float = DEADLINE_S) -> Whole:
        """Start one command and wait for its end."""
        task = self.start(command)
        self.wait([task], deadline_s)
        return self.ended[task]

    def output(self, task: int, stream: int = STDOUT) -> bytes:
        """What has come of a task so far."""
        return b"".join(piece for _, its, number, piece in self.pieces if its == task and number == stream)

    def close(self) -> None:
        self.launcher.close()
        while self._open_fds:
            os.close(self._open_fds.pop())  # a rank ends with them; this process goes on

    def _take(self, message: LinkMessage) -> None:
        match message:
            case Pieces(pieces):
                for lease, task, attempt, stream, length, position in EXTENT.iter_unpack(pieces):
                    cell, offset = divmod(position, CELL_BYTES)
                    piece = bytes(self.launcher.arena.cell(cell)[offset : offset + length])
                    assert len(piece) == length > 0
                    self._used[cell] = None
                    assert task not in self.ended, "a piece after the end"
                    assert (lease, attempt) != (0, 0)
                    size, crc32 = self._told.get((task, stream), (0, 0))
                    self._told[task, stream] = size + length, zlib.crc32(piece, crc32)
                    self.pieces.append((time.monotonic(), task, stream, piece))
            case Closed():
                assert self._used, "nothing to close"
                self.launcher.send(Free(tuple(self._used)))
                self._used.clear()
            case Ended(rows, tails):
                for row in unpack_rows(rows):
                    self._take_ended(row, tails.get((row.lease, row.task), b""))
            case NotStarted(spans):
                self.returned.append(spans)
            case Stopped(number):
                self.stopped.append(number)
            case LauncherLog(text):
                self.log.append(text)
            case _:
                raise AssertionError(message)

    def _take_ended(self, attempt: AttemptRow, tail: bytes) -> None:
        assert attempt.task not in self.ended, "a task ended twice"
        self.order.append(attempt.task)
        streams = (
            (STDOUT, attempt.stdout_bytes, attempt.stdout_crc32),
            (STDERR, attempt.stderr_bytes, attempt.stderr_crc32),
        )
        for stream, size, crc32 in streams:
            told = self._told.get((attempt.task, stream), (0, 0))
            cut = attempt.flags & (STDOUT_CUT if stream == STDOUT else STDERR_CUT)
            assert told[1] == crc32 and (told[0] < size if cut else told[0] == size)
        self.ended[attempt.task] = Whole(attempt, self.output(attempt.task), self.output(attempt.task, 2), tail)
