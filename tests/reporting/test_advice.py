"""The next command to type."""

from __future__ import annotations

import pytest

from mpifarm.show.next_command import dsn_words, next_step, run_command
from tests.reporting.rows import a_job, a_run


@pytest.mark.parametrize(
    ("environ", "mpiexec", "srun", "expected"),
    [
        ({}, True, False, "mpiexec -n 4 mpifarm run"),
        ({}, True, True, "mpiexec -n 4 mpifarm run     (in a batch job: srun mpifarm run)"),
        ({}, False, False, "mpifarm run --local 4"),
        ({"SLURM_JOB_ID": "1"}, True, True, "srun mpifarm run"),
        ({"FLUX_JOB_ID": "f1"}, True, False, "flux run mpifarm run"),
    ],
)
def test_how_to_start_a_run(environ: dict[str, str], mpiexec: bool, srun: bool, expected: str) -> None:
    assert run_command(environ, mpiexec=mpiexec, srun=srun, cores=4) == expected


def test_what_comes_next() -> None:
    def after(live: bool = False, **counts: object) -> str:
        return next_step(a_job(**counts), [a_run(live=live)], "RUN")

    assert after(pending=100) == "RUN"
    assert after(pending=99, failed=1) == "RUN"
    assert after(live=True, pending=99, failed=1) == "mpifarm tasks scan --state failed"
    assert after(live=True, pending=100, state="running") == "mpifarm report scan"
    assert after(pending=100, held=True) == "mpifarm report scan"
    assert after(succeeded=100, state="succeeded") == "mpifarm report scan --tasks 1-100"


def test_a_queue_named_by_option_is_named_again_but_no_password() -> None:
    assert dsn_words(None) == ""
    assert dsn_words("host=db dbname=farm") == " --dsn 'host=db dbname=farm'"
    assert dsn_words("postgresql://ann:secret@db/farm") == " --dsn ..."
    run = run_command({}, mpiexec=True, srun=True, cores=2, dsn=" --dsn D")
    assert run == "mpiexec -n 2 mpifarm run --dsn D     (in a batch job: srun mpifarm run --dsn D)"
    assert next_step(a_job(state="failed", failed=1), [], run, " --dsn D").endswith("--state failed --dsn D")
