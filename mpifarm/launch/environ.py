"""The environment of a task: what the farm's own launch left in it is taken out, what names the task is put in.

A task that finds the variables of the rank's MPI launch believes it is a rank: a program linked with MPI then fails or
hangs in MPI_Init, and a nested mpiexec or srun waits for ever. So what mpiexec, prterun, srun and their like set for
one process is taken out; settings of the user (OMPI_MCA_x, MPIR_CVAR_x, ...) and of the allocation stay.

Under Slurm a task sees what the batch script of a job would see that has one node, one process and the task's cores;
and an srun or mpiexec in it starts its ranks on the node of the task, beside the farm's own step, which holds all cores
and all memory. Pure tables over bytes: imports nothing of the package.
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
    b"SLURM_STEP", b"SLURM_SRUN_", b"SLURM_PMI", b"SLURM_CPU_BIND", b"SLURM_MEM_BIND", b"SLURM_GPU_BIND",
    b"SLURM_TOPOLOGY_ADDR", b"SLURM_NTASKS", b"SLURM_TASKS_PER_", b"SLURM_CPUS_PER_", b"SLURM_GPUS_PER_TASK",
    b"SLURM_MEM_PER_", b"SLURM_TRES_", b"SRUN_",
)  # fmt: skip
_STEP_NAMES = frozenset(
    (b"SLURM_PROCID", b"SLURM_LOCALID", b"SLURM_NODEID", b"SLURM_GTIDS", b"SLURM_TASK_PID", b"SLURM_DISTRIBUTION",
     b"SLURM_LAUNCH_NODE_IPADDR", b"SLURM_UMASK", b"SLURM_NPROCS", b"SLURM_EXACT", b"SLURM_EXCLUSIVE", b"SLURM_WHOLE",
     b"SLURM_HOSTFILE")
)  # fmt: skip
_OF_SLURM = {
    b"SLURM_NNODES": b"1", b"SLURM_JOB_NUM_NODES": b"1", b"SLURM_NODEID": b"0",
    b"SLURM_NTASKS": b"1", b"SLURM_NPROCS": b"1", b"SLURM_PROCID": b"0", b"SLURM_LOCALID": b"0",
    # For an srun in a task: one core for each process, and all the memory of the job, which it shares with the farm.
    b"SRUN_CPUS_PER_TASK": b"1", b"SLURM_MEM_PER_NODE": b"0",
}  # fmt: skip
# An mpiexec in a task asks no batch system for hosts, nor to start anything there. Of: MPICH, Intel, Open MPI 4 and 5.
_ALLOCATIONS = (b"SLURM_JOB_ID", b"PBS_JOBID", b"LSB_JOBID", b"COBALT_JOBID", b"PE_HOSTFILE")
_ON_THIS_NODE = {
    b"HYDRA_LAUNCHER": b"fork", b"HYDRA_RMK": b"user", b"I_MPI_HYDRA_BOOTSTRAP": b"fork",
    b"OMPI_MCA_plm": b"^slurm,tm,lsf", b"OMPI_MCA_ras": b"^slurm,tm,lsf,gridengine",
    b"PRTE_MCA_plm": b"^slurm,tm,lsf", b"PRTE_MCA_ras": b"^slurm,pbs,lsf,gridengine",
}  # fmt: skip


def scrubbed(environ: Mapping[bytes, bytes]) -> Environment:
    """`environ` without the variables of this process's own MPI launch, fit for ordinary tasks."""
    clean = {name: value for name, value in environ.items() if not _of_this_process(name)}
    if b"HYDI_CONTROL_FD" in environ or b"PMI_FD" in environ:
        clean.pop(b"GFORTRAN_UNBUFFERED_PRECONNECTED", None)  # hydra's too: each line of a Fortran task a write
    if any(name in clean for name in _ALLOCATIONS):
        clean = _ON_THIS_NODE | clean
    if b"SLURM_JOB_ID" in clean:
        clean |= _OF_SLURM
        # The farm's step holds all cores: an srun or mpiexec in a task would wait for them for ever.
        clean.setdefault(b"SLURM_OVERLAP", b"1")
    # A Python program that is killed has not lost what it printed.
    clean.setdefault(b"PYTHONUNBUFFERED", b"1")
    return clean


def slurm_hosts(environ: Mapping[bytes, bytes], processes: int) -> bytes:
    """What SLURM_HOSTFILE should hold for an srun to start up to so many processes on this node; empty: no need."""
    node = environ.get(b"SLURMD_NODENAME", b"")
    several = environ.get(b"SLURM_JOB_NUM_NODES", b"1") != b"1"
    return (node + b"\n") * processes if node and several else b""


def following_cpus(environ: Mapping[bytes, bytes]) -> tuple[bytes, ...]:
    """What besides CPUS tells a task how many cores it has. An OMP_NUM_THREADS that `run` itself was given wins."""
    threads = () if environ.get(b"OMP_NUM_THREADS") else (b"OMP_NUM_THREADS",)
    return (*threads, b"SLURM_CPUS_PER_TASK", b"SLURM_CPUS_ON_NODE") if b"SLURM_JOB_ID" in environ else threads


def _of_this_process(name: bytes) -> bool:
    if name.startswith(_OF_THE_LAUNCH) or name.startswith(_STEP_PREFIXES) or name in _STEP_NAMES:
        return True
    return name.startswith(_PROCESS_PREFIXES) and not name.startswith(_OF_USERS)


# What tells a task who it is. JOB, TASK and ATTEMPT also tell whose a process is that was left behind.
JOB, TASK, ATTEMPT = b"MPIFARM_JOB", b"MPIFARM_TASK", b"MPIFARM_ATTEMPT"
# Which launcher started it: see `mpifarm.launch.strays`.
LAUNCHER = b"MPIFARM_LAUNCHER"
CPU_LIST, GPUS, MEM = b"MPIFARM_CPU_LIST", b"MPIFARM_GPUS", b"MPIFARM_MEM"
ENTRY, CPUS, SLOT, NODE = b"MPIFARM_ENTRY", b"MPIFARM_CPUS", b"MPIFARM_SLOT", b"MPIFARM_NODE"

ENTRY_BYTES_MAX = 100 << 10
"""A longer entry is left out: one variable may not exceed 128 KiB, and all share one space with the arguments."""


def name_task(env: Environment, task: int, attempt: int, slot: int, entry: bytes) -> None:
    """Put the variables of one attempt into `env`, over those of the attempt before."""
    env[TASK] = b"%d" % task
    env[ATTEMPT] = b"%d" % attempt
    env[SLOT] = b"%d" % slot
    if len(entry) <= ENTRY_BYTES_MAX:
        env[ENTRY] = entry
    else:
        env.pop(ENTRY, None)
