"""What the process of rank 0 is and where, for the run file: who reads it years later asks for these."""

from __future__ import annotations

import os
import platform
import pwd
import shlex
import socket
from pathlib import Path

from mpifarm import __version__


def description() -> dict[str, str]:
    """Attributes by name."""
    try:
        user = pwd.getpwuid(os.getuid()).pw_name
    except KeyError:  # in a container, for one
        user = str(os.getuid())
    return {
        "mpifarm_version": __version__,
        "python_version": platform.python_version(),
        "system": f"{platform.system()} {platform.release()} {platform.machine()}",
        "host": socket.gethostname(),
        "user": user,
        "cwd": str(Path.cwd()),
    }


def command_line(argv: list[str]) -> str:
    """How the run was started, for records: without the DSN, which may hold a password."""
    words = list(argv)
    for place, word in enumerate(argv):
        if word == "--dsn" and place + 1 < len(argv):
            words[place + 1] = "..."
        elif word.startswith("--dsn="):
            words[place] = "--dsn=..."
    return shlex.join(["mpifarm", "run", *words])
