"""`--follow`: the output of tasks while they run, as it reaches the run file, until each has its outcome.

Two things are asked again and again: the run file what has been written (often), and the queue how the task stands
(seldom). Reading a run file takes no lock and makes its writer wait for nothing; a reader that is not read itself just
falls behind. Must never import click, h5py or mpi4py.
"""

from __future__ import annotations

import time
import zlib
from collections.abc import Callable, Iterator, Sequence
from itertools import count
from typing import TYPE_CHECKING, BinaryIO

from mpifarm.core.model import AttemptKey, LeaseId, Limits
from mpifarm.errors import OutputError, QueueUnreachable
from mpifarm.outputs.streams_of_tasks import FINAL, Absent, Missing, Outputs, Unanswered, not_kept

if TYPE_CHECKING:
    from mpifarm.core.row import AttemptRow
    from mpifarm.outputs.source import Source
    from mpifarm.queue.client import JobSummary, TaskLine
    from mpifarm.runfile.reader import RunFile

READ_EVERY_S = 0.2
READS_PER_LOOK = 5
"""The queue is asked once for so many looks into the file."""
LOOKS_PER_RUN = 10
"""And once for so many looks at the task, whether its run is alive."""


class Following:
    """One attempt that is being followed: how far it has been read, and what."""

    def __init__(self, run: RunFile, key: AttemptKey, streams: Sequence[int]) -> None:
        self.key = key
        self._run = run
        self._extent = 0
        self._read = dict.fromkeys(streams, (0, 0))
        """By stream: bytes, and their CRC-32."""

    def advance(self, out: BinaryIO) -> None:
        """Give what was written since. Raises OutputError."""
        self._run.refresh()
        for stream, (size, crc32) in self._read.items():
            for piece in self._run.running_output(self.key, stream, self._extent):
                out.write(piece)
                size, crc32 = size + len(piece), zlib.crc32(piece, crc32)
            self._read[stream] = size, crc32
        self._extent = self._run.extents
        out.flush()

    def finish(self, out: BinaryIO, number: int) -> AttemptRow:
        """The attempt has its row: give the rest. Returns the row; raises OutputError when the bytes are not right."""
        from mpifarm.runfile.reader import is_whole

        self.advance(out)
        row = self._run.attempt(number)
        for stream, read in self._read.items():
            if not is_whole(row, stream, *read):
                raise OutputError(f"run file {self._run.path} is damaged: this is not what the task wrote")
        return row


class Follower:
    """Follows tasks of a job, one after the other. `tell` gets sentences for the user, `pause` seconds to rest."""

    def __init__(
        self,
        client: Source,
        job: JobSummary,
        streams: Sequence[int],
        out: BinaryIO,
        tell: Callable[[str], None],
        pause: Callable[[float], None] = time.sleep,
    ) -> None:
        self._client, self._job = client, job
        self._streams, self._out = streams, out
        self._tell, self._pause = tell, pause
        self._unreachable_s = 0.0
        self._dead: set[int] = set()

    def follow(self, tasks: Iterator[int]) -> Missing:
        """All of their output; returns when the last has its outcome. Raises QueueError."""
        unanswered = Unanswered()
        with Outputs() as outputs:
            for task in tasks:
                try:
                    self._follow(outputs, task)
                except (OutputError, Absent) as error:
                    unanswered.add(task, error)
        return unanswered.missing()

    def _follow(self, outputs: Outputs, task: int) -> None:
        following: Following | None = None
        waiting = False
        for look in count():
            line = self._look(task)
            if line is not None:
                if line.state in FINAL:
                    self._conclude(outputs, line, following)
                    return
                if look % LOOKS_PER_RUN == LOOKS_PER_RUN - 1:
                    self._mind_run(line)
                following = self._attempt(outputs, line, following)
                if following is None and not waiting:
                    waiting = True
                    self._tell(f"task {task} of {self._job.name} is {line.state}: waiting for its output")
            for _ in range(READS_PER_LOOK):
                if following is not None:
                    following.advance(self._out)
                self._pause(READ_EVERY_S)

    def _mind_run(self, line: TaskLine) -> None:
        """Say once of a run that it is dead: nothing more will come of this attempt."""
        if line.run is None or line.run in self._dead or line.state != "running":
            return
        if any(run.id == line.run and not run.live for run in self._client.runs(self._job.id)):
            self._dead.add(line.run)
            self._tell(f"run {line.run} is dead: task {line.task} waits for the next run, or for mpifarm recover")

    def _look(self, task: int) -> TaskLine | None:
        """How the task stands; None while the database does not answer, which may be for a while."""
        try:
            (line,) = self._client.tasks(self._job.id, ranges=[(task, task + 1)])
        except QueueUnreachable as error:
            if not self._unreachable_s:
                self._tell(f"{str(error).splitlines()[0]}; trying again")
            self._unreachable_s += READS_PER_LOOK * READ_EVERY_S
            if self._unreachable_s > Limits().queue_timeout_s:
                raise
            return None
        self._unreachable_s = 0.0
        return line

    def _attempt(self, outputs: Outputs, line: TaskLine, following: Following | None) -> Following | None:
        """The attempt under way, which may be another one than before; None while there is none to read."""
        if line.state != "running" or line.lease is None or line.attempt is None:
            return following  # given back: what it wrote last may still come
        key = AttemptKey(LeaseId(line.lease), line.task, line.attempt)
        if following is not None and following.key == key:
            return following
        path = next((run.file for run in self._client.runs(self._job.id) if run.id == line.run), None)
        if path is None:
            return None  # the run has not made its file yet
        self._superseded(line, following)
        return Following(outputs.file(path), key, self._streams)

    def _conclude(self, outputs: Outputs, line: TaskLine, following: Following | None) -> None:
        if following is not None and following.key == (line.lease, line.task, line.attempt):
            assert line.file_row is not None
            self._tell_not_kept(line.task, following.finish(self._out, line.file_row))
            return
        self._superseded(line, following)
        for attempt in outputs.recorded(line):
            for stream in self._streams:
                self._out.writelines(outputs.stream(attempt, stream))
            self._tell_not_kept(line.task, attempt.row)
        self._out.flush()

    def _tell_not_kept(self, task: int, row: AttemptRow) -> None:
        for what in not_kept(row, self._streams):
            self._tell(f"task {task}: {what}")

    def _superseded(self, line: TaskLine, following: Following | None) -> None:
        if following is not None:
            self._tell(f"task {line.task}: attempt {following.key[2]} was given back; attempt {line.attempt} follows")
