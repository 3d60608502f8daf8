"""`mpifarm repair FILE`: tells what was brought back, and of which tasks what was not.

Must never import click, h5py or mpi4py.
"""

from __future__ import annotations

import shlex
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from mpifarm.commands.verify import UNPROVED
from mpifarm.core.plural import counted
from mpifarm.core.ranges import runs_of
from mpifarm.errors import UsageError
from mpifarm.show.text import ranges_text
from mpifarm.show.whole_file import draft_of

if TYPE_CHECKING:
    from mpifarm.runfile.repairing.rebuild import Repaired


def repair_file(path: Path, out: Path | None, told: Callable[[int], None], *, force: bool) -> int:
    """Write the repaired file beside the damaged one, which is not touched. Returns the exit code: 0 when nothing of it
    is lost. Raises OutputError, UsageError."""
    from mpifarm.runfile.repairing.rebuild import repair

    out = path.with_suffix(f".repaired{path.suffix}") if out is None else out
    if out.exists() and out.samefile(path):
        raise UsageError("the repaired file needs a name of its own: the damaged one stays as it is")
    with draft_of(out, force=force) as draft:
        repaired = repair(path, draft, told)
    print("\n".join(sentences(path, out, repaired)))
    return 0 if repaired.whole else UNPROVED


def sentences(path: Path, out: Path, repaired: Repaired) -> Iterator[str]:
    """For people."""
    yield f"{out}: {counted(repaired.attempts, 'attempt')} with {repaired.bytes:,} bytes of output"
    for note in repaired.notes:
        yield f"lost: {note}"
    for job, tasks in repaired.damaged.items():
        yield f"lost: output, or a part of it, of job {job} task {ranges_text(runs_of(tasks))}"
    if repaired.lost_rows:
        count = sum(hi - lo for lo, hi in repaired.lost_rows)
        which = ", ".join(f"{lo}-{hi - 1}" for lo, hi in repaired.lost_rows[:20])
        yield f"lost: {counted(count, 'row')} of `attempts` ({which}{' ...' if len(repaired.lost_rows) > 20 else ''})"
        yield "  whose they were, the queue knows: mpifarm verify JOB, once the repaired file has the name of the other"
    elif repaired.emptied:
        yield "lost: all rows of `attempts`, as it seems"
    if repaired.rowless:
        which = ranges_text(runs_of(repaired.rowless))
        yield f"  tasks with output and no row (lost, or still running then): {which}"
    if repaired.worse:
        outputs = f"the outputs of {counted(repaired.worse, 'attempt')}"
        yield f"not found: {outputs}, which {path} still gives: leave it where it is"
        return
    if repaired.whole:
        yield "every attempt in it has its whole output; what the file once had beyond them, the queue knows"
    yield f"next: mv {shlex.quote(str(out))} {shlex.quote(str(path))} && mpifarm verify"
