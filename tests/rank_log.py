"""`python -m tests.rank_log DIR MOMENT COMMAND...`: the command with its output in DIR/rank-N.log.

Tests in it dump their stacks there at that moment of the monotonic clock, however long their start took: see
tests/fix_mpi.py.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

RANK_VARIABLES = ("OMPI_COMM_WORLD_RANK", "PMI_RANK", "PMIX_RANK", "SLURM_PROCID")


def main() -> None:
    directory, moment, *command = sys.argv[1:]
    rank = next((os.environ[name] for name in RANK_VARIABLES if name in os.environ), "0")
    log = os.open(Path(directory) / f"rank-{rank}.log", os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o644)
    os.dup2(log, 1)
    os.dup2(log, 2)
    os.environ["MPIFARM_TEST_DUMP"] = f"{moment} {directory}/rank-{rank}.log"
    os.execvp(command[0], command)


if __name__ == "__main__":
    main()
