"""From an attempt to a process: argv, environment, directory, and the pipes of its slot.

posix_spawn only: it costs the same from a big process as from a small one, and there is no Python between fork and
exec. It cannot change directory, so the launcher itself stands in the directory of the job. A line that needs no shell
is executed directly; whatever goes wrong with that is left to bash, so the user reads bash's message and gets bash's
exit code.

The pipes of a slot are kept from task to task, and the launcher holds their write ends: there is no end of file to
wait for, and what is in them when the main process has been waited for is all the task has written. Only after a task
that left processes behind they are renewed, so that no late byte can reach the output of the next task.
"""

from __future__ import annotations

import errno
import fcntl
import os
import resource
import select
import signal
import stat
import tempfile
import time
from collections.abc import Callable, Iterable, Mapping

from mpifarm.core.commandline import plan, shell_is_altered
from mpifarm.core.job import JobText
from mpifarm.core.launching import Running
from mpifarm.core.model import JobId, Limits
from mpifarm.core.row import STDERR, STDOUT
from mpifarm.launch.environ import JOB, NODE, Environment, name_task, scrubbed
from mpifarm.launch.orphans import Marks

try:
    from isal.isal_zlib import crc32
except ImportError:  # no wheel for this processor: ten times slower, still no bottleneck
    from zlib import crc32

PIPE_BYTES_MAX = 1 << 20
ALL_PIPES_BYTES_MAX = 16 << 20
"""Of all slots of a node together: a quarter of what an ordinary user may have before pipes shrink to a page."""
LAST_BYTES_WAIT_S = 0.05
LAST_READS_MAX = 2
"""Reads of at most a pipe full each, of a pipe whose writers are dead."""
STDERR_TAIL_BYTES = Limits().stderr_tail_bytes

# A long line is a file, since one argument may not exceed 128 KiB. It is closed before the line runs; $0, $# and the
# line number in messages are as with `bash -c LINE`.
_LONG_LINE_FD = 9
_LONG_LINE = b'eval "exec 9<&-; $(cat <&9)"'


# Python and the launcher ignore some, a task must not. All of them, since glibc asks the kernel about each one that is
# left out: 60 system calls and 7 us per task.
_ALL_SIGNALS = tuple(signal.valid_signals())

Read = Callable[["Stream"], int]
"""Reads what is in a stream's pipe now; returns the bytes."""
FileActions = tuple[tuple[int, int, int], ...]
"""As os.posix_spawn takes them. All descriptors of ours not named there are close-on-exec."""


class NotLaunchedError(Exception):
    """The attempt can never become a process here; says why."""


class Said:
    """How much an attempt has written on a stream, with its checksum; of stderr the last bytes too."""

    __slots__ = ("crc32", "length", "tail", "tail_bytes")

    def __init__(self, tail_bytes: int = 0) -> None:
        self.length = self.crc32 = 0
        self.tail = b""
        self.tail_bytes = tail_bytes

    def add(self, piece: bytes | memoryview) -> None:
        self.length += len(piece)
        self.crc32 = crc32(piece, self.crc32)
        if self.tail_bytes:
            self.tail = (self.tail + bytes(piece[-self.tail_bytes :]))[-self.tail_bytes :]


NOTHING = Said()


def fresh(stream: int) -> Said:
    """For a new attempt."""
    return Said(STDERR_TAIL_BYTES if stream == STDERR else 0)


def told(out: Said, err: Said, *, failed: bool) -> tuple[int, int, int, int, bytes]:
    """The fields of an EndedAttempt from `stdout_bytes` to `stderr_tail`."""
    return out.length, out.crc32, err.length, err.crc32, err.tail if failed else b""


class Stream:
    """The pipe of one output stream of a slot, and what the present attempt has said on it."""

    __slots__ = ("capacity", "number", "read_fd", "said", "watched", "write_fd")

    def __init__(self, number: int, capacity: int) -> None:
        self.number = number
        self.watched = False
        self.capacity = capacity
        """What the pipe holds at most."""
        self.said = fresh(number)
        self.read_fd, self.write_fd = os.pipe()
        os.set_blocking(self.read_fd, False)
        try:
            fcntl.fcntl(self.write_fd, fcntl.F_SETPIPE_SZ, capacity)
        except OSError:
            pass  # the user's share of pipe memory is used up; it is smaller then

    def take_said(self) -> Said:
        """The attempt has ended: what it said; the next one has said nothing."""
        said = self.said
        if not said.length:
            return NOTHING
        self.said = fresh(self.number)
        return said

    def read_last(self, read: Read) -> None:
        """Close the pipe; read what its last writers, already killed, still wrote."""
        os.close(self.write_fd)
        poll = select.poll()
        poll.register(self.read_fd, select.POLLIN)
        deadline = time.monotonic() + LAST_BYTES_WAIT_S
        for _ in range(LAST_READS_MAX):
            left_s = deadline - time.monotonic()
            if left_s <= 0 or not poll.poll(left_s * 1000) or not read(self):
                break
        os.close(self.read_fd)


