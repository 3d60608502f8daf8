"""What of the variables of a rank its tasks see. That a nested mpiexec and srun then end right was tried on a Slurm."""

from __future__ import annotations

from mpifarm.launch.environ import following_cpus, scrubbed, slurm_hosts

STEP = """
PMI_FD=11 PMI_JOBID=1.0 PMI_RANK=1 PMI_SIZE=2 SLURM_CPUS_ON_NODE=128 SLURM_CPUS_PER_TASK=128 SLURM_DISTRIBUTION=cyclic
SLURM_GTIDS=1 SLURM_JOB_CPUS_PER_NODE=128(x2) SLURM_JOB_ID=1 SLURM_JOB_NODELIST=mf[1-2] SLURM_JOB_NUM_NODES=2
SLURM_LOCALID=0 SLURM_MEM_PER_CPU=100 SLURM_MPI_TYPE=pmi2 SLURM_NNODES=2 SLURM_NODEID=1 SLURM_NODELIST=mf[1-2]
SLURM_NPROCS=2 SLURM_NTASKS=2 SLURM_NTASKS_PER_NODE=1 SLURM_PROCID=1 SLURM_STEPID=0 SLURM_STEP_ID=0
SLURM_STEP_NUM_TASKS=2 SLURM_TASKS_PER_NODE=1(x2) SLURM_TASK_PID=5059 SLURM_TRES_PER_TASK=cpu:128 SRUN_DEBUG=3
SRUN_CPUS_PER_TASK=128 SLURMD_NODENAME=mf2 SLURM_CONF=/etc/slurm.conf SLURM_GPUS_PER_TASK=8 SLURM_ACCOUNT=m1
"""
"""Of the second process of a step of two with 128 cores each."""


def environ(text: str) -> dict[bytes, bytes]:
    return {name.encode(): value.encode() for name, _, value in (word.partition("=") for word in text.split())}


def test_of_a_step_of_slurm_nothing_is_left_that_is_not_the_tasks_own() -> None:
    clean = {name.decode(): value.decode() for name, value in scrubbed(environ(STEP)).items() if b"S" in name[:1]}
    kept = ("SLURM_JOB_CPUS_PER_NODE", "SLURM_JOB_ID", "SLURM_JOB_NODELIST", "SLURM_NODELIST", "SLURM_MPI_TYPE")
    assert {name for name, value in environ(STEP).items() if clean.get(name.decode()) == value.decode()} == {
        name.encode() for name in (*kept, "SLURM_CONF", "SLURM_ACCOUNT", "SLURMD_NODENAME", "SLURM_CPUS_ON_NODE",
                                   "SLURM_LOCALID")
    }  # fmt: skip
    own = {name: value for name, value in clean.items() if environ(STEP).get(name.encode()) != value.encode()}
    assert own == {
        "SLURM_JOB_NUM_NODES": "1", "SLURM_NNODES": "1", "SLURM_NODEID": "0", "SLURM_NTASKS": "1", "SLURM_NPROCS": "1",
        "SLURM_PROCID": "0", "SRUN_CPUS_PER_TASK": "1", "SLURM_MEM_PER_NODE": "0", "SLURM_OVERLAP": "1",
    }  # fmt: skip
    following = following_cpus(environ(STEP))
    assert following == (b"OMP_NUM_THREADS", b"SLURM_CPUS_PER_TASK", b"SLURM_CPUS_ON_NODE")
    assert slurm_hosts(environ(STEP), 3) == b"mf2\n" * 3


def test_an_mpiexec_of_a_task_stays_on_its_node() -> None:
    for allocation in ("SLURM_JOB_ID=1", "PBS_JOBID=1", "LSB_JOBID=1", "COBALT_JOBID=1", "PE_HOSTFILE=/x"):
        clean = scrubbed(environ(f"{allocation} HYDRA_LAUNCHER=ssh PRTE_MCA_plm=ssh"))
        assert (clean[b"HYDRA_LAUNCHER"], clean[b"HYDRA_RMK"]) == (b"fork", b"user"), allocation
        assert clean[b"PRTE_MCA_plm"] == b"ssh", "the user's own setting"
        assert b"slurm" in clean[b"PRTE_MCA_ras"] and b"slurm" in clean[b"OMPI_MCA_plm"]


def test_elsewhere_little_is_added() -> None:
    assert scrubbed(environ("PATH=/bin PMI_RANK=0")) == environ("PATH=/bin PYTHONUNBUFFERED=1")
    assert scrubbed(environ("PYTHONUNBUFFERED=0")) == environ("PYTHONUNBUFFERED=0")
    assert following_cpus(environ("OMP_NUM_THREADS=4")) == ()
    assert slurm_hosts(environ("SLURM_JOB_ID=1 SLURM_JOB_NUM_NODES=1 SLURMD_NODENAME=mf1"), 3) == b""
