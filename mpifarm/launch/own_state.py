"""What tasks inherit of the launcher's own state, and any of them may change: `renice -p $PPID`, `prlimit`, `taskset`.

Nothing forbids a user's process to do that to another of the same user. So it is looked at after tasks have ended, and
put back before the next one starts; a look costs a hundredth of /bin/true, and is not repeated within two milliseconds.
What takes privileges to put back (a better priority, a higher hard limit) is told. Imports nothing heavy.
"""

from __future__ import annotations

import os
import resource
from collections.abc import Callable
from typing import Any, NamedTuple

LOOK_EVERY_S = 0.002
_SELF = 0
_LIMITS = sorted({getattr(resource, name) for name in dir(resource) if name.startswith("RLIMIT_")})
_SMALL = 64
"""Bytes: more than /proc/self/oom_score_adj ever holds."""


class _Part(NamedTuple):
    name: str
    get: Callable[[], Any]
    put: Callable[[Any], object]


class OwnState:
    """The state of this process as its tasks shall find it: that of now."""

    def __init__(self, log: Callable[[str, float], None]) -> None:
        self._log = log
        self._looked_at = 0.0
        self._parts = [
            _Part("priority", lambda: os.getpriority(os.PRIO_PROCESS, _SELF), _set_priority),
            _Part("cores", lambda: os.sched_getaffinity(_SELF), lambda cores: os.sched_setaffinity(_SELF, cores)),
            _Part("limits", lambda: list(map(resource.getrlimit, _LIMITS)), _set_limits),
        ]
        try:
            score = os.open("/proc/self/oom_score_adj", os.O_RDWR | os.O_CLOEXEC)
        except OSError:
            pass  # not writable for us, so not for a task either
        else:
            self._parts.append(
                _Part("oom_score_adj", lambda: os.pread(score, _SMALL, 0), lambda text: os.pwrite(score, text, 0))
            )
        self._right = [part.get() for part in self._parts]

    def put_back(self, now: float) -> None:
        """Tasks have ended: what they did to it shall reach none that comes."""
        if now - self._looked_at < LOOK_EVERY_S:
            return
        self._looked_at = now
        for number, part in enumerate(self._parts):
            found, right = part.get(), self._right[number]
            if found == right:
                continue
            try:
                part.put(right)
            except (OSError, ValueError):
                pass  # told below
            self._right[number] = left = part.get()
            rest = "put back" if left == right else "cannot be put back without privileges; tasks from now on have it"
            self._log(f"the launcher's {part.name} was changed from outside, perhaps by a task: {rest}", now)


def _set_priority(priority: int) -> None:
    os.setpriority(os.PRIO_PROCESS, _SELF, priority)


def _set_limits(limits: list[tuple[int, int]]) -> None:
    """As far as may be: without privileges a hard limit only goes down."""
    for number, (soft, hard) in zip(_LIMITS, limits):
        if resource.getrlimit(number) == (soft, hard):
            continue
        try:
            resource.setrlimit(number, (soft, hard))
        except (OSError, ValueError):
            most = resource.getrlimit(number)[1]
            fits = most == resource.RLIM_INFINITY or resource.RLIM_INFINITY != soft <= most
            resource.setrlimit(number, (soft if fits else most, most))
