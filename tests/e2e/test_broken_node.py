"""Two nodes, one of them broken: it ends tasks fastest and would be dealt most."""

from __future__ import annotations

import pytest

from tests.fix_farm import Farm

pytestmark = [pytest.mark.postgres, pytest.mark.mpi_outside]

TWO_NODES = {"MPIR_CVAR_NUM_CLIQUES": "2"}  # MPICH pretends


def test_what_fails_on_a_broken_node_succeeds_on_the_other(farm: Farm) -> None:
    farm.submit(["case $MPIFARM_NODE in *.1) exit 1;; esac; sleep 0.1"] * 60, "job", "--retries", "3")
    _, said = farm.run("run", "--cpus", "4", ranks=4, environ=TWO_NODES)
    tasks = farm.tasks()
    assert [task["state"] for task in tasks] == ["succeeded"] * 60
    assert max(task["attempts"] for task in tasks) <= 3  # the second one elsewhere, or a probe
    assert said.count("suspected to be broken") <= 1


def test_a_job_that_fails_everywhere_is_not_blamed_on_nodes(farm: Farm) -> None:
    farm.submit(["exit 1"] * 200, "job", "--retries", "1")
    _, said = farm.run("run", "--cpus", "4", ranks=4, environ=TWO_NODES, code=None)
    assert {(task["state"], task["attempts"]) for task in farm.tasks()} == {("failed", 2)}
    assert "suspected" not in said and "left out" not in said
