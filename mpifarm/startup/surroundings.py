"""What must be right around a process of mpifarm before it does anything. Imports nothing heavy."""

from __future__ import annotations

import os
import sys
from pathlib import Path

_RANKS = ("OMPI_COMM_WORLD_RANK", "PMI_RANK", "PMIX_RANK", "SLURM_PROCID")

NO_DIRECTORY = "mpifarm: the working directory ({name}) has been removed: go to one that exists, and try again"


def restart_without_inspection() -> None:
    """PYTHONINSPECT makes of the end of a Python program a traceback and a prompt; what has read it cannot undo it."""
    if os.environ.pop("PYTHONINSPECT", None):
        sys.stdout.flush()
        os.execv(sys.executable, [sys.executable, *sys.orig_argv[1:]])


def has_directory() -> bool:
    """Whether the working directory exists; if not, this has been said, by the first rank alone."""
    try:
        Path.cwd()
    except OSError:
        if all(os.environ.get(rank, "0") == "0" for rank in _RANKS):
            print(NO_DIRECTORY.format(name=os.environ.get("PWD", "?")), file=sys.stderr)
        return False
    return True
