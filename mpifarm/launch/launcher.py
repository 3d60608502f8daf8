"""The launcher of a rank: forked before MPI_Init, talked to over a socket.

`fork_launcher` must be called while the rank is still small and before mpi4py is imported: nothing may fork once MPI
(and with it the fabric's registered memory) is in the process. The rank keeps a `Launcher`; the forked process runs
`serve`: it waits for Setup, then `mpifarm.launch.watching` takes over. Ranks that lead no node close theirs unused.
Must never import anything heavy, nor MPI.
"""

from __future__ import annotations

import ctypes
import os
import select
import signal
import socket
import time
from collections.abc import Callable, MutableMapping, Sequence
from functools import partial
from typing import NamedTuple

from mpifarm.core.launcher.verdict import STOP_SIGNALS
from mpifarm.core.model import Limits
from mpifarm.core.protocol.messages import LauncherLog, LinkMessage, ProgramEnded, RunProgram, Setup
from mpifarm.errors import SiteError
from mpifarm.launch import arena
from mpifarm.launch.arena import Arena
from mpifarm.launch.guard import fork_guarded, read_stat
from mpifarm.launch.link import Link
from mpifarm.launch.open_files import OpenFiles
from mpifarm.launch.stop_watch import StopSignals
from mpifarm.launch.strays import end_strays, mark_of
from mpifarm.launch.watching import Watch

START_TIMEOUT_S = 30.0
CLOSE_TIMEOUT_S = 5.0
PARENT_LOOK_MS = 500
_PID_BYTES = 8


class Launcher:
    """The rank's side."""

    def __init__(self, guardian: int, pid: int, link: Link, arena_: Arena, stops: StopSignals) -> None:
        self.arena = arena_
        self.stops = stops
        """Of this rank, watched by the guardian."""
        self.guardian = guardian
        self.pid = pid
        """Of the launcher, a child of the guardian."""
        self._mark = mark_of(pid)
        self._link = link

    @property
    def alive(self) -> bool:
        """False when the launcher has gone, everything it said was received and nothing of its tasks is left."""
        return self._link.open

    def fileno(self) -> int:
        """Readable when `poll` has something to give."""
        return self._link.fileno()

    def send(self, message: LinkMessage) -> None:
        """Never blocks; what the socket does not take goes with the next `poll` or `flush`."""
        self._link.send(message)

    def flush(self) -> None:
        self._link.flush()

    def poll(self) -> list[LinkMessage]:
        """The messages that have arrived. Blocks only when it sees that the launcher has gone: until its tasks have."""
        self._link.flush()
        was_open = self._link.open
        messages = self._link.receive()
        if was_open and not self._link.open:
            end_strays(self._mark)  # of which its guardian may not be left to take care
        return messages

    def run_program(self, argv: Sequence[str], timeout_s: float) -> str:
        """Run a program to its end, before Setup. Returns what went wrong, for humans; nothing when all is well."""
        self.send(RunProgram(tuple(argv), timeout_s))
        deadline = time.monotonic() + timeout_s + START_TIMEOUT_S
        while (left_s := deadline - time.monotonic()) > 0 and self.alive:
            select.select([self], [], [], left_s)
            for message in self.poll():
                if isinstance(message, ProgramEnded):
                    return message.wrong
        return f"nothing was heard of {argv[0]}"

    def close(self) -> None:
        """End the launcher and all its tasks; what it still says is lost. Waits for it, but not for ever."""
        if self._link.fileno() < 0:
            return
        self._link.hang_up()
        while self._link.open and select.select([self._link], [], [], CLOSE_TIMEOUT_S)[0]:
            self._link.receive()
        self._link.close()
        try:
            os.waitpid(self.guardian, os.WNOHANG)
        except ChildProcessError:
            pass  # somebody else has waited for it


