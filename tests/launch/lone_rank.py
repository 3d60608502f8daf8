"""A rank that starts two tasks and then waits for its end: run as `python -m tests.launch.lone_rank CWD`."""

from __future__ import annotations

import os
import select
import sys
from pathlib import Path

from tests.launch.node import OneNode

TASKS = (
    "echo $$ > one; exec sleep 1000",
    "(trap '' TERM HUP INT; setsid sh -c 'echo $$ > three; while :; do sleep 0.1; done' & ); echo $$ > two; sleep 1000",
)

if __name__ == "__main__":
    cwd = Path(sys.argv[1])
    node = OneNode(cwd)
    node.start(*TASKS)
    (cwd / "pids").write_text(f"{os.getpid()} {node.launcher.guardian} {node.launcher.pid}\n")
    while node.launcher.alive:
        node.listen(1.0)
    (cwd / "saw-the-end").touch()
    select.select([], [], [])
