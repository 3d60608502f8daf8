"""Processes of tasks that lost both launcher and guardian: found by their mark and ended before their tasks run again.

Every task has in its environment which launcher started it: where its pid counts (the pid namespace), its pid, and when
it began, so that the number of a dead one is never taken for another. Whoever is left looks for them in /proc: the rank
when its launcher has gone; the launchers of other runs on the host when they start, before a task runs that somebody
held before, and now and then. A process that hides its environment is found by its session, which is the launcher's
unless it made its own. Costs a task nothing. Imports nothing heavy.
"""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable, Iterable

from mpifarm.core.model import Block
from mpifarm.launch.environ import LAUNCHER
from mpifarm.launch.guard import describe, read_stat

LOOK_EVERY_S = 5.0
LOOK_AGAIN_S = 0.2
LOOKING_SHARE = 0.02
"""Of its time that a launcher may look for strays, at most."""
END_WITHIN_S = 5.0
"""A process that is not gone so long after SIGKILL is not waited for: it hangs in the kernel."""
_REST_S = 0.01
_SESSION, _BEGAN = 3, 19
"""Among the fields of /proc/PID/stat behind the name."""

_ASSIGNED = LAUNCHER + b"="


def mark_of(pid: int) -> bytes:
    """What the tasks of the launcher with this pid have in their environment. It must be alive."""
    stat = read_stat(pid)
    return b"%s %d %s" % (_namespace(), pid, stat[_BEGAN] if stat else b"0")


def end_strays(of: bytes | None = None) -> list[str]:
    """Kill the processes of tasks of a launcher that has gone, None: of all that have; return when they are gone.

    Returns a line about each."""
    log: dict[int, str] = {}
    deadline = time.monotonic() + END_WITHIN_S
    while (found := _strays(of)) and time.monotonic() < deadline:
        for pid, process in found.items():
            log.setdefault(pid, f"killed {process} of a task whose run was killed")
            try:
                os.kill(pid, signal.SIGKILL)
            except OSError:
                pass
        time.sleep(_REST_S)
    return list(log.values())


class Strays:
    """A launcher's looking for those of others."""

    def __init__(self, log: Callable[[str, float], None]) -> None:
        self._log = log
        self._again_at = 0.0
        self.due_at = 0.0
        """When `look` is due."""

    def before(self, blocks: Iterable[Block], now: float) -> None:
        """These are about to run: if somebody held them before, what he left of them must be gone."""
        if now >= self._again_at and any(block.attempt > 1 for block in blocks):
            self.look(now)

    def look(self, now: float) -> None:
        began = time.monotonic()
        for line in end_strays():
            self._log(line, now)
        took_s = time.monotonic() - began
        self._again_at = now + max(LOOK_AGAIN_S, took_s / LOOKING_SHARE)
        self.due_at = now + max(LOOK_EVERY_S, took_s / LOOKING_SHARE)


def _strays(of: bytes | None) -> dict[int, str]:
    """What the processes are called, by pid."""
    user, marks, sessions = os.geteuid(), dict[int, bytes](), dict[int, int]()
    for name in os.listdir("/proc"):
        try:
            if name.isdecimal() and os.stat(f"/proc/{name}").st_uid == user:
                stat = read_stat(int(name))
                if stat and stat[0] not in b"ZX":
                    sessions[int(name)] = int(stat[_SESSION])
                    with open(f"/proc/{name}/environ", "rb", buffering=0) as environ:
                        mark = _mark_in(environ.read())
                    if mark:
                        marks[int(name)] = mark
        except OSError:
            pass  # it has ended
    gone = {mark for mark in set(marks.values()) if mark == of or (of is None and _has_gone(mark))}
    # A session is not given to another while somebody is in it.
    leaders = {int(mark.split()[1]) for mark in gone | ({of} if of else set())}
    return {
        pid: describe(pid)
        for pid, session in sessions.items()
        if marks.get(pid) in gone or (session in leaders and pid != session and pid not in marks)
    }


def _mark_in(environ: bytes) -> bytes:
    start = 0 if environ.startswith(_ASSIGNED) else environ.find(b"\0" + _ASSIGNED) + 1
    if not start and not environ.startswith(_ASSIGNED):
        return b""
    mark = environ[start + len(_ASSIGNED) :].split(b"\0", 1)[0]
    return mark if len(mark.split()) == 3 and mark.split()[1].isdigit() else b""


def _has_gone(mark: bytes) -> bool:
    namespace, pid, began = mark.split()
    if namespace != _namespace():
        return False  # its number means nothing here
    stat = read_stat(int(pid))
    return not stat or stat[0] in b"ZX" or stat[_BEGAN] != began


def _namespace() -> bytes:
    try:
        return os.fsencode(os.readlink("/proc/self/ns/pid"))
    except OSError:
        return b"?"
