"""How commands answer: sentences or JSON, what is told beside the output, for which screen.

Must never import click or mpi4py.
"""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Iterable, Mapping
from typing import TextIO

from mpifarm.show.next_command import dsn_words, run_command
from mpifarm.show.objects import array
from mpifarm.show.text import Look


def say(objects: Iterable[Mapping[str, object]], sentences: Iterable[str], as_json: bool) -> None:
    """One of the two."""
    if as_json:
        sys.stdout.writelines(array(map(dict, objects)))
    else:
        for sentence in sentences:
            print(sentence)


def tell(sentence: str) -> None:
    """Something to know beside the output, at once."""
    print(sentence if sentence.startswith("==>") else f"mpifarm: {sentence}", file=sys.stderr, flush=True)


def look_of(stream: TextIO) -> Look:
    """A terminal has a width and, unless NO_COLOR is set, colours."""
    if not stream.isatty():
        return Look()
    return Look(shutil.get_terminal_size().columns, colour="NO_COLOR" not in os.environ)


def run_command_here(dsn: str | None) -> str:
    """How a run is started from this machine."""
    return run_command(
        os.environ,
        mpiexec=shutil.which("mpiexec") is not None,
        srun=shutil.which("srun") is not None,
        cores=len(os.sched_getaffinity(0)),
        dsn=dsn_words(dsn),
    )


def listed(counts: Mapping[str, int]) -> str:
    return ", ".join(f"{count:,} {state}" for state, count in counts.items() if count) or "no tasks"


def noun(tasks: int) -> str:
    return "task" if tasks == 1 else "tasks"
