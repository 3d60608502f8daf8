"""`mpifarm verify`: every task is in exactly one place, and every recorded output is in its file as it was written.

A run file is read once, in its own order, whatever the order of the tasks; then each outcome of the queue is held
against the row it names. Memory is a byte per attempt. Must never import click, h5py or mpi4py.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from mpifarm.core.plural import counted
from mpifarm.core.ranges import runs_of
from mpifarm.errors import FarmError, OutputError
from mpifarm.outputs.outcome_check import held_against
from mpifarm.outputs.source import archive_of, paths_of
from mpifarm.outputs.streams_of_tasks import Unanswered
from mpifarm.show.text import ranges_text

if TYPE_CHECKING:
    from mpifarm.core.protocol.facts import JobSummary
    from mpifarm.outputs.source import Source
    from mpifarm.runfile.reader import RunFile

UNPROVED = 6
"""Exit code when something is not as it should be."""

Rows = np.ndarray[Any, Any]
Bools = np.ndarray[Any, np.dtype[np.bool_]]


class Proof(NamedTuple):
    """What was found of one job. `misplaced`: (expected, found) task numbers; `damaged`: (tasks, why)."""

    job: str
    total: int
    outputs: int
    misplaced: list[tuple[int, int]]
    damaged: list[tuple[str, str]]

    @property
    def holds(self) -> bool:
        return not self.misplaced and not self.damaged

    def sentences(self) -> Iterator[str]:
        """For people."""
        if self.holds:
            placed = f"{counted(self.total, 'task')}, each in one place; "
            yield f"job {self.job}: {placed}{counted(self.outputs, 'recorded output')}, each in its file as written"
        for expected, found in self.misplaced:
            what = (
                f"tasks {expected} to {found - 1} are nowhere" if expected < found else f"task {found} is in two places"
            )
            yield f"job {self.job}: {what}"
        for tasks, why in self.damaged:
            yield f"job {self.job}: task {tasks}: {why}"

    def as_object(self) -> dict[str, object]:
        """For JSON."""
        damaged = [{"tasks": tasks, "why": why} for tasks, why in self.damaged]
        found = {"misplaced": [list(gap) for gap in self.misplaced], "damaged": damaged}
        return {"job": self.job, "tasks": self.total, "outputs": self.outputs, **found, "proved": self.holds}


class Proving:
    """Checks jobs; a run file that served several of them is read once. A context manager."""

    def __init__(self, told: Callable[[int], None] = lambda _: None) -> None:
        """`told` hears of bytes as they are read."""
        self._told = told
        self._files: dict[str, tuple[RunFile, Bools] | FarmError] = {}

    def __enter__(self) -> Proving:
        return self

    def __exit__(self, *_: object) -> None:
        for found in self._files.values():
            if not isinstance(found, FarmError):
                found[0].close()

    def job(self, source: Source, job: JobSummary) -> Proof:
        """Raises QueueError."""
        archive = archive_of(source)
        misplaced = [] if archive is not None else source.misplaced(job.id)  # type: ignore[union-attr]
        files = paths_of(source)
        unanswered, outputs = Unanswered(), 0
        for places in source.places(job.id):
            outputs += len(places)
            for run in np.unique(places["run"]).tolist():
                mine = places[places["run"] == run]
                for task, error in self._wrong(files.get(run), job.id, mine):
                    unanswered.add(task, error)
        return Proof(job.name, job.total, outputs, misplaced, unanswered.reasons())

    def _wrong(self, path: str | None, job: int, places: Rows) -> Iterator[tuple[int, FarmError]]:
        if path is None:
            nowhere = OutputError("its run has not said where its file is")
            yield from ((task, nowhere) for task in places["task"].tolist())
            return
        found = self._file(path, int(places["row"].max()))
        if isinstance(found, FarmError):
            yield from ((task, found) for task in places["task"].tolist())
            return
        run, sound = found
        other = run.missing or OutputError(f"its row in {path} is not the one that was recorded")
        damaged = OutputError(f"its output in {path} is not what it wrote")
        try:
            rows, right = held_against(run, job, places)
        except OutputError:
            rows, right = None, np.ones(len(places), bool)
        whole = np.zeros(len(places), bool)
        if rows is not None:
            there = places["row"] < len(sound)
            whole[there] = sound[places["row"][there]]
        bad = ~(right & whole)
        for task, mine in zip(places["task"][bad].tolist(), right[bad].tolist()):
            yield task, damaged if mine else other

    def _file(self, path: str, row: int) -> tuple[RunFile, Bools] | FarmError:
        """A file that was written since it was read is read again."""
        from mpifarm.runfile.reader import open_run
        from mpifarm.runfile.sweep import Sweep

        found = self._files.get(path)
        if found is None:
            try:
                run = open_run(path)
                found = run, Sweep(run, self._told).sound()
            except (OutputError, OSError) as error:
                found = error if isinstance(error, OutputError) else OutputError(f"{path}: {error.strerror}")
        elif not isinstance(found, FarmError) and row >= len(found[1]):
            found[0].refresh()
            found = found[0], Sweep(found[0], self._told).sound()
        self._files[path] = found
        return found


def damaged_rows(path: Path, told: Callable[[int], None]) -> tuple[int, list[tuple[str, str]]]:
    """Looks at a run file by itself: returns how many attempts it holds, and (tasks, why) of those whose output is not
    what they wrote. Raises OutputError when it cannot be opened."""
    from mpifarm.runfile.format import has_ended, rows_at_end
    from mpifarm.runfile.reader import open_run
    from mpifarm.runfile.sweep import Sweep, rowless

    with open_run(path) as run:
        sound = Sweep(run, told).sound()
        damaged: dict[str, list[int]] = {}
        for number in np.flatnonzero(~sound).tolist():
            try:
                row = run.attempt(number)
                where = f"of job {row.job}: its output is not what it wrote"
            except OutputError:
                row, where = None, "rows of `attempts` that cannot be read"
            damaged.setdefault(where, []).append(number if row is None else row.task)
        lost = range(run.rows, rows_at_end(run.attributes))  # of what was there when the file was closed
        if lost:
            damaged["rows of `attempts` that it had when it was closed"] = list(lost)
        elif not run.rows and run.extents and has_ended(run.attributes):
            damaged["wrote output, and there is no row of any attempt"] = sorted(rowless(run))
        return run.rows, [(ranges_text(runs_of(numbers)), why) for why, numbers in damaged.items()]


def verify(source: Source, jobs: Iterable[JobSummary], told: Callable[[int], None], *, as_json: bool) -> int:
    """Print what was found. Returns the exit code: 0 only when all is proved."""
    with Proving(told) as proving:
        proofs = []
        for job in jobs:
            proof = proving.job(source, job)
            proofs.append(proof)
            if not as_json:
                print("\n".join(proof.sentences()), flush=True)
    holds = all(proof.holds for proof in proofs)
    if as_json:
        print(json.dumps({"proved": holds, "jobs": [proof.as_object() for proof in proofs]}))
    return 0 if holds else UNPROVED


def verify_file(path: Path, told: Callable[[int], None], *, as_json: bool) -> int:
    """Does for a run file by itself what `verify` does for jobs."""
    count, damaged = damaged_rows(path, told)
    if as_json:
        found = [{"tasks": tasks, "why": why} for tasks, why in damaged]
        print(json.dumps({"proved": not damaged, "file": str(path), "outputs": count, "damaged": found}))
    elif damaged:
        print("\n".join(f"{path}: task {tasks} {why}" for tasks, why in damaged))
    else:
        print(f"{path}: {counted(count, 'attempt')}, the output of each as written")
    return UNPROVED if damaged else 0
