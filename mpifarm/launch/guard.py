"""Nothing of a run outlives it: the guardian process, and what it takes to find and end what tasks leave behind.

    rank --fork--> guardian --fork--> launcher --spawn--> tasks, each its own process group

Guardian and launcher are subreapers: a process that loses its parent becomes a child of the launcher (of the guardian
when the launcher is gone) and cannot get out of sight, whatever session it made itself. Whoever dies, by any signal:

    rank      the launcher sees the end of its socket, kills all tasks and leaves
    launcher  its processes become children of the guardian, which kills them until there are none
    guardian  the launcher sees the end of a pipe, kills all tasks and leaves
    both      the rank, or the next launcher on the host, finds the tasks by their mark (see `strays`)

Forked from a small process before MPI_Init; must never import anything heavy.
"""

from __future__ import annotations

import ctypes
import gc
import os
import signal
import sys
import traceback
from collections.abc import Callable, Collection
from pathlib import Path
from typing import NoReturn

from mpifarm.launch.stop_watch import StopSignals

IGNORED_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2)
"""The rank decides what they mean; guardian and launcher follow the rank."""

_PR_SET_NAME = 15
_PR_SET_CHILD_SUBREAPER = 36

Serve = Callable[[int, int], None]
"""The launcher's work: (descriptor of its link to the rank, descriptor that ends with the guardian)."""


def fork_guarded(link_fd: int, serve: Serve, stops: StopSignals) -> int:
    """Fork the guardian, which forks the launcher, which runs `serve`. Returns the guardian's pid."""
    rank = os.getpid()
    sys.stdout.flush()
    sys.stderr.flush()
    pid = os.fork()
    if not pid:
        _leave_after(lambda: _guard(link_fd, serve, stops, rank))
    return pid


def _leave_after(work: Callable[[], None]) -> NoReturn:
    """Run `work` and end this forked process, never returning into the caller's stack."""
    try:
        work()
    except BaseException:
        traceback.print_exc()
        sys.stderr.flush()
        os._exit(1)
    os._exit(0)


def _guard(link_fd: int, serve: Serve, stops: StopSignals, rank: int) -> None:
    _become("mpifarm-guardian")
    watched, held = os.pipe()
    launcher = os.fork()
    if not launcher:
        _leave_after(lambda: _launch(link_fd, watched, serve))
    _close_all_but(0, 1, 2, held, stops.fileno())
    stops.guard(rank)
    null = os.open("/dev/null", os.O_RDWR)
    for fd in (0, 1, 2):
        os.dup2(null, fd)
    os.close(null)
    while os.wait()[0] != launcher:
        pass
    kill_children()


def _launch(link_fd: int, watched: int, serve: Serve) -> None:
    _become("mpifarm-launcher")
    _close_all_but(0, 1, 2, link_fd, watched)
    null = os.open("/dev/null", os.O_RDONLY)
    os.dup2(null, 0)
    os.close(null)
    try:
        serve(link_fd, watched)
    finally:
        kill_children()


def _become(title: str) -> None:
    # The forked copy of the rank's objects must never be collected: it would close descriptors that are others by now.
    gc.freeze()
    gc.disable()
    os.setsid()
    for number in IGNORED_SIGNALS:
        signal.signal(number, signal.SIG_IGN)
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    signal.set_wakeup_fd(-1)
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0):
        raise OSError(ctypes.get_errno(), "prctl(PR_SET_CHILD_SUBREAPER)")
    libc.prctl(_PR_SET_NAME, title.encode()[:15], 0, 0, 0)
    _show_title(title.encode())


def _show_title(title: bytes) -> None:
    """Overwrite argv in place, so that `pkill -f 'mpifarm run'` means the rank and nobody else."""
    try:
        fields = Path("/proc/self/stat").read_bytes().rpartition(b")")[2].split()
    except OSError:
        return
    start, end = int(fields[45]), int(fields[46])  # arg_start and arg_end, fields 48 and 49
    if 0 < start < end:
        ctypes.memmove(start, title[: end - start - 1].ljust(end - start, b"\0"), end - start)


def _close_all_but(*kept: int) -> None:
    for name in os.listdir("/proc/self/fd"):
        fd = int(name)
        if fd not in kept:
            try:
                os.close(fd)
            except OSError:
                pass  # the descriptor of the listing itself


def kill_children() -> None:
    """SIGKILL every child and every process that becomes one, until none is left."""
    children = Children()
    while True:
        for pid in children.pids():
            kill_tree(pid)
        try:
            os.wait()
        except ChildProcessError:
            return


def kill_tree(pid: int, spared: Collection[int] = ()) -> None:
    """SIGKILL a process and its process group, but not a group that is ours or among `spared`."""
    try:
        group = os.getpgid(pid)
        os.kill(pid, signal.SIGKILL)
        if group not in spared and group != os.getpgrp():
            os.killpg(group, signal.SIGKILL)
    except OSError:
        pass  # already gone, or of another user (a setuid program)


class Children:
    """The children of this process, for a microsecond: the kernel lists them in a file."""

    _ENOUGH_BYTES = 4000  # the kernel hands the list out a page at a time

    def __init__(self) -> None:
        pid = os.getpid()
        try:
            self._fd: int | None = os.open(f"/proc/self/task/{pid}/children", os.O_RDONLY | os.O_CLOEXEC)
        except OSError:
            self._fd = None  # a kernel without CONFIG_PROC_CHILDREN

    def _read(self) -> bytes:
        if self._fd is None:
            return b"".join(b"%d " % pid for pid in _search_children())
        data = os.pread(self._fd, 1 << 16, 0)
        while len(data) >= self._ENOUGH_BYTES:
            more = os.pread(self._fd, 1 << 16, len(data))
            if not more:
                break
            data += more
        return data

    def count(self) -> int:
        """How many. Cheap: asked after every task."""
        if self._fd is not None:
            data = os.pread(self._fd, self._ENOUGH_BYTES, 0)
            if len(data) < self._ENOUGH_BYTES:
                return data.count(b" ")
        return self._read().count(b" ")

    def pids(self) -> list[int]:
        return [int(pid) for pid in self._read().split()]


def _search_children() -> list[int]:
    own = b"%d" % os.getpid()
    found = []
    for name in os.listdir("/proc"):
        if name.isdecimal():
            stat = read_stat(int(name))
            if stat and stat[1] == own:
                found.append(int(name))
    return found


def describe(pid: int) -> str:
    """`process 12 (name)`, while it is there to be asked."""
    try:
        name = os.fsdecode(Path(f"/proc/{pid}/comm").read_bytes().strip())
    except OSError:
        name = "?"
    return f"process {pid} ({name})"


def read_stat(pid: int) -> list[bytes]:
    """state, ppid, pgrp, session, ... of a process; empty when it is gone."""
    try:
        return Path(f"/proc/{pid}/stat").read_bytes().rpartition(b")")[2].split()
    except OSError:
        return []
