"""A limit for reading: HDF5 may never come back from a damaged file, or die over it, and nothing within a process can
help that (it lets no other thread run, and Python's signals wait for it). So a command that reads run files does it in
a child, and the kernel ends that: by its own timers, which count the processor's time. What waits for a disk uses none
and is left alone.

Must never import anything heavy: every command that reads passes here first. Not for the processes of a run, which
may not fork.
"""

from __future__ import annotations

import ctypes
import mmap
import os
import pickle
import resource
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from mpifarm.errors import OutputError

CALL_S = 2.0
"""Of processor time, for what takes HDF5 a thousandth of it in a sound file."""
_PATH_BYTES = 4096
_LENGTH_BYTES = 2
_PR_SET_PDEATHSIG = 1
_FORWARDED = (signal.SIGTERM, signal.SIGHUP)
_CRASHES = (signal.SIGSEGV, signal.SIGBUS, signal.SIGABRT, signal.SIGFPE, signal.SIGILL)

_marked: mmap.mmap | None = None
"""In a watched command: which file HDF5 reads now, as the length of its name and the name."""


class NeverBack(Exception):
    """A child ended in the middle of what it did; says how."""


def watched(command: Callable[[], int]) -> int:
    """Run a command in a child. Returns its exit code; where it ends within HDF5, it is said over which file."""
    global _marked
    _marked = mmap.mmap(-1, _LENGTH_BYTES + _PATH_BYTES)
    sys.stdout.flush()
    sys.stderr.flush()
    child = os.fork()
    if not child:
        _live_and_leave(command)
    kept = {number: signal.signal(number, signal.SIG_IGN) for number in (signal.SIGINT, signal.SIGQUIT)}
    kept |= {number: signal.signal(number, lambda this, _: os.kill(child, this)) for number in _FORWARDED}
    try:
        code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    finally:
        for number, how in kept.items():
            signal.signal(number, how)
    length = int.from_bytes(_marked[:_LENGTH_BYTES], "little")
    path, _marked = os.fsdecode(_marked[_LENGTH_BYTES : _LENGTH_BYTES + length]), None
    if code >= 0:
        return code
    why = _how(-code)
    if path and why:
        print(f"mpifarm: {never_back(path, why)}", file=sys.stderr)
        return OutputError.exit_code
    return 128 - code


@contextmanager
def reading(path: str | Path) -> Iterator[None]:
    """Around a call of HDF5 that reads this file."""
    if _marked is None:
        yield
        return
    name = os.fsencode(path)[:_PATH_BYTES]
    _marked[: _LENGTH_BYTES + len(name)] = len(name).to_bytes(_LENGTH_BYTES, "little") + name
    signal.setitimer(signal.ITIMER_PROF, CALL_S)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0.0)
        _marked[:_LENGTH_BYTES] = bytes(_LENGTH_BYTES)


def refuse_endless(path: str | Path, look: Callable[[], object]) -> None:
    """In a watched command: look at a file in a child of its own first, so that what other files hold is still
    reported. Raises OutputError when the child does not come back. How else it ends will be seen again."""
    if _marked is None:
        return
    try:
        for _ in in_child(lambda: iter((look() and None,))):
            pass
    except NeverBack as error:
        raise OutputError(never_back(path, str(error))) from None


def in_child(work: Callable[[], Iterator[Any]]) -> Iterator[Any]:
    """What `work` gives, found in a child in which `reading` has a limit. Raises NeverBack, after what came before,
    when that ends in the middle; where `work` raises, nothing more comes."""
    ours, theirs = os.pipe()
    child = os.fork()
    if not child:
        os.close(ours)
        _give_and_leave(work, theirs)
    os.close(theirs)
    try:
        with open(ours, "rb") as pipe, suppress(EOFError, pickle.UnpicklingError):
            while True:
                yield pickle.load(pipe)
    except GeneratorExit:
        os.kill(child, signal.SIGKILL)
        raise
    finally:
        status = os.waitpid(child, 0)[1]
    code = os.waitstatus_to_exitcode(status)
    if code < 0:
        raise NeverBack(_how(-code) or f"was ended by signal {-code}")


def never_back(path: str | Path, why: str) -> str:
    """For people."""
    return f"cannot read run file {path}: it is damaged so that HDF5 {why}; {repair_advice(path)}"


def repair_advice(path: str | Path) -> str:
    import shlex

    return f"what it still holds comes back by: mpifarm repair {shlex.quote(str(path))}"


def _how(number: int) -> str:
    if number == signal.SIGPROF:
        return "does not come back from it"
    return "crashes over it" if number in _CRASHES else ""


def _be_limited() -> None:
    signal.signal(signal.SIGPROF, signal.SIG_DFL)
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    resource.setrlimit(resource.RLIMIT_CORE, (0, resource.getrlimit(resource.RLIMIT_CORE)[1]))


def _live_and_leave(command: Callable[[], int]) -> None:
    _be_limited()
    code = 70
    try:
        code = command()
        with suppress(OSError, ValueError):
            sys.stdout.flush()
            sys.stderr.flush()
    finally:
        os._exit(code)


def _give_and_leave(work: Callable[[], Iterator[Any]], to: int) -> None:
    global _marked
    code = 1
    try:
        _marked = _marked or mmap.mmap(-1, _LENGTH_BYTES + _PATH_BYTES)
        _be_limited()
        with open(to, "wb") as pipe:
            for found in work():
                pickle.dump(found, pipe)
                pipe.flush()
        code = 0
    except Exception:
        pass  # who asked sees that nothing more came
    finally:
        os._exit(code)
