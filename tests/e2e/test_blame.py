"""Who is charged when a node's launcher goes down: what ran there, and after a second time only who did it."""

from __future__ import annotations

import pytest

from tests.fix_farm import Farm

pytestmark = [pytest.mark.postgres, pytest.mark.mpi_outside]

TOGETHER = "test $MPIFARM_ATTEMPT -gt 2 || "
BESIDE = f"touch begun-$MPIFARM_TASK.$MPIFARM_ATTEMPT; {TOGETHER} sleep 1000; echo $MPIFARM_TASK"
CULPRIT = (
    f"{TOGETHER} until test $(ls begun-*.$MPIFARM_ATTEMPT | wc -l) = 7; do sleep 0.05; done; kill -9 $PPID; sleep 9"
)
NO_NODE = 3


def test_one_task_that_takes_its_launcher_down_fails_alone(farm: Farm) -> None:
    farm.submit([BESIDE] * 7 + [CULPRIT] + ["echo $MPIFARM_TASK"] * 12)
    for _ in range(5):
        out, said = farm.run("run", "--cpus", "8", ranks=1, code=NO_NODE)
        assert "its launcher ended" in said
    farm.run("run", "--cpus", "8", "--exit-code", ranks=1)
    counts = farm.report()["tasks"]
    assert (counts["succeeded"], counts["failed"]) == (19, 1), out
    assert farm.output("1-7,9-20") == b"".join(b"%d\n" % task for task in range(1, 21) if task != 8)
    # 9 to 20 were dealt in each of these runs and had not begun: nobody speaks of a loss.
    assert "lost" not in farm.run("explain", "job.20")[0].decode()
    innocent, culprit = (farm.run("explain", f"job.{task}")[0].decode().splitlines() for task in (3, 8))
    assert sum("lost with its node, and with it job.1-2, job.4-8" in line for line in innocent) == 2
    assert sum("lost with its node, and with it job.1-7" in line for line in culprit) >= 2  # later with untold ends
    assert sum("lost with its node" in line for line in culprit) == 4
    assert "it was lost with 5 nodes" in culprit[-1]
    farm.run("verify")
