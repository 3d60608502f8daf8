"""`mpifarm run --local N`: starts mpiexec itself, on a laptop or one node. Becomes mpiexec; nothing is left between."""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import MutableMapping
from pathlib import Path

from mpifarm.errors import FarmError, SiteError, UsageError
from mpifarm.process import run_program
from mpifarm.startup.handed_down import DSN, LOCAL, take_option
from mpifarm.startup.own_process import own_command

NO_MPIEXEC = """no mpiexec found, neither beside {python} nor on PATH
  pip install 'mpifarm[local]' brings MPICH with its mpiexec; on a cluster load the site's MPI module"""

_FOR_MPI = {
    # More ranks than cores is what a laptop run often is; Open MPI (4 and 5) wants that said.
    "OMPI_MCA_rmaps_base_oversubscribe": "1",
    "PRTE_MCA_rmaps_default_mapping_policy": "slot:oversubscribe",
    # Ranks of one machine listen to nobody else: UCX and libfabric, below MPICH or Open MPI; Open MPI itself.
    "UCX_NET_DEVICES": "lo",
    "FI_TCP_IFACE": "lo",
    "FI_SOCKETS_IFACE": "lo",
    "OMPI_MCA_btl": "^tcp",
}


def run_local(argv: list[str]) -> int:
    """Replace this process by `mpiexec -n N mpifarm run ...`; returns only when that is impossible."""
    try:
        ranks, rest = _split(argv)
        mpiexec = find_mpiexec()
        if mpiexec is None:
            raise SiteError(NO_MPIEXEC.format(python=sys.executable))
    except FarmError as error:
        print(f"mpifarm: {error}", file=sys.stderr)
        return error.exit_code
    _set_for_mpi(os.environ)
    os.execv(mpiexec, [mpiexec, "-n", str(ranks), *_deaf(), *own_command("run", *rest)])


def _set_for_mpi(environ: MutableMapping[str, str]) -> None:
    """What a user has set stays; tasks inherit none of the rest."""
    added = {name: value for name, value in _FOR_MPI.items() if name not in environ}
    environ.update(added)
    environ[LOCAL] = ",".join(added)


def _deaf() -> list[str]:
    """What starts a rank with SIGINT held back until it is ready to hear it, quietly: Python's own start is not."""
    env = shutil.which("env")
    if env is None:
        return []
    command = [env, "--block-signal=INT"]
    try:
        run_program([*command, "true"], timeout_s=10)
    except SiteError:  # before coreutils 8.31
        return []
    return command


def find_mpiexec() -> str | None:
    """The mpiexec that came with this environment's MPI wheel, else the first on PATH."""
    beside = Path(sys.executable).with_name("mpiexec")
    return str(beside) if os.access(beside, os.X_OK) else shutil.which("mpiexec")


def _split(argv: list[str]) -> tuple[int, list[str]]:
    """The N of --local and the other arguments. A DSN goes by the environment: every argument of mpiexec can be seen
    by everybody on the machine."""
    dsn, others = take_option("--dsn", argv)
    if dsn:
        os.environ[DSN] = dsn
    count, rest = take_option("--local", others)
    if not count.isdigit() or not 1 <= int(count) <= 10_000:
        raise UsageError(f"--local wants a number of ranks, as in `mpifarm run --local 4`, not {count!r}")
    return int(count), rest
