"""What listens while `mpifarm run --local` runs: nothing that other machines could talk to but mpiexec's own port."""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path

import pytest

from tests.fix_farm import Farm, wait_for
from tests.launch.node import tree

pytestmark = [pytest.mark.postgres, pytest.mark.mpi_outside]

_LISTENS = "0A"
_LOOPBACK = ("0100007F", "00000000000000000000000001000000")
_TABLES = ("tcp", "tcp6", "udp", "udp6")


def sockets(pid: int) -> set[str]:
    """Those of a process; none when it has ended."""
    links = []
    with suppress(FileNotFoundError, ProcessLookupError):
        for fd in Path(f"/proc/{pid}/fd").iterdir():
            with suppress(FileNotFoundError):
                links.append(os.readlink(fd))
    return {link for link in links if link.startswith("socket:")}


def listening(pid: int) -> dict[str, str]:
    """Address by socket, of those of a process that wait for others."""
    found, own = {}, sockets(pid)
    for table in _TABLES:
        for line in Path(f"/proc/self/net/{table}").read_text().splitlines()[1:]:
            fields = line.split()
            waits = fields[3] == _LISTENS or table.startswith("udp")
            if waits and f"socket:[{fields[9]}]" in own:
                found[f"socket:[{fields[9]}]"] = fields[1].partition(":")[0]
    return found


@pytest.mark.parametrize("netmod", ["ucx", "ofi"])
def test_ranks_of_a_local_run_listen_on_loopback_only(farm: Farm, netmod: str) -> None:
    """Whatever MPI moves its messages with. A task finds none of what was set for that."""
    farm.submit(["env | grep -c -E '^(UCX_NET|FI_|MPIFARM_LOCAL)'; touch begun; until test -e go; do sleep 0.05; done"])
    run = farm.start("run", "--local", "2", "--cpus", "1", environ={"MPIR_CVAR_CH4_NETMOD": netmod})
    wait_for((farm.cwd / "begun").exists, "a task", 60)
    of_mpiexec = listening(run.pid)
    seen: list[str] = []
    for pid in tree(run.pid):
        seen += [address for socket, address in listening(pid).items() if socket not in of_mpiexec]
    (farm.cwd / "go").touch()
    farm.finish(run)
    assert len(seen) >= 2 and set(seen) <= set(_LOOPBACK)
    assert farm.output("1") == b"0\n"
