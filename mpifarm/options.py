"""What `mpifarm run` was asked to do, as plain data: read by every rank, so it imports nothing of the command line."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class RunOptions:
    """The options of one `mpifarm run`; the defaults are those of the command line."""

    dsn: str | None = None
    """None: find it as `submit` and `report` do."""
    output: Path = Path()
    """Directory of the run file."""
    grace_s: float = 30.0
    """What running tasks are given to finish once the run is told to stop."""
    exit_code: bool = False
    """Exit with 1 when a task of this run failed."""
    cpus: int | None = None
    """Slots per node; None: the cores of the ranks' affinity masks."""
    local: int | None = None
    """Start this many ranks on this machine first."""
    quiet: bool = False
