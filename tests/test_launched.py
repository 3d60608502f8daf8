"""How many ranks a launcher says it started: whoever finds itself alone among several must say so."""

from __future__ import annotations

import pytest

from mpifarm.startup.launched import promised, speaks_in_vain

TOLD = {
    "PMI": ({"PMI_SIZE": "4"}, "PMI_RANK"),
    "Open MPI": ({"OMPI_COMM_WORLD_SIZE": "4"}, "OMPI_COMM_WORLD_RANK"),
    "Slurm": ({"SLURM_STEP_NUM_TASKS": "4"}, "SLURM_PROCID"),
    "Flux": ({"FLUX_JOB_SIZE": "4"}, "FLUX_TASK_RANK"),
    "JSM": ({"JSM_NAMESPACE_SIZE": "4"}, "JSM_NAMESPACE_RANK"),
    "PALS, one node": ({"PALS_LOCAL_SIZE": "4"}, "PALS_RANKID"),
    "PALS, four nodes": ({"PALS_LOCAL_SIZE": "1"}, "PALS_RANKID"),
    "ALPS": ({}, "ALPS_APP_PE"),
    "PMIx": ({}, "PMIX_RANK"),
}


@pytest.mark.parametrize("launcher", TOLD)
def test_every_launcher_is_heard_and_one_rank_explains(launcher: str) -> None:
    size, index = TOLD[launcher]
    told = [promised({**size, index: str(rank)}) for rank in range(4)]
    assert [one.rank for one in told] == [0, 1, 2, 3]
    assert all(one.ranks > 1 for one in told[1:])
    assert [one.explains for one in told if one.ranks > 1].count(True) == 1


def test_one_that_nobody_launched_is_alone() -> None:
    for environ in ({}, {"PMI_SIZE": "4"}, {"PMI_SIZE": "x", "PMI_RANK": "0"}, {"PMI_SIZE": "1", "PMI_RANK": "0"}):
        assert promised(environ) == (1, 0, True)


@pytest.mark.parametrize(
    ("environ", "library", "knows_pmix", "vain"),
    [
        ({"PMIX_NAMESPACE": "1", "PMIX_RANK": "0"}, "MPICH Version: 5.0.2", False, True),
        ({"PMIX_NAMESPACE": "1", "PMIX_RANK": "0"}, "MPICH Version: 4.2 of a site", True, False),
        ({"PMIX_NAMESPACE": "1", "PMI_RANK": "0", "PMI_SIZE": "4"}, "CRAY MPICH", False, False),
        ({"PMI_FD": "5", "PMI_RANK": "0", "HYDI_CONTROL_FD": "7"}, "MPICH Version: 5.0.2", False, False),
        ({"PMI_FD": "5", "PMI_RANK": "0", "HYDI_CONTROL_FD": "7"}, "Open MPI v5.0.11", True, True),
        ({"PMI_FD": "5", "PMI_RANK": "0", "PMI_HOSTNAME": "b"}, "Open MPI v5.0.11", True, True),
        ({"PMIX_NAMESPACE": "1", "PMIX_RANK": "0"}, "Open MPI v5.0.11", True, False),
        ({}, "MPICH Version: 5.0.2", False, False),
        ({}, "Open MPI v5.0.11", True, False),
    ],
)
def test_a_launcher_of_another_protocol(environ: dict[str, str], library: str, knows_pmix: bool, vain: bool) -> None:
    assert speaks_in_vain(environ, library, knows_pmix) is vain
