"""Where an attempt runs and what it is told of it: its cores, its GPUs, its memory.

Each attempt is held to cores of its own. What runs for long is born there: the launcher goes to the cores, spawns, and
comes back, which costs 40 us; what ends within milliseconds is sent there as soon as it lives, which costs 3 us. (Its
first instructions may run elsewhere, so OMP_PLACES lists the cores.) Imports nothing heavy.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from mpifarm.core.launcher.launching import Running
from mpifarm.core.launcher.packing import Domain
from mpifarm.core.needs import MILLIS
from mpifarm.core.protocol.messages import Setup
from mpifarm.launch.environ import CPU_LIST, GPUS, MEM, Environment

_CPUS = Path("/sys/devices/system/cpu")
_OF_USERS = (b"OMP_PLACES", b"OMP_PROC_BIND", b"KMP_AFFINITY", b"GOMP_CPU_AFFINITY")
"""Who sets one of them where the run starts binds threads by himself."""
_VISIBLE = (b"CUDA_VISIBLE_DEVICES", b"ROCR_VISIBLE_DEVICES", b"ZE_AFFINITY_MASK")
_SEEN_AFTER = (b"HIP_VISIBLE_DEVICES", b"CUDA_VISIBLE_DEVICES", b"GPU_DEVICE_ORDINAL")
"""Under ROCm they count what ROCR_VISIBLE_DEVICES has left."""


class Places:
    """Of one node."""

    def __init__(self, setup: Setup, environ: Environment) -> None:
        self._cpus = setup.cpus
        self._all = frozenset(setup.cpus)
        self.pins = setup.pin
        self._names = [os.fsencode(name) for name in setup.gpus]
        self._variables = (os.fsencode(setup.gpu_variable),) if setup.gpu_variable else _VISIBLE
        self._others = _SEEN_AFTER if self._variables == (b"ROCR_VISIBLE_DEVICES",) else ()
        self._before = {name: environ[name] for name in (*self._variables, *self._others) if name in environ}
        self._binds = self.pins and not any(environ.get(name) for name in _OF_USERS)
        self._lists: dict[int, tuple[bytes, bytes, frozenset[int]]] = {}
        """By cores: as a list, as OMP_PLACES, as a set."""

    def tell(self, env: Environment, running: Running) -> None:
        """Put into `env` what is the attempt's own, over what was the last one's."""
        if self.pins:
            env[CPU_LIST], places, _ = self._listed(running.cores)
            if self._binds:
                env[b"OMP_PLACES"] = places
                env[b"OMP_PROC_BIND"] = b"close"
        needs = running.block.needs
        if needs.memory_bytes:
            env[MEM] = b"%d" % needs.memory_bytes
        else:
            env.pop(MEM, None)
        if self._names:
            self._tell_gpus(env, running.gpus[: max(1, needs.gpu_millis // MILLIS)] if needs.gpu_millis else ())

    def _tell_gpus(self, env: Environment, gpus: Sequence[int]) -> None:
        """Who asked for none sees what the run sees, as before: it may not be meant to use any."""
        for name in (GPUS, *self._variables, *self._others):
            env.pop(name, None)
        if gpus:
            names = env[GPUS] = b",".join([self._names[gpu] for gpu in gpus])
            env.update(dict.fromkeys(self._variables, names))
        else:
            env.update(self._before)

    def _listed(self, cores: int) -> tuple[bytes, bytes, frozenset[int]]:
        known = self._lists.get(cores)
        if known is None:
            if len(self._lists) >= 4096:
                self._lists.clear()
            cpus = [cpu for index, cpu in enumerate(self._cpus) if cores >> index & 1]
            words = [b"%d" % cpu for cpu in cpus]
            places = b",".join([b"{%s}" % word for word in words])
            known = self._lists[cores] = b",".join(words), places, frozenset(cpus)
        return known

    @contextmanager
    def born(self, running: Running) -> Iterator[None]:
        """What is spawned within begins on the attempt's cores."""
        if not self.pins:
            yield
            return
        try:
            os.sched_setaffinity(0, self._listed(running.cores)[2])
        except OSError:
            self.pins = False  # a core was taken from this node
        try:
            yield
        finally:
            if self.pins:
                os.sched_setaffinity(0, self._all)

    def send(self, pid: int, running: Running) -> None:
        """The process goes on on the attempt's cores."""
        if self.pins:
            try:
                os.sched_setaffinity(pid, self._listed(running.cores)[2])
            except OSError:
                pass  # it has ended already


def domains_of(cpus: Sequence[int], slots: int, folder: Path = _CPUS) -> tuple[Domain, ...]:
    """The first `slots` of these cores, as indices, by NUMA node and in it by last cache; none where that is one."""
    nodes: dict[str, dict[str, int]] = {}
    for index, cpu in enumerate(cpus[:slots]):
        node, cache = _numa_node(folder / f"cpu{cpu}"), _last_cache(folder / f"cpu{cpu}")
        caches = nodes.setdefault(node, {})
        caches[cache] = caches.get(cache, 0) | 1 << index
    found: tuple[Domain, ...] = tuple(
        (sum(caches.values()), tuple((mask, ()) for mask in caches.values()) if len(caches) > 1 else ())
        for caches in nodes.values()
    )
    return found if len(found) > 1 else tuple(found[0][1])


def _numa_node(cpu: Path) -> str:
    try:
        return next((name for name in os.listdir(cpu) if re.fullmatch(r"node\d+", name)), "")
    except OSError:
        return ""


def _last_cache(cpu: Path) -> str:
    try:
        return (cpu / "cache/index3/shared_cpu_list").read_text()
    except OSError:
        return ""
