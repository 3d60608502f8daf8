"""The output half of a node leader: gathers its node's output into whole chunks and sends it to the recorder.

Output goes to the recorder in messages of whole chunks, with the rows of the attempts that ended. When more than
`Limits.unwritten_bytes_max` is on its way the leader stops listening to its launcher, whose socket fills, which stops
reading the tasks' pipes: a flood slows its task and grows nobody's memory.
"""

from __future__ import annotations

from zlib import crc32

from mpifarm.core.actions import Action, HoldLauncher, Send
from mpifarm.core.chunks import ChunkPacker
from mpifarm.core.launching import EndedAttempt
from mpifarm.core.messages import Output, Written
from mpifarm.core.model import AttemptKey, LeaseId, Limits, State
from mpifarm.core.row import ROW, STDERR, STDOUT


class _Stream:
    """Length and checksum so far of one stream of an attempt that still runs."""

    __slots__ = ("crc32", "length", "tail")

    def __init__(self) -> None:
        self.length = 0
        self.crc32 = 0
        self.tail = b""

    def add(self, piece: bytes, tail_bytes: int) -> None:
        self.length += len(piece)
        self.crc32 = crc32(piece, self.crc32)
        self.tail = (self.tail + piece)[-tail_bytes:] if len(piece) < tail_bytes else piece[-tail_bytes:]


class _Open:
    """An attempt whose first bytes arrived before its end."""

    __slots__ = ("extent_lo", "streams")

    def __init__(self, extent_lo: int) -> None:
        self.extent_lo = extent_lo
        self.streams = {STDOUT: _Stream(), STDERR: _Stream()}


class Gathering:
    """Pure: what the leader of node `number` on `rank` has gathered and not sent, and what is not on disk yet."""

    def __init__(self, rank: int, number: int, recorder: int, limits: Limits) -> None:
        self._rank = rank
        self._number = number
        self._recorder = recorder
        self._limits = limits
        self._packer = ChunkPacker(limits.chunk_bytes)
        self._rows: list[bytes] = []
        self._tails: dict[tuple[LeaseId, int], bytes] = {}
        self._log: list[tuple[float, str]] = []
        self._open: dict[AttemptKey, _Open] = {}
        self._extents_known = 0  # rows of `extents` in the file at least
        self._unwritten = 0
        self._held = False
        self._sent_at = 0.0

    @property
    def empty(self) -> bool:
        """No output and no row waits to be sent."""
        return not (self._rows or self._packer.size)

    def add_piece(self, key: AttemptKey, stream: int, piece: bytes) -> None:
        """Output of an attempt that still runs."""
        attempt = self._open.get(key)
        if attempt is None:
            attempt = self._open[key] = _Open(self._packer.extent_count)
        if stream in attempt.streams:
            attempt.streams[stream].add(piece, self._limits.stderr_tail_bytes)
        self._packer.add(key, stream, piece)

    def end(self, a: EndedAttempt) -> None:
        """An attempt ended: its last output and its row."""
        if self._open:
            key = AttemptKey(LeaseId(a.lease), a.task, a.attempt)
            if key in self._open:
                self._end_open(key, a)
                return
        packer = self._packer
        lo = packer.extent_count
        out, err = a.stdout, a.stderr
        if out:
            packer.add(AttemptKey(LeaseId(a.lease), a.task, a.attempt), STDOUT, out)
        if err:
            packer.add(AttemptKey(LeaseId(a.lease), a.task, a.attempt), STDERR, err)
        self._add_row(a, len(out), len(err), crc32(out), crc32(err), lo)
        if err and a.state == State.FAILED:
            self._tails[LeaseId(a.lease), a.task] = err[-self._limits.stderr_tail_bytes :]

    def _end_open(self, key: AttemptKey, a: EndedAttempt) -> None:
        if a.stdout:
            self.add_piece(key, STDOUT, a.stdout)
        if a.stderr:
            self.add_piece(key, STDERR, a.stderr)
        attempt = self._open.pop(key)
        out, err = attempt.streams[STDOUT], attempt.streams[STDERR]
        self._add_row(a, out.length, err.length, out.crc32, err.crc32, attempt.extent_lo)
        if err.tail and a.state == State.FAILED:
            self._tails[key.lease, key.task] = err.tail

    def _add_row(
        self, a: EndedAttempt, out_bytes: int, err_bytes: int, out_crc: int, err_crc: int, extent_lo: int
    ) -> None:
        flags, out_left, err_left = a.kept or (0, 0, 0)
        self._rows.append(
            ROW.pack(
                a.lease, a.job, a.task, a.attempt, a.state, a.failure, a.exit_code, a.signal, self._number, a.slot,
                a.cpus, a.started, a.ended, a.user_s, a.system_s, a.max_rss_kib, a.read_bytes, a.write_bytes,
                out_bytes + out_left, err_bytes + err_left, out_crc, err_crc,
                extent_lo, self._packer.extent_count, flags,
            )
        )  # fmt: skip

    def add_log(self, at: float, text: str) -> None:
        """A line for the run's log. `at`: Unix seconds."""
        self._log.append((at, text))

    def written(self, event: Written) -> None:
        """The recorder has something of ours on disk."""
        self._unwritten -= event.size
        self._extents_known = event.extents
        assert self._unwritten >= 0

    def send(self, now: float, *, last: bool) -> list[Action]:
        """What to do with what is gathered. `last`: nothing of this node is under way, more will not come soon."""
        return self._ship(now, last) + self._hold()

    def _ship(self, now: float, last: bool) -> list[Action]:
        """Send what was gathered when it is much, old, or the last there is."""
        if not (self._rows or self._packer.size or self._log):
            return []
        full = self._packer.size >= self._limits.message_bytes_max
        old = now - self._sent_at >= self._limits.output_every_s
        if not (full or old or last):
            return []
        extents, chunks, _ = self._packer.take()
        for attempt in self._open.values():
            if attempt.extent_lo >= 0:  # its first bytes are in this message: at least this far into the file
                attempt.extent_lo = -(self._extents_known + 1)
        output = Output(self._rank, b"".join(self._rows), extents, chunks, self._tails, tuple(self._log))
        self._rows, self._tails, self._log = [], {}, []
        self._sent_at = now
        self._unwritten += output.size
        return [Send(self._recorder, output)]

    def _hold(self) -> list[Action]:
        hold = self._unwritten > self._limits.unwritten_bytes_max
        if hold == self._held:
            return []
        self._held = hold
        return [HoldLauncher(hold)]