def fork_launcher(
    for_tasks: Callable[[MutableMapping[str, str]], None] = lambda _: None, *, parent: int | None = None
) -> Launcher:
    """Fork guardian and launcher. Raises SiteError when they do not come up.

    `for_tasks` makes an environment fit for tasks. `parent`: until tasks may come, the death of our parent, which
    started other ranks too, is ours: MPI starts together or waits for ever, and this process cannot look up from it.
    """
    ours, theirs = socket.socketpair()
    shared, stops = arena.create(), StopSignals()
    rank = Rank(os.getpid(), parent)
    guardian = fork_guarded(theirs.fileno(), partial(serve, shared, rank, for_tasks), stops)
    theirs.close()
    ours.settimeout(START_TIMEOUT_S)
    try:
        pid = ours.recv(_PID_BYTES, socket.MSG_WAITALL)
    except TimeoutError:
        pid = b""
    if len(pid) < _PID_BYTES:
        ours.close()
        raise SiteError("the process that starts the tasks did not come up (its message, if any, is above)")
    return Launcher(guardian, int.from_bytes(pid, "little"), Link(ours), shared, stops)


class Rank(NamedTuple):
    """The process that forked us, and the parent without which it shall not live; None: it may."""

    pid: int
    parent: int | None

    def end_without_parent(self) -> bool:
        """Whether that was needed."""
        stat = read_stat(self.pid)
        if self.parent is None or not stat or int(stat[1]) == self.parent:
            return False
        os.kill(self.pid, signal.SIGKILL)
        return True


def serve(
    shared: Arena, rank: Rank, for_tasks: Callable[[MutableMapping[str, str]], None], link_fd: int, guard_fd: int
) -> None:
    """The launcher's life. Returns when the rank has gone, or the guardian (the other end of `guard_fd`)."""
    # A copy: the rank shall see the end of `link_fd` only with the end of this process, when all tasks are dead.
    sock = socket.socket(fileno=os.dup(link_fd))
    try:
        sock.sendall(os.getpid().to_bytes(_PID_BYTES, "little"))
    except BrokenPipeError:
        return  # it was interrupted already
    for_tasks(os.environ)
    link = Link(sock)
    poll = select.poll()
    poll.register(link, select.POLLIN)
    poll.register(guard_fd, select.POLLIN)
    messages = _receive(link, poll, guard_fd, rank)
    while messages and isinstance(program := messages[0], RunProgram):
        link.send(ProgramEnded(_run(program)))
        messages = messages[1:] or _receive(link, poll, guard_fd, rank)
    if not messages:
        return
    setup = messages.pop(0)
    assert isinstance(setup, Setup), setup
    _use_cpus(setup.cpus, link)
    files = OpenFiles(setup.slots * Limits().slot_files + Limits().launcher_files)
    Watch(link, setup, shared, files, _signal_fd(signal.SIGCHLD, *STOP_SIGNALS), guard_fd).run(messages)


def _receive(link: Link, poll: select.poll, guard_fd: int, rank: Rank) -> list[LinkMessage]:
    """Wait for messages; none when the rank or the guardian has gone."""
    messages: list[LinkMessage] = []
    while not messages and link.open:
        ready = poll.poll(None if rank.parent is None else PARENT_LOOK_MS)
        if any(fd == guard_fd for fd, _ in ready) or rank.end_without_parent():
            return []
        messages = link.receive()
    return messages


def _run(program: RunProgram) -> str:
    from mpifarm.process import run_program

    try:
        run_program(program.argv, timeout_s=program.timeout_s)
    except SiteError as error:
        return str(error)
    return ""


def _use_cpus(cpus: tuple[int, ...], link: Link) -> None:
    """Widen the affinity of this process, and so of its tasks, from the rank's to the node's."""
    try:
        os.sched_setaffinity(0, cpus)
    except (OSError, ValueError) as error:
        has = sorted(os.sched_getaffinity(0))
        link.send(LauncherLog(f"tasks stay on cpus {has} instead of {list(cpus)}: {error}"))


def _signal_fd(*numbers: int) -> int:
    """A descriptor that is readable when one of the signals has come. (Python has none before 3.15.)"""
    signal.pthread_sigmask(signal.SIG_BLOCK, numbers)
    libc = ctypes.CDLL(None, use_errno=True)
    signals = ctypes.create_string_buffer(128)  # a sigset_t
    libc.sigemptyset(signals)
    for number in numbers:
        libc.sigaddset(signals, number)
    fd: int = libc.signalfd(-1, signals, os.O_NONBLOCK | os.O_CLOEXEC)
    if fd < 0:
        raise OSError(ctypes.get_errno(), "signalfd")
    return fd
