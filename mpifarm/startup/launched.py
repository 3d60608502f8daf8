"""What started this process as one of several ranks, by the variables it left. Tables; imports nothing heavy."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

_SIZED = (
    ("OMPI_COMM_WORLD_SIZE", "OMPI_COMM_WORLD_RANK"),
    ("PMI_SIZE", "PMI_RANK"),
    ("JSM_NAMESPACE_SIZE", "JSM_NAMESPACE_RANK"),
    ("FLUX_JOB_SIZE", "FLUX_TASK_RANK"),
    ("SLURM_STEP_NUM_TASKS", "SLURM_PROCID"),
)
_INDEXED = (("PALS_LOCAL_SIZE", "PALS_RANKID"), ("", "ALPS_APP_PE"), ("", "PMIX_RANK"))
"""Launchers that say no size, or only that of the node: there are at least so many, and one more than the index."""

PMIX = "PMIX_NAMESPACE"
"""Set by launchers that speak PMIx (prterun, srun --mpi=pmix)."""
_HYDRA = ("HYDI_CONTROL_FD", "PMI_HOSTNAME")
"""Set by hydra, the mpiexec of MPICH; the first only on its own host."""
_PMI = ("PMI_FD", "PMI_PORT", "PMI_RANK", "PMI_SIZE")


class Promised(NamedTuple):
    """Ranks that were started, at least; which of them this is; whether it is the one to explain what is wrong."""

    ranks: int
    rank: int
    explains: bool


def promised(environ: Mapping[str, str]) -> Promised:
    """What the launcher of this process says; one rank when none speaks."""
    for size, index in _SIZED:
        if _number(environ, size) is not None and (number := _number(environ, index)) is not None:
            return Promised(int(environ[size]), number, number == 0)
    for local, index in _INDEXED:
        if (number := _number(environ, index)) is not None:
            here = _number(environ, local) or 1
            # The first of those who know: where one is on each node, rank 0 cannot.
            return Promised(max(here, number + 1), number, number == (0 if here > 1 else 1))
    return Promised(1, 0, True)


def by_hydra(environ: Mapping[str, str]) -> bool:
    return any(name in environ for name in _HYDRA)


def has_parent(environ: Mapping[str, str]) -> bool:
    """Whether the parent of this process is such a launcher, whose death is that of all it started: also of a single
    rank, where it is plain that it was started as one."""
    return promised(environ).ranks > 1 or by_hydra(environ) or PMIX in environ


def speaks_in_vain(environ: Mapping[str, str], library: str, knows_pmix: bool) -> bool:
    """Whether the launcher speaks a protocol that this MPI library (by its name) does not: it would abort, or N ranks
    be N worlds of one."""
    if library.startswith("Open MPI"):
        return by_hydra(environ) and PMIX not in environ
    return PMIX in environ and not knows_pmix and not any(name in environ for name in _PMI)


def _number(environ: Mapping[str, str], name: str) -> int | None:
    text = environ.get(name, "")
    return int(text) if text.isascii() and text.isdigit() else None
