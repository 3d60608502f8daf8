"""Is the process of a run still there? Answered from /proc for runs of this host; elsewhere heartbeats must do."""

from __future__ import annotations

import os
import socket
from pathlib import Path


def boot_id() -> str:
    """What tells two boots of a host apart, and two PID namespaces on it: a pid means nothing beyond that."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        return f"{boot}/{os.readlink('/proc/self/ns/pid')}"
    except OSError:
        return ""


def process_started(pid: int) -> int | None:
    """Clock ticks after boot at which a process began; None: there is no such process, or no /proc."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_bytes()
    except OSError:
        return None
    state, *rest = stat.rpartition(b")")[2].split()  # the name before it may hold anything, blanks and brackets too
    return None if state in (b"Z", b"X") else int(rest[18])


def surely_gone(host: str, boot: str, pid: int, pid_started: int | None) -> bool:
    """Whether a run's process has ended for certain: it was one of this host and boot, and is no more."""
    here = bool(boot) and host == socket.gethostname() and boot == boot_id()
    return here and pid_started is not None and process_started(pid) != pid_started
