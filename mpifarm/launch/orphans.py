"""Processes that outlive the task that started them: whose they are, and their end when their task has ended.

Every such process becomes a child of the launcher, its subreaper. Whose it was tells its process group (that of the
task, unless it left it) or else the MPIFARM_ variables in its environment. One that hides both (`env -i setsid ...`)
is put down to all tasks that may have started it, and ends when the last of these has ended. Must never import
anything heavy.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from pathlib import Path

from mpifarm.launch.environ import ATTEMPT, JOB, TASK
from mpifarm.launch.guard import Children, describe, kill_tree, read_stat

Marks = tuple[bytes, bytes, bytes]
"""Job name, task and attempt number, as in the environment of a task."""
NOBODY: Marks = b"", b"", b""
"""Of a process that runs no attempt now, and is to stay."""


class Orphans:
    """Keeps the launcher's children apart: main processes of tasks, and what these left behind."""

    def __init__(self) -> None:
        self._children = Children()
        self._owners: dict[int, frozenset[int]] = {}
        self._killed: set[int] = set()

    def forget(self, pid: int) -> None:
        """This orphan has ended and was waited for."""
        self._owners.pop(pid, None)
        self._killed.discard(pid)

    def none_beside(self, known: int) -> bool:
        """Whether so many processes are all our children. Cheap: asked after every task."""
        return self._children.count() == known

    def sweep(self, running: Mapping[int, Marks], ended: Mapping[int, Marks]) -> tuple[Mapping[int, int], list[str]]:
        """Kill the orphans of tasks that have ended; `running` and `ended` are marks by pid of the main process, which
        may stay.

        Returns how many processes those in `ended` (may) have left behind, by pid, and a line about each one killed.
        """
        left: Counter[int] = Counter()
        log: list[str] = []
        for pid in self._children.pids():
            if pid in running or pid in ended:
                continue
            owners = self._owners.get(pid)
            if owners is None:
                owners = self._owners[pid] = _owners(pid, {**ended, **running})
            left.update(owners & ended.keys())
            if owners.isdisjoint(running):
                if pid not in self._killed:
                    self._killed.add(pid)
                    log.append(f"killed {describe(pid)}, left behind by a task that has ended")
                kill_tree(pid, spared=running.keys() | ended.keys())
        return left, log


def _owners(pid: int, tasks: Mapping[int, Marks]) -> frozenset[int]:
    """The pids of those among `tasks` whose process `pid` may be: one, none (of a task long ended), or all."""
    stat = read_stat(pid)
    if not stat:
        return frozenset(tasks)
    group = int(stat[2])
    if group in tasks:
        return frozenset((group,))
    try:
        variables = dict(
            line.split(b"=", 1) for line in Path(f"/proc/{pid}/environ").read_bytes().split(b"\0") if b"=" in line
        )
        marks = (variables[JOB], variables[TASK], variables[ATTEMPT])
    except (OSError, KeyError):
        return frozenset(tasks)
    return frozenset(main for main, its in tasks.items() if its == marks)
