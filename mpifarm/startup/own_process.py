"""How processes of mpifarm start: from this very package, and quietly when interrupted before they can do anything.

Imports nothing heavy: every rank begins here.
"""

from __future__ import annotations

import ctypes
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

INTERRUPTED = 128 + 2
"""The exit code, as a shell reports those who died of SIGINT."""
_LOOK_EVERY_S = 1.0
_PR_SET_PDEATHSIG = 1


def own_command(*words: str) -> list[str]:
    """What starts `mpifarm WORDS` with this Python and this package. Not by `-m`, which looks in the working directory
    first: a user's numpy.py, or mpifarm.py."""
    return [sys.executable, str(Path(__file__).resolve().parents[1]), *words]


def leave() -> None:
    """End at once, without a word."""
    os._exit(INTERRUPTED)


class Interrupts:
    """SIGINT, until there is something that it should stop. Ignored where it is (nohup)."""

    def __init__(self) -> None:
        self.seen = False

    def leave(self) -> None:
        """From now on end at once: no traceback of imports."""
        self._on(lambda *_: leave())

    def remember(self) -> None:
        """From now on take note in `seen`. In a world of several ranks none may leave while MPI starts: the others
        would wait for it for ever, or mpiexec kill them with many words. All start, and all end in order."""
        self._on(self._remember)

    def _remember(self, *_: object) -> None:
        self.seen = True

    def _on(self, act: Callable[..., None]) -> None:
        if signal.getsignal(signal.SIGINT) is not signal.SIG_IGN:
            signal.signal(signal.SIGINT, act)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, (signal.SIGINT,))  # `run --local` held it back


def live_with(parent: int | None, proxy: bool = False) -> None:
    """From now on end as by kill -9 when this process loses its parent, which started the other ranks, too: whoever
    could have told it of their end, or have ended it, has gone. By a thread, since it may be waiting for them in MPI.
    None: it may live on.

    No thread comes to its turn while MPI starts. The launcher looks then; and if that is killed too, the kernel, where
    the parent is a `proxy` of hydra: it would take the end of one thread of the parent for its death, and a proxy has
    only one."""
    if parent is None:
        return
    if proxy:
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(_LOOK_EVERY_S)
        os.kill(os.getpid(), signal.SIGKILL)

    threading.Thread(target=watch, name="parent", daemon=True).start()


@contextmanager
def interruptible() -> Iterator[None]:
    """Inside, SIGINT is a KeyboardInterrupt again, unless it is ignored."""
    before = signal.getsignal(signal.SIGINT)
    try:
        if before is not signal.SIG_IGN:
            signal.signal(signal.SIGINT, signal.default_int_handler)
        yield
    finally:
        signal.signal(signal.SIGINT, before)
