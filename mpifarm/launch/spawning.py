"""From an attempt to a process: argv, environment, directory.

posix_spawn only: it costs the same from a big process as from a small one, and there is no Python between fork and
exec. It cannot change directory, so the launcher itself stands in the directory of the job. A line that needs no shell
is executed directly; whatever goes wrong with that is left to bash, so the user reads bash's message and gets bash's
exit code.
"""

from __future__ import annotations

import errno
import os
import resource
import signal
import stat
import sys
import tempfile
from collections.abc import Iterable, Mapping

from mpifarm.calls.frames import PROGRAM
from mpifarm.core.job.commandline import plan, shell_is_altered
from mpifarm.core.job.policy import JobText
from mpifarm.core.launcher.launching import Running
from mpifarm.core.model import JobId
from mpifarm.core.protocol.messages import Setup
from mpifarm.launch.environ import CPUS, JOB, NODE, Environment, following_cpus, name_task, scrubbed, slurm_hosts
from mpifarm.launch.open_files import OpenFiles
from mpifarm.launch.orphans import Marks
from mpifarm.launch.places import Places
from mpifarm.launch.seat import FileActions, Seat

PROCESSES_PER_CPU_MAX = 4
"""That an srun in a task may start on its node."""

# A long line is a file, since one argument may not exceed 128 KiB. It is closed before the line runs; $0, $# and the
# line number in messages are as with `bash -c LINE`.
_LONG_LINE_FD = _SOCKET_FD = 9
_LONG_LINE = b'eval "exec 9<&-; $(cat <&9)"'


# Python and the launcher ignore some, a task must not. All of them, since glibc asks the kernel about each one that is
# left out: 60 system calls and 7 us per task.
_ALL_SIGNALS = tuple(signal.valid_signals())


def own_peak_kib() -> int:
    """The most memory this process ever had. What a task had at most can be told only when it is more.

    For the kernel a process begins with the memory of the one that spawned it, for the moment before its exec; so a
    smaller number than our own is never seen, and one that is no larger says nothing about the task.
    """
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


class NotLaunchedError(Exception):
    """The attempt can never become a process here; says why."""


class Spawner:
    """Starts attempts. Needs the environment of the rank and what the node has."""

    def __init__(self, environ: Mapping[bytes, bytes], setup: Setup, files: OpenFiles) -> None:
        self._files = files
        self._environ = scrubbed(environ)
        self._environ[NODE] = os.fsencode(setup.node)
        self._places = Places(setup, self._environ)
        self._following_cpus = (CPUS, *following_cpus(environ))
        hosts = slurm_hosts(environ, PROCESSES_PER_CPU_MAX * (os.cpu_count() or 1))
        if hosts:
            with tempfile.TemporaryFile(buffering=0) as file:
                file.write(hosts)
                kept = os.dup(file.fileno())  # for an srun in a task, which reads it by way of /proc
            self._environ[b"SLURM_HOSTFILE"] = b"/proc/%d/fd/%d" % (os.getpid(), kept)
        self._shell_only = shell_is_altered(map(os.fsdecode, self._environ))
        self._path = self._environ.get(b"PATH", os.fsencode(os.defpath)).split(b":")
        self._shell = self._find(b"bash") or b"/bin/sh"
        self._programs: dict[bytes, bytes] = {}
        self._jobs: dict[JobId, tuple[JobText, Environment]] = {}

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
        self._enter(job.cwd)
        named = command if entry is None else entry
        name_task(env, running.task, block.attempt, seat.slot, named)
        self._tell_place(env, running)
        if not seat.brief:
            with self._places.born(running):
                return self._spawn_task(command, env, seat)
        pid = self._spawn_task(command, env, seat)
        self._places.send(pid, running)
        return pid

    def _spawn_task(self, command: bytes, env: Environment, seat: Seat) -> int:
        argv = plan(command, shell_only=self._shell_only)
        if argv is not None:
            program = self._programs.get(argv[0]) or self._look_up(argv[0])
            if program is not None:
                try:
                    return self._start(program, argv, env, seat.file_actions)
                except BlockingIOError:
                    raise
                except (OSError, ValueError):
                    self._programs.pop(argv[0], None)  # bash will say what is wrong
        return self._spawn_shell(command, env, seat)

    def spawn_interpreter(self, running: Running, seat: Seat, socket_fd: int) -> int:
        """Start a warm interpreter for calls like this attempt's, which talks over `socket_fd`; its pid. Raises as
        `spawn` does."""
        block = running.block
        job, env = self._jobs[block.job]
        self._enter(job.cwd)
        name_task(env, running.task, block.attempt, seat.slot, b"")
        self._tell_place(env, running)
        actions = (*seat.file_actions, (os.POSIX_SPAWN_DUP2, socket_fd, _SOCKET_FD))
        argv = (os.fsencode(sys.executable), os.fsencode(PROGRAM), b"%d" % _SOCKET_FD)
        try:
            with self._places.born(running):
                return self._start(argv[0], argv, env, actions)
        except BlockingIOError:
            raise
        except (OSError, ValueError) as error:
            raise NotLaunchedError(f"cannot start {sys.executable}: {error}") from None

    def _tell_place(self, env: Environment, running: Running) -> None:
        needs = running.block.needs
        cpus = b"%d" % (running.cores.bit_count() if needs.resources else needs.cpus)
        for name in self._following_cpus:
            env[name] = cpus
        self._places.tell(env, running)

    def _enter(self, cwd: bytes) -> None:
        """Anew for every task: the one before may have replaced the directory by another."""
        try:
            os.chdir(cwd)
        except (OSError, ValueError) as error:
            reason = error.strerror if isinstance(error, OSError) else error
            raise NotLaunchedError(f"cannot enter the job's directory {os.fsdecode(cwd)}: {reason}") from None

    def _spawn_shell(self, command: bytes, env: Environment, seat: Seat) -> int:
        name = os.path.basename(self._shell)
        try:
            try:
                return self._start(self._shell, (name, b"-c", command), env, seat.file_actions)
            except OSError as error:
                if error.errno != errno.E2BIG:
                    raise
            with tempfile.TemporaryFile() as script:
                script.write(command)
                script.seek(0)
                actions = (*seat.file_actions, (os.POSIX_SPAWN_DUP2, script.fileno(), _LONG_LINE_FD))
                return self._start(self._shell, (name, b"-c", _LONG_LINE), env, actions)
        except BlockingIOError:
            raise
        except (OSError, ValueError) as error:
            raise NotLaunchedError(f"cannot start {os.fsdecode(self._shell)}: {error}") from None

    def _start(self, program: bytes, argv: tuple[bytes, ...], env: Environment, actions: FileActions) -> int:
        pid = spawn(program, argv, env, actions)
        self._files.give(pid)
        return pid

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
