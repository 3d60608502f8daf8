"""A node offers what its group, its batch system and its devices let it use."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from mpifarm.core.roles import assign
from mpifarm.rank.nodes import NodeTerms, RankHello, node_shapes, room_of_all
from mpifarm.rank.offers import Offer, find_offer

GIB = 1 << 30
PHYSICAL = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def made(root: Path, files: dict[str, str]) -> Path:
    for name, text in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return root


@pytest.mark.parametrize(
    ("files", "environ", "memory"),
    [
        ({}, {}, PHYSICAL),
        ({"proc/self/cgroup": "0::/job/step\n", "sys/fs/cgroup/job/memory.max": f"{GIB}\n"}, {}, GIB),
        ({"proc/self/cgroup": "0::/job\n", "sys/fs/cgroup/job/memory.max": "max\n"}, {}, PHYSICAL),
        (
            {
                "proc/self/cgroup": "4:memory,cpu:/j\n",
                "sys/fs/cgroup/memory/j/memory.limit_in_bytes": f"{GIB}",
            },
            {},
            GIB,
        ),
        ({}, {"SLURM_MEM_PER_NODE": "1024"}, GIB),
        ({}, {"SLURM_MEM_PER_NODE": "0"}, PHYSICAL),
        ({}, {"SLURM_MEM_PER_CPU": "256", "SLURM_JOB_CPUS_PER_NODE": "4(x2)"}, GIB),
    ],
)
def test_memory(tmp_path: Path, files: dict[str, str], environ: dict[str, str], memory: int) -> None:
    offer = find_offer(environ, root=made(tmp_path, files))
    assert offer.memory_bytes == memory - min(memory // 16, 2 * GIB)


@pytest.mark.parametrize(
    ("files", "environ", "gpus", "variable"),
    [
        ({}, {}, (), ""),
        ({}, {"CUDA_VISIBLE_DEVICES": "2,GPU-8a"}, ("2", "GPU-8a"), "CUDA_VISIBLE_DEVICES"),
        ({"dev/nvidia0": ""}, {"CUDA_VISIBLE_DEVICES": ""}, (), "CUDA_VISIBLE_DEVICES"),
        ({}, {"ROCR_VISIBLE_DEVICES": "0,1"}, ("0", "1"), "ROCR_VISIBLE_DEVICES"),
        ({}, {"ZE_AFFINITY_MASK": "0.0,0.1"}, ("0.0", "0.1"), "ZE_AFFINITY_MASK"),
        ({"dev/nvidia0": ""}, {"SLURM_JOB_GPUS": "3"}, ("3",), "CUDA_VISIBLE_DEVICES"),
        ({"dev/nvidia0": "", "dev/nvidia1": "", "dev/nvidia-uvm": ""}, {}, ("0", "1"), "CUDA_VISIBLE_DEVICES"),
        ({"dev/kfd": "", "dev/dri/renderD128": ""}, {}, ("0",), "ROCR_VISIBLE_DEVICES"),
        ({"dev/dri/renderD128": ""}, {}, (), ""),
    ],
)
def test_gpus(
    tmp_path: Path, files: dict[str, str], environ: dict[str, str], gpus: tuple[str, ...], variable: str
) -> None:
    offer = find_offer(environ, root=made(tmp_path, files))
    assert (offer.gpus, offer.gpu_variable) == (gpus, variable)


def test_the_vendors_tool_is_asked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tool = made(
        tmp_path, {"bin/nvidia-smi": "#!/bin/sh\necho 'GPU 0: A100 (UUID: GPU-1)'; echo 'GPU 1: A100 (UUID: GPU-2)'\n"}
    )
    (tool / "bin/nvidia-smi").chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}:{os.environ['PATH']}")
    root = made(tmp_path / "root", {"dev/nvidiactl": ""})
    assert find_offer({}, root=root).gpus == ("0", "1")
    assert find_offer({"SLURM_LOCALID": "1"}, root=root).gpus == ()


def hello(host: str, *cpus: int, offer: Offer) -> RankHello:
    return RankHello(host, cpus, ("1", 1), "", False, 1 << 20, offer)


def test_ranks_of_a_node_add_up_and_groups_on_a_host_share() -> None:
    first = hello("a", 0, 1, offer=Offer(8 * GIB, ("0",), "CUDA_VISIBLE_DEVICES"))
    second = hello("a", 1, 2, offer=Offer(8 * GIB, ("1",), "CUDA_VISIBLE_DEVICES"))
    (node,), _ = node_shapes(assign([0, 0]), [first, second])
    assert (node.cpus, node.gpus, node.memory_bytes, node.pin) == ((0, 1, 2), ("0", "1"), 8 * GIB, True)
    both, _ = node_shapes(assign([0, 1]), [first, second])
    assert [(shape.memory_bytes, shape.pin) for shape in both] == [(4 * GIB, False)] * 2  # four slots on three cores
    both, _ = node_shapes(assign([0, 1]), [first, second], NodeTerms(cpus=1))
    assert [shape.cpus[: shape.slots] for shape in both] == [(0,), (1,)] and all(shape.pin for shape in both)


def test_what_is_asked_wins() -> None:
    found = [hello("a", 0, 1, 2, 3, offer=Offer(8 * GIB, ("4", "5"), "ROCR_VISIBLE_DEVICES"))]
    terms = NodeTerms(None, GIB, 1, (("licence", 4000),), reserve_cores=1, pin=False)
    (node,), _ = node_shapes(assign([0]), found, terms)
    assert (node.slots, node.memory_bytes, node.gpus, node.pin) == (3, GIB, ("4",), False)
    assert dict(node.room.resources)["licence"] == 4000
    (node,), _ = node_shapes(assign([0]), found, NodeTerms(gpus=3))
    assert node.gpus == ("0", "1", "2")


def test_unlike_nodes_offer_what_each_has() -> None:
    shapes, _ = node_shapes(
        assign([0, 1]), [hello("a", 0, offer=Offer(GIB, ("0",))), hello("b", 0, 1, offer=Offer(2 * GIB))]
    )
    assert room_of_all(shapes)._replace(resources=()) == shapes[0].room._replace(cpus=2, gpu_millis=0, resources=())
