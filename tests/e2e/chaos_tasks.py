"""What the tasks of the chaos campaign do, the log they keep of what really ran, and what it must say in the end.

Every task appends a line when it starts and one when it has done all it should, each with one write: the order of the
lines is the order of things.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

SCRIPT = r"""
# sh chaos.sh KIND: one task
say() { echo "$1 $MPIFARM_JOB $MPIFARM_TASK $MPIFARM_ATTEMPT $$" >> "$CHAOS_LOG"; }
say start
echo "output of $MPIFARM_JOB.$MPIFARM_TASK"
echo "error of $MPIFARM_TASK" >&2
case $1 in
big) seq "$MPIFARM_TASK" 30000;;
forks) sleep 1000 & setsid sleep 1001 & sleep 0.1;;
stubborn) trap '' TERM INT USR1 USR2; sleep 0.7; sleep 0.3;;
polite) trap 'exit 0' TERM INT USR1 USR2; sleep 1 & wait $!;;
long) sleep 2;;
fails) say end; exit 3;;
once) mark="$CHAOS_LOG.$MPIFARM_JOB.$MPIFARM_TASK"; test -e "$mark" || { : > "$mark"; exit 4; };;
*) sleep 0.1;;
esac
echo "last of $MPIFARM_TASK"
say end
"""

KINDS = ("plain",) * 8 + ("big", "big", "forks", "stubborn", "polite", "polite", "long", "fails", "once", "once")
SUCCEEDED, FAILED, CANCELLED = range(3)

Name = tuple[str, int]
"""Of a task: job and number."""


class Spec(NamedTuple):
    """One task as it is submitted. `parents`: of the same job; `any`: they must only have ended."""

    kind: str
    parents: range
    any: bool

    def line(self) -> str:
        low, high = self.parents.start, self.parents.stop - 1
        needs = f"[# {'any ' if self.any else ''}{low}-{high} #] " if self.parents else ""
        return f"{needs}sh chaos.sh {self.kind}"

    def output(self, job: str, task: int) -> bytes:
        """What it prints when it ends by itself."""
        middle = b"".join(b"%d\n" % number for number in range(task, 30001)) if self.kind == "big" else b""
        last = b"" if self.kind == "fails" else b"last of %d\n" % task
        return b"output of %s.%d\n%s%s" % (job.encode(), task, middle, last)


def draw(chance: random.Random, count: int) -> list[Spec]:
    """The tasks of one job; every fourth waits for a few of those shortly before it."""
    specs = []
    for task in range(1, count + 1):
        parents = range(0)
        if task > 5 and chance.random() < 0.25:
            low = chance.randrange(max(1, task - 30), task)
            parents = range(low, min(task, low + chance.randrange(1, 5)))
        specs.append(Spec(chance.choice(KINDS), parents, chance.random() < 0.4))
    return specs


class Line(NamedTuple):
    """One line of the log."""

    what: str
    job: str
    task: int
    attempt: int
    pid: int

    @property
    def name(self) -> Name:
        return self.job, self.task


def runs(line: Line) -> bool:
    """Whether the process that wrote it is alive, and no other that has its number."""
    try:
        words = Path(f"/proc/{line.pid}/environ").read_bytes().split(b"\0")
    except OSError:
        return False
    told = f"MPIFARM_JOB={line.job}", f"MPIFARM_TASK={line.task}", f"MPIFARM_ATTEMPT={line.attempt}"
    return all(word.encode() in words for word in told)


class Journal:
    """The log, read as it grows."""

    def __init__(self, path: Path) -> None:
        self._file = path.open("a+b", buffering=0)
        self._position = 0
        self._rest = b""
        self.lines: list[Line] = []

    def grow(self) -> list[Line]:
        """The lines that are new."""
        self._file.seek(self._position)
        data = self._file.read()
        self._position += len(data)
        *whole, self._rest = (self._rest + data).split(b"\n")
        new = [Line(w, job, int(n), int(a), int(pid)) for w, job, n, a, pid in (x.decode().split() for x in whole)]
        self.lines += new
        return new

    def close(self) -> None:
        self._file.close()


class Outcome(NamedTuple):
    """What the queue says; attempt 0: it was cancelled before any."""

    state: int
    attempt: int


def contradictions(
    jobs: dict[str, list[Spec]], outcomes: dict[Name, Outcome], lines: Iterable[Line], asked: set[Name]
) -> list[str]:
    """What the log and the queue do not agree on. `asked`: of what a cancel was asked."""
    wrong = []
    starts: dict[Name, list[int]] = {}
    ends: dict[Name, list[int]] = {}
    done: Counter[tuple[Name, int]] = Counter()
    for place, line in enumerate(lines):
        (starts if line.what == "start" else ends).setdefault(line.name, []).append(place)
        done[line.name, line.attempt] += line.what == "end"
    for job, specs in jobs.items():
        for task, spec in enumerate(specs, 1):
            name = job, task
            found = outcomes.get(name)
            if found is None:
                wrong.append(f"{job}.{task} has not ended")
                continue
            wrong += _of_one(name, spec, found, done[name, found.attempt], asked)
            if spec.parents:
                parents = [(job, parent) for parent in spec.parents]
                wrong += _of_order(
                    name, spec, found, starts, ends, {parent: outcomes.get(parent) for parent in parents}
                )
    return wrong


def _of_one(name: Name, spec: Spec, found: Outcome, done: int, asked: set[Name]) -> list[str]:
    told = f"{name[0]}.{name[1]} ({spec.kind}) attempt {found.attempt}"
    if found.state == CANCELLED:
        return [] if name in asked or spec.parents else [f"{told}: cancelled, and nobody had asked"]
    if found.state == (SUCCEEDED if spec.kind == "fails" else FAILED):
        return [f"{told}: recorded as {'succeeded' if found.state == SUCCEEDED else 'failed'}"]
    return [] if done == 1 else [f"{told}: recorded, and came to its end {done} times"]


def _of_order(
    name: Name,
    spec: Spec,
    found: Outcome,
    starts: dict[Name, list[int]],
    ends: dict[Name, list[int]],
    parents: dict[Name, Outcome | None],
) -> list[str]:
    wrong, told = [], f"{name[0]}.{name[1]}"
    mine = starts.get(name, [])
    unmet = [parent for parent, of in parents.items() if not spec.any and (of is None or of.state != SUCCEEDED)]
    if unmet and (found.state != CANCELLED or mine):
        wrong.append(f"{told} ran or counts although its parents {unmet} did not succeed")
    for parent, of in parents.items():
        if not mine or of is None:
            continue
        if starts.get(parent, [-1])[-1] > mine[0]:
            wrong.append(f"{told} ran before its parent {parent[1]} began for the last time")
        if of.state != CANCELLED and not any(place < mine[0] for place in ends.get(parent, [])):
            wrong.append(f"{told} ran before its parent {parent[1]} had ended")
    return wrong
