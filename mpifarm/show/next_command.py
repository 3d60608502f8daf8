"""The next command to type, said at the end of `submit` and `report`.

Pure: what the machine offers is passed in. Must never import click, psycopg or h5py.
"""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from mpifarm.server.dsn import Dsn

if TYPE_CHECKING:
    from mpifarm.queue.client import JobSummary, RunLine

_INSIDE = {"SLURM_JOB_ID": "srun mpifarm run", "FLUX_JOB_ID": "flux run mpifarm run"}
"""Inside an allocation of these batch systems, what starts a rank per granted task. PBS and LSF use mpiexec."""


def run_command(environ: Mapping[str, str], *, mpiexec: bool, srun: bool, cores: int, dsn: str = "") -> str:
    """How a run is started from here. `cores`: those this process may use; `dsn`: from `dsn_words`."""
    for variable, command in _INSIDE.items():
        if variable in environ:
            return command + dsn
    if not mpiexec:
        return f"mpifarm run --local {cores}{dsn}"
    here = f"mpiexec -n {cores} mpifarm run{dsn}"
    return f"{here}     (in a batch job: srun mpifarm run{dsn})" if srun else here


def dsn_words(option: str | None) -> str:
    """What to add to a command when the queue was named by --dsn; a password is not repeated on the screen."""
    if option is None:
        return ""
    shown = Dsn(option, "--dsn")
    return f" --dsn {shlex.quote(option)}" if str(shown).startswith(option) else " --dsn ..."


def next_step(job: JobSummary, runs: Sequence[RunLine], run: str, dsn: str = "") -> str:
    """What a person who looked at this job will most likely want to type."""
    if job.pending and not job.held and not any(line.live for line in runs):
        return run
    if job.failed:
        return f"mpifarm tasks {job.name} --state failed{dsn}"
    if job.state == "succeeded":
        return f"mpifarm report {job.name} --tasks 1-{job.total}{dsn}"
    return f"mpifarm report {job.name}{dsn}"