class Seat:
    """A slot of the node with its pipes, and the process in it."""

    def __init__(self, slot: int, capacity: int) -> None:
        self.slot = slot
        self.running: Running | None = None
        self.pid = 0
        self.started = 0.0
        self._capacity = capacity
        self._open()

    def _open(self) -> None:
        self.out = Stream(STDOUT, self._capacity)
        self.err = Stream(STDERR, self._capacity)
        self.file_actions: FileActions = (
            (os.POSIX_SPAWN_DUP2, self.out.write_fd, 1),
            (os.POSIX_SPAWN_DUP2, self.err.write_fd, 2),
        )
        self._poll = select.poll()
        self._poll.register(self.out.read_fd, select.POLLIN)
        self._poll.register(self.err.read_fd, select.POLLIN)

    def read(self, read: Read) -> None:
        """Read what is in the pipes now."""
        if self._poll.poll(0):  # a third of the cost of two reads that fail
            read(self.out)
            read(self.err)

    def read_last(self, read: Read) -> None:
        """Read what comes until all writers are gone, and close the pipes. They must not be watched any more."""
        self.out.read_last(read)
        self.err.read_last(read)

    def take_said(self) -> tuple[Said, Said]:
        """What the attempt that has ended said on stdout and stderr."""
        return self.out.take_said(), self.err.take_said()

    def renew(self) -> None:
        """After `read_last`: give the slot new pipes."""
        self._open()


def peak_kib(usage: resource.struct_rusage) -> int:
    """The most memory that any process of an ended task had; 0 when it had no more than this process ever had.

    For the kernel a process begins with the memory of the one that spawned it, for the moment before its exec; so a
    smaller number than our own is never seen, and one that is no larger says nothing about the task.
    """
    ours: int = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return usage.ru_maxrss if usage.ru_maxrss > ours else 0


def make_seats(slots: int) -> list[Seat]:
    """All seats of a node."""
    share = min(ALL_PIPES_BYTES_MAX // (2 * slots), PIPE_BYTES_MAX)
    capacity = max(1 << (share.bit_length() - 1), 64 << 10)
    return [Seat(slot, capacity) for slot in range(slots)]


class Spawner:
    """Starts attempts. Needs the environment of the rank and the name of the node."""

    def __init__(self, environ: Mapping[bytes, bytes], node: str) -> None:
        self._environ = scrubbed(environ)
        self._environ[NODE] = os.fsencode(node)
        self._shell_only = shell_is_altered(map(os.fsdecode, self._environ))
        self._path = self._environ.get(b"PATH", os.fsencode(os.defpath)).split(b":")
        self._shell = self._find(b"bash") or b"/bin/sh"
        self._programs: dict[bytes, bytes] = {}
        self._jobs: dict[JobId, tuple[JobText, Environment]] = {}
        self._entered: object = None

    def learn(self, jobs: Iterable[JobText]) -> None:
        """Tasks of these jobs will come."""
        for job in jobs:
            variables = {**self._environ, JOB: os.fsencode(job.name), b"PWD": job.cwd}
            self._jobs[job.id] = job, variables

    def marks(self, running: Running) -> Marks:
        """What stands in the environment of the attempt's processes."""
        name = os.fsencode(self._jobs[running.block.job][0].name)
        return name, b"%d" % running.task, b"%d" % running.block.attempt

    def spawn(self, running: Running, seat: Seat) -> int:
        """Start the attempt in the slot's seat; returns the pid, which is its process group too.

        Raises NotLaunchedError, or BlockingIOError when the node has no process or memory to spare at the moment.
        """
        block, (command, entry) = running.block, running.text
        job, env = self._jobs[block.job]
        if self._entered is not block:  # anew for every block: a directory may have been replaced by another
            self._enter(job.cwd)
            self._entered = block
        named = command if entry is None else entry
        name_task(env, running.task, block.attempt, block.shape.cpus, seat.slot, named)
        argv = plan(command, shell_only=self._shell_only)
        if argv is not None:
            program = self._programs.get(argv[0]) or self._look_up(argv[0])
            if program is not None:
                try:
                    return spawn(program, argv, env, seat.file_actions)
                except BlockingIOError:
                    raise
                except (OSError, ValueError):
                    self._programs.pop(argv[0], None)  # bash will say what is wrong
        return self._spawn_shell(command, env, seat)

    def _enter(self, cwd: bytes) -> None:
        self._entered = None
        try:
            os.chdir(cwd)
        except (OSError, ValueError) as error:
            reason = error.strerror if isinstance(error, OSError) else error
            raise NotLaunchedError(f"cannot enter the job's directory {os.fsdecode(cwd)}: {reason}") from None

    def _spawn_shell(self, command: bytes, env: Environment, seat: Seat) -> int:
        name = os.path.basename(self._shell)
        try:
            try:
                return spawn(self._shell, (name, b"-c", command), env, seat.file_actions)
            except OSError as error:
                if error.errno != errno.E2BIG:
                    raise
            with tempfile.TemporaryFile() as script:
                script.write(command)
                script.seek(0)
                actions = (*seat.file_actions, (os.POSIX_SPAWN_DUP2, script.fileno(), _LONG_LINE_FD))
                return spawn(self._shell, (name, b"-c", _LONG_LINE), env, actions)
        except BlockingIOError:
            raise
        except (OSError, ValueError) as error:
            raise NotLaunchedError(f"cannot start {os.fsdecode(self._shell)}: {error}") from None

    def _look_up(self, name: bytes) -> bytes | None:
        """The file bash would execute for this first word; None when bash itself must look."""
        found = name if b"/" in name else self._find(name)
        if found is not None:
            self._programs[name] = found
        return found

    def _find(self, name: bytes) -> bytes | None:
        for folder in self._path:
            if not folder.startswith(b"/"):
                return None  # depends on the directory of each job
            path = folder + b"/" + name
            try:
                if stat.S_ISREG(os.stat(path).st_mode) and os.access(path, os.X_OK):
                    return path
            except OSError:
                pass
        return None


def spawn(program: bytes, argv: tuple[bytes, ...], env: Environment, actions: FileActions) -> int:
    """Start a process in a group of its own; the pid. Raises OSError, ValueError (a zero byte in a word)."""
    return os.posix_spawn(program, argv, env, file_actions=actions, setpgroup=0, setsigmask=(), setsigdef=_ALL_SIGNALS)
