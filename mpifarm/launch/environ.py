"""The environment of a task: what the farm's own launch left in it is taken out, what names the task is put in.

A task that finds the variables of the rank's MPI launch believes it is a rank: a program linked with MPI then fails or
hangs in MPI_Init, and a nested mpiexec or srun waits for ever. So what mpiexec, prterun, srun and their like set for
one process is taken out; settings of the user (OMPI_MCA_x, MPIR_CVAR_x, ...) and of the allocation stay. Pure tables
over bytes: imports nothing of the package.
"""

from __future__ import annotations

from collections.abc import Mapping

Environment = dict[bytes, bytes]

# Set for each process by: every PMI server; MPICH's and Intel's hydra; Open MPI 4 and 5; MVAPICH; Cray PALS, Flux,
# ALPS, IBM jsrun.
_PROCESS_PREFIXES = (
    b"PMI_", b"PMI2_", b"PMIX_",
    b"HYDI_", b"HYDRA_", b"MPI_LOCAL", b"I_MPI_HYDRA",
    b"OMPI_", b"OPAL_", b"ORTE_", b"PRTE_",
    b"MV2_COMM", b"MPISPAWN_",
    b"PALS_", b"FLUX_TASK", b"ALPS_APP_", b"JSM_",
)  # fmt: skip
_OF_USERS = (b"OMPI_MCA_", b"PRTE_MCA_", b"OMPI_ALLOW_RUN_AS_ROOT", b"PRTE_ALLOW_RUN_AS_ROOT")
# What looks like a setting of the user but comes from the launch.
_OF_THE_LAUNCH = (
    b"OMPI_MCA_ess", b"OMPI_MCA_orte_", b"OMPI_MCA_pmix", b"OMPI_MCA_initial_wdir", b"OMPI_MCA_num_procs",
    b"OMPI_MCA_cpu_type", b"OMPI_MCA_PREFIXES", b"OMPI_MCA_shmem_RUNTIME", b"OMPI_MCA_mpi_oversubscribe",
    b"OMPI_MCA_rmaps_ppr", b"PRTE_MCA_prte_ess", b"PRTE_MCA_ess", b"MPIR_CVAR_CH3_INTERFACE_HOSTNAME",
)  # fmt: skip
# srun's variables of one step and of one process in it; those of the allocation stay.
_STEP_PREFIXES = (
    b"SLURM_STEP", b"SLURM_SRUN_", b"SLURM_PMI", b"SLURM_CPU_BIND", b"SLURM_MEM_BIND", b"SLURM_TOPOLOGY_ADDR",
)  # fmt: skip
_STEP_NAMES = frozenset(
    (b"SLURM_PROCID", b"SLURM_LOCALID", b"SLURM_NODEID", b"SLURM_GTIDS", b"SLURM_TASK_PID", b"SLURM_DISTRIBUTION",
     b"SLURM_LAUNCH_NODE_IPADDR", b"SLURM_UMASK", b"SRUN_DEBUG")
)  # fmt: skip


def scrubbed(environ: Mapping[bytes, bytes]) -> Environment:
    """`environ` without the variables of this process's own MPI launch, fit for ordinary tasks."""
    clean = {name: value for name, value in environ.items() if not _of_this_process(name)}
    if b"HYDI_CONTROL_FD" in environ or b"PMI_FD" in environ:
        clean.pop(b"GFORTRAN_UNBUFFERED_PRECONNECTED", None)  # hydra's too: each line of a Fortran task a write
    if b"SLURM_JOB_ID" in clean:
        # The farm's step holds all cores: an srun or mpiexec in a task would wait for them for ever.
        clean.setdefault(b"SLURM_OVERLAP", b"1")
    return clean


def _of_this_process(name: bytes) -> bool:
    if name.startswith(_OF_THE_LAUNCH) or name.startswith(_STEP_PREFIXES) or name in _STEP_NAMES:
        return True
    return name.startswith(_PROCESS_PREFIXES) and not name.startswith(_OF_USERS)


# What tells a task who it is. JOB, TASK and ATTEMPT also tell whose a process is that was left behind.
JOB, TASK, ATTEMPT = b"MPIFARM_JOB", b"MPIFARM_TASK", b"MPIFARM_ATTEMPT"
ENTRY, CPUS, SLOT, NODE = b"MPIFARM_ENTRY", b"MPIFARM_CPUS", b"MPIFARM_SLOT", b"MPIFARM_NODE"

ENTRY_BYTES_MAX = 100 << 10
"""A longer entry is left out: one variable may not exceed 128 KiB, and all share one space with the arguments."""


def name_task(env: Environment, task: int, attempt: int, cpus: int, slot: int, entry: bytes) -> None:
    """Put the variables of one attempt into `env`, over those of the attempt before."""
    env[TASK] = b"%d" % task
    env[ATTEMPT] = b"%d" % attempt
    env[CPUS] = b"%d" % cpus
    env[SLOT] = b"%d" % slot
    if len(entry) <= ENTRY_BYTES_MAX:
        env[ENTRY] = entry
    else:
        env.pop(ENTRY, None)
