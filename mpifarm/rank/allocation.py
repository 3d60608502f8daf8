"""Where am I, and for how long: what the batch system says of the allocation around this process. Tables.

A command is asked for the time that is left only where no variable tells it, and only before MPI is started: nothing
may fork after that.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from mpifarm.errors import SiteError

COMMAND_TIMEOUT_S = 15.0


@dataclass(frozen=True, slots=True)
class Allocation:
    """What was granted; empty strings outside any batch system."""

    system: str = ""
    id: str = ""
    ends: float | None = None
    """Unix seconds; None: not known."""

    @property
    def label(self) -> str:
        """`slurm 12345`, or nothing."""
        return f"{self.system} {self.id}".strip()


_ID_VARIABLES = (
    ("slurm", "SLURM_JOB_ID"),
    ("flux", "FLUX_JOB_ID"),
    ("pbs", "PBS_JOBID"),
    ("lsf", "LSB_JOBID"),
    ("cobalt", "COBALT_JOBID"),
    ("sge", "JOB_ID"),
)

_END_VARIABLES = {"slurm": "SLURM_JOB_END_TIME", "cobalt": "COBALT_ENDTIME"}
"""Unix seconds. Slurm has its since 23.02."""


def find_allocation(environ: Mapping[str, str], *, ask: bool = False) -> Allocation:
    """The allocation of this process. `ask`: run the batch system's command for its end where no variable tells."""
    for system, variable in _ID_VARIABLES:
        if environ.get(variable):
            ends = _end_told(environ.get(_END_VARIABLES.get(system, ""), ""))
            if ends is None and ask and system in _COMMANDS:
                ends = _end_asked(system, _asked_for(environ) or environ[variable])
            return Allocation(system, environ[variable], ends)
    return Allocation()


def _asked_for(environ: Mapping[str, str]) -> str:
    """Of an element of a Slurm array: its own name. The one that runs last has the number of the whole array, for which
    squeue answers with a line per element."""
    array, element = environ.get("SLURM_ARRAY_JOB_ID", ""), environ.get("SLURM_ARRAY_TASK_ID", "")
    return f"{array}_{element}" if array and element else ""


def _end_told(text: str) -> float | None:
    return float(text) if re.fullmatch(r"[0-9]{9,11}(\.[0-9]*)?", text) else None


def _end_asked(system: str, number: str) -> float | None:
    from mpifarm.process import run_program

    argv, seconds_left = _COMMANDS[system]
    try:
        said = run_program([word.format(id=number) for word in argv], timeout_s=COMMAND_TIMEOUT_S)
    except SiteError:
        return None
    left_s = seconds_left(said.decode(errors="replace"))
    return None if left_s is None else time.time() + left_s


def clock_s(text: str) -> float | None:
    """`D-HH:MM:SS`, `HH:MM:SS`, `MM:SS` or `SS` as batch systems print them; None for UNLIMITED and the like."""
    match = re.fullmatch(r"(?:(\d+)-)?(?:(?:(\d+):)?(\d+):)?(\d+)", text.strip())
    if match is None:
        return None
    days, hours, minutes, seconds = (int(group or 0) for group in match.groups())
    return 86400.0 * days + 3600 * hours + 60 * minutes + seconds


def _pbs_left_s(said: str) -> float | None:
    limit = re.search(r"^\s*Resource_List\.walltime = (\S+)", said, re.MULTILINE)
    used = re.search(r"^\s*resources_used\.walltime = (\S+)", said, re.MULTILINE)
    limit_s = clock_s(limit[1]) if limit else None
    return None if limit_s is None else limit_s - ((clock_s(used[1]) if used else None) or 0.0)


def _lsf_left_s(said: str) -> float | None:
    """Hours and minutes, and L (or E, X) for how exact they are."""
    match = re.search(r"\b(\d+):(\d+) [LEX]\b", said)
    return None if match is None else 3600.0 * int(match[1]) + 60 * int(match[2])


def _flux_left_s(said: str) -> float | None:
    """Seconds; a number as large as a century when there is no limit."""
    left_s = clock_s(said.strip().partition(".")[0])
    return None if left_s is None or left_s > 1e9 else left_s


_COMMANDS: dict[str, tuple[tuple[str, ...], Callable[[str], float | None]]] = {
    "slurm": (("squeue", "-h", "-j", "{id}", "-o", "%L"), clock_s),
    "pbs": (("qstat", "-f", "{id}"), _pbs_left_s),
    "lsf": (("bjobs", "-WL", "{id}"), _lsf_left_s),
    "flux": (("flux", "job", "timeleft"), _flux_left_s),
}
"""What to ask and how to read the seconds that are left."""
