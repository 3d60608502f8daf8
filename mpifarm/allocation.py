"""Where am I: what the batch system says of the allocation around this process. Each system is a row of a table."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Allocation:
    """What was granted; empty strings outside any batch system."""

    system: str = ""
    id: str = ""

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


def find_allocation(environ: Mapping[str, str]) -> Allocation:
    """The allocation of this process."""
    for system, variable in _ID_VARIABLES:
        if environ.get(variable):
            return Allocation(system, environ[variable])
    return Allocation()
