"""Tasks that need memory, GPUs, resources and cores: never more at once than the run offers."""

from __future__ import annotations

import json
import os
import sys
from collections import Counter
from itertools import combinations
from typing import Any

import pytest

from tests.fix_farm import Farm

pytestmark = [pytest.mark.postgres, pytest.mark.mpi_outside]

TASK = """
import json, os, time
began = time.monotonic()
names = "MPIFARM_GPUS CUDA_VISIBLE_DEVICES MPIFARM_MEM MPIFARM_CPU_LIST MPIFARM_CPUS OMP_PLACES"
seen = {name: os.environ.get(name) for name in names.split()} | {"affinity": sorted(os.sched_getaffinity(0))}
time.sleep(0.15)
print(json.dumps(seen | {"began": began, "ended": time.monotonic()}))
"""


def seen_by(farm: Farm) -> list[dict[str, Any]]:
    return [json.loads(farm.output(str(task["task"]))) for task in farm.tasks()]


def beside(tasks: list[dict[str, Any]]) -> list[tuple[dict[str, Any], dict[str, Any]]]:
    return [(a, b) for a, b in combinations(tasks, 2) if a["began"] < b["ended"] and b["began"] < a["ended"]]


def test_what_is_offered_is_never_given_twice(farm: Farm) -> None:
    (farm.cwd / "task.py").write_text(TASK)
    line = f"{sys.executable} task.py"
    lines = ["#MPIFARM --mem 400M", *[line] * 4, "#MPIFARM --mem 0 --gpus 1", *[line] * 4, "#MPIFARM --gpus 0.5"]
    farm.submit([*lines, *[line] * 4, "#MPIFARM --gpus 0 --resource licence=1", *[line] * 3])
    farm.run("run", "--cpus", "6", "--mem", "1G", "--gpus", "2", "--resource", "licence=1", ranks=1)
    tasks = seen_by(farm)
    assert [task["MPIFARM_MEM"] for task in tasks] == [str(400 << 20)] * 4 + [None] * 11
    assert all(task["CUDA_VISIBLE_DEVICES"] == task["MPIFARM_GPUS"] for task in tasks[4:12])
    assert {task["MPIFARM_GPUS"] for task in tasks[4:8]} <= {"0", "1"}
    assert all(task["MPIFARM_GPUS"] is None for task in (*tasks[:4], *tasks[12:]))
    whole = [id(task) for task in tasks[4:8]]
    for one, other in beside(tasks):
        if one["MPIFARM_GPUS"] and one["MPIFARM_GPUS"] == other["MPIFARM_GPUS"]:
            assert id(one) not in whole and id(other) not in whole
    for task in tasks:
        at_once = [task, *(b if a is task else a for a, b in beside(tasks) if task in (a, b))]
        now = [other for other in at_once if other["began"] <= task["began"]]
        assert sum(int(other["MPIFARM_MEM"] or 0) for other in now) <= 1 << 30
        assert sum(other in tasks[12:] for other in now) <= 1
        shares = Counter(other["MPIFARM_GPUS"] for other in now if other in tasks[8:12])
        assert all(count <= 2 for count in shares.values())


def test_each_task_has_cores_of_its_own(farm: Farm) -> None:
    (farm.cwd / "task.py").write_text(TASK)
    cores = sorted(os.sched_getaffinity(0))
    farm.submit([f"{sys.executable} task.py"] * (3 * len(cores)))
    farm.run("run", ranks=1)
    tasks = seen_by(farm)
    assert {task["affinity"][0] for task in tasks} == set(cores)
    for task in tasks:
        (core,) = task["affinity"]
        assert (task["MPIFARM_CPU_LIST"], task["OMP_PLACES"]) == (str(core), f"{{{core}}}")
    assert not [pair for pair in beside(tasks) if pair[0]["affinity"] == pair[1]["affinity"]]
    farm.submit([f"{sys.executable} task.py"], "free")
    farm.run("run", "--no-pin", ranks=1)
    (task,) = [json.loads(farm.output("1", "free"))]
    assert task["affinity"] == cores and task["MPIFARM_CPU_LIST"] is None and task["OMP_PLACES"] is None


def test_what_no_node_has_is_named(farm: Farm) -> None:
    farm.submit(["#MPIFARM --mem 64G", "true", "#MPIFARM --mem 0 --gpus 3", "true", "#MPIFARM --gpus 0", "true"])
    _, said = farm.run("run", "--mem", "16G", "--gpus", "2", ranks=1)
    assert "2 tasks stay in the queue: they need more than a node offers" in said
    assert "16 GiB, 2 GPUs" in said
    process = farm.start("run", "--mem", "16G", "--gpus", "2", "--wait-for-work", "60s", ranks=1)
    try:
        from tests.fix_farm import wait_for

        def told() -> str:
            text = farm.run("explain", "job.1")[0].decode()
            return text if "wanted are" in text else ""

        assert "64 GiB of 16 GiB" in wait_for(told, "a live run")
        assert "3 GPUs of 2 GPUs" in farm.run("explain", "job.2")[0].decode()
        _, warned = farm.run("submit", "--mem", "32G", "--name", "more", "--", "true")
        assert "32 GiB of 16 GiB" in warned
    finally:
        process.terminate()
        process.wait(30)
