"""What a node has besides cores: memory and GPUs, as this process sees them and may use them.

Memory: the least of what the control group, Slurm and the machine allow, less a reserve for the farm and the system.
GPUs: what a visibility variable lists; else what the vendor's tool lists; else the devices there are. The tool is run
before MPI is started, and only where there are devices.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from mpifarm.errors import SiteError

RESERVE_SHARE, RESERVE_BYTES_MAX = 16, 2 << 30
"""Of a node's memory a sixteenth, and no more than that, is not offered to tasks."""
TOOL_TIMEOUT_S = 15.0

_VISIBLE = ("CUDA_VISIBLE_DEVICES", "ROCR_VISIBLE_DEVICES", "ZE_AFFINITY_MASK")
_LOCAL_RANKS = ("SLURM_LOCALID", "OMPI_COMM_WORLD_LOCAL_RANK", "MPI_LOCALRANKID", "PALS_LOCAL_RANKID")
_TOOLS = {
    "CUDA_VISIBLE_DEVICES": ("dev/nvidiactl", ("nvidia-smi", "-L"), re.compile(r"^GPU (\d+):", re.MULTILINE)),
    "ROCR_VISIBLE_DEVICES": ("dev/kfd", ("rocm-smi", "--showid"), re.compile(r"^GPU\[(\d+)\]", re.MULTILINE)),
}
"""For each kind: what shows that there is any, what to ask, and how to read the answer."""
_DEVICES = {
    "CUDA_VISIBLE_DEVICES": ("dev", re.compile(r"nvidia\d+")),
    "ROCR_VISIBLE_DEVICES": ("dev/dri", re.compile(r"renderD\d+")),
}
_ROOT = Path("/")


class Offer(NamedTuple):
    """What one rank sees."""

    memory_bytes: int = 0
    gpus: tuple[str, ...] = ()
    """As the variable names them."""
    gpu_variable: str = ""
    """By which a task is told which are its own; empty: not known."""


NOTHING = Offer()


def find_offer(environ: Mapping[str, str], *, root: Path = _ROOT) -> Offer:
    """Looks at what this process may use. `root`: where /proc, /sys and /dev are."""
    memory = _memory_bytes(environ, root)
    gpus, variable = _gpus(environ, root)
    return Offer(memory - min(memory // RESERVE_SHARE, RESERVE_BYTES_MAX), gpus, variable)


def _memory_bytes(environ: Mapping[str, str], root: Path) -> int:
    page = os.sysconf("SC_PAGE_SIZE")
    found = [page * os.sysconf("SC_PHYS_PAGES"), *_group_limits(root)]
    per_node, per_cpu = environ.get("SLURM_MEM_PER_NODE", ""), environ.get("SLURM_MEM_PER_CPU", "")
    cpus = re.match(r"\d+", environ.get("SLURM_JOB_CPUS_PER_NODE", ""))
    if per_node.isdigit():
        found.append(int(per_node) << 20)
    elif per_cpu.isdigit() and cpus:
        found.append(int(per_cpu) * int(cpus[0]) << 20)
    return min(size for size in found if size > 0)


def _group_limits(root: Path) -> list[int]:
    """Gathers what the control groups of this process, versions 1 and 2, allow, up to their roots."""
    limits: list[int] = []
    try:
        lines = (root / "proc/self/cgroup").read_text().splitlines()
    except OSError:
        return limits
    for line in lines:
        number, controllers, path = line.split(":", 2)
        if number == "0":
            top, name = root / "sys/fs/cgroup", "memory.max"
        elif "memory" in controllers.split(","):
            top, name = root / "sys/fs/cgroup/memory", "memory.limit_in_bytes"
        else:
            continue
        group = top / path.lstrip("/")
        for folder in (group, *group.parents):
            try:
                text = (folder / name).read_text().strip()
            except OSError:
                text = ""
            if text.isdigit():
                limits.append(int(text))
            if folder == top:
                break
    return limits


def _gpus(environ: Mapping[str, str], root: Path) -> tuple[tuple[str, ...], str]:
    for variable in _VISIBLE:
        if variable in environ:
            return _listed(environ[variable]), variable
    there = _devices(root)
    for variable in ("SLURM_STEP_GPUS", "SLURM_JOB_GPUS"):
        if environ.get(variable):
            return _listed(environ[variable]), there[1]
    if any(environ.get(name, "0") != "0" for name in _LOCAL_RANKS):
        return (), ""  # the first rank of the node sees to it
    for variable, (device, argv, line) in _TOOLS.items():
        if (root / device).exists() and (found := _asked(argv, line)):
            return found, variable
    return there


def _listed(text: str) -> tuple[str, ...]:
    names = [name.strip() for name in text.split(",")]
    return tuple(name for name in names if name and name not in ("-1", "NoDevFiles"))


def _asked(argv: Sequence[str], line: re.Pattern[str]) -> tuple[str, ...]:
    from mpifarm.process import run_program

    try:
        said = run_program(list(argv), timeout_s=TOOL_TIMEOUT_S).decode(errors="replace")
    except SiteError:
        return ()
    return tuple(dict.fromkeys(line.findall(said)))


def _devices(root: Path) -> tuple[tuple[str, ...], str]:
    for variable, (folder, name) in _DEVICES.items():
        if variable != "ROCR_VISIBLE_DEVICES" or (root / "dev/kfd").exists():
            try:
                count = sum(1 for entry in os.listdir(root / folder) if name.fullmatch(entry))
            except OSError:
                count = 0
            if count:
                return tuple(map(str, range(count))), variable
    return (), ""
