"""The attempts of a run out of its file, the last block first, and which of their outcomes stand; its account.

An outcome does not stand when the attempt was given back, or when the queue refused its record: the lease was gone, the
task went to another run. The file cannot know the latter, the queue does. A run that still goes on has no account: what
its slots do now stands nowhere. Must never import click, h5py or mpi4py.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from mpifarm.core.model import RunId, State
from mpifarm.errors import OutputError
from mpifarm.outputs.accounting import NAMES, Account, Accounting, Bools, Work, core_time
from mpifarm.outputs.source import exported_accounts, open_rows
from mpifarm.outputs.streams_of_tasks import FINAL
from mpifarm.show.text import Look, table

if TYPE_CHECKING:
    from mpifarm.core.protocol.facts import RunLine
    from mpifarm.outputs.source import Source
    from mpifarm.runfile.reader import RunFile

BLOCK_ROWS = 1 << 14
"""Attempts looked at in one go: 1.5 MiB, and some arrays of that length."""

Rows = np.ndarray[Any, Any]


def blocks(client: Source, run: RunLine, file: RunFile) -> Iterator[tuple[Rows, Bools]]:
    """Rows in file order within a block, and whether they are lost. `run` with its counts over all jobs."""
    standing = None if run.live else _standing(client, run, file)
    for hi in range(file.rows, 0, -BLOCK_ROWS):
        lo = max(0, hi - BLOCK_ROWS)
        rows = _sound(file, lo, hi)
        lost = rows["state"] == State.RETURNED
        if standing is not None:
            lost |= ~standing[lo:hi]
        written = rows["lease"] != 0  # a full disk may have left blank ones
        yield rows[written], lost[written]


def in_blocks(file: RunFile) -> Iterator[Rows]:
    """All rows, the first block first."""
    for lo in range(0, file.rows, BLOCK_ROWS):
        yield _sound(file, lo, lo + BLOCK_ROWS)


def _sound(file: RunFile, lo: int, hi: int) -> Rows:
    rows = file.attempts(lo, hi)
    if len(rows) and rows["node"].max() >= len(file.nodes):
        raise OutputError(f"run file {file.path} is damaged: an attempt ran on a node that it does not know")
    return rows


def _standing(client: Source, run: RunLine, file: RunFile) -> Bools | None:
    """By row: whether the queue took its record. None when it took all: nearly always, and told by counting."""
    final = 0
    for rows in in_blocks(file):
        final += int(np.count_nonzero((rows["state"] != State.RETURNED) & (rows["lease"] != 0)))
    recorded = run.succeeded + run.failed + run.cancelled
    if final == recorded:
        return None
    spans = client.taken_back(run.id)
    if spans and final == recorded + sum(hi - lo for _, lo, hi in spans):
        return _not_in(file, spans)
    standing = np.zeros(file.rows, bool)
    for job in client.jobs():
        for line in client.tasks(job.id, states=FINAL):
            if line.run == run.id and line.file_row is not None:
                standing[line.file_row - file.first_row] = True
    return standing


def _not_in(file: RunFile, spans: Sequence[tuple[int, int, int]]) -> Bools:
    """By row: whether its task is in none of the spans (lease, lo, hi) of its lease; they are in order."""
    bounds = np.array(spans, np.int64)
    first, end = (bounds[:, 0] << 32) + bounds[:, 1], (bounds[:, 0] << 32) + bounds[:, 2]
    outside = np.ones(file.rows, bool)
    for lo in range(0, file.rows, BLOCK_ROWS):
        rows = file.attempts(lo, lo + BLOCK_ROWS)
        keys = (rows["lease"].astype(np.int64) << 32) + rows["task"].astype(np.int64)
        at = first.searchsorted(keys, "right") - 1
        outside[lo : lo + len(rows)] = (at < 0) | (keys >= end[at])
    return outside


def work_of(rows: Rows, lost: Bools) -> Work:
    """What the accounting wants to know of these attempts."""
    return Work(rows["node"].astype(np.int64), rows["cpus"].astype(np.int64), rows["started"], rows["ended"], lost)


def accounting_of(run: RunLine, slots: Sequence[int]) -> Accounting:
    """Begins the account of a run that is over, on nodes with so many slots; one that ended without a word did so at
    its last beat."""
    return Accounting(slots, run.started, run.ended if run.ended is not None else run.beat)


def accounts(client: Source, wanted: Iterable[RunId]) -> dict[RunId, Account]:
    """Accounts for those of these runs that are over and whose files can be read here."""
    exported = exported_accounts(client)
    if exported is not None:
        return exported
    found, ids = {}, set(wanted)
    for run in client.runs():
        if run.id not in ids or run.live or run.file is None:
            continue
        try:
            with open_rows(client, run) as file:
                accounting = accounting_of(run, [slots for _, _, slots in file.nodes])
                for rows, lost in blocks(client, run, file):
                    accounting.add(work_of(rows, lost))
                found[run.id] = accounting.account(died=run.ended is None)
        except (OutputError, OSError):
            continue  # whoever asks for outputs hears of it
    return found


def accounts_text(found: dict[RunId, Account]) -> list[str]:
    """A line per run: the time of its cores and what became of it, in percent that add up to 100."""
    rows = []
    for run, account in found.items():
        shares = [f"{share:.1f} %" for share in account.percent()]
        rows.append([str(run), core_time(account.total), *shares])
    return table(["run", "core time", *NAMES], rows, "", Look()) if rows else []


def accounts_objects(found: dict[RunId, Account]) -> list[dict[str, float]]:
    """For JSON: core seconds by what became of them, an object per run."""
    return [{"run": int(run), "core_s": account.total, **account._asdict()} for run, account in found.items()]
