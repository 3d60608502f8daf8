"""`report JOB --html FILE`: one page that needs nothing but itself: no script, no request, no mpifarm.

Attempts stream by once and are counted into bins, so memory is flat. Must never import click, h5py or mpi4py.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from mpifarm.errors import OutputError
from mpifarm.outputs.accounting import Account, Bools
from mpifarm.outputs.history import Rows, accounting_of, blocks, in_blocks, work_of
from mpifarm.outputs.source import exported_accounts, open_rows
from mpifarm.page.binning import LOST, OTHER, Batch, Charted, Lanes, TimeAxis
from mpifarm.page.markup import Page, page_text
from mpifarm.show.text import JobReport, lasted_s, printable
from mpifarm.show.whole_file import draft_of

if TYPE_CHECKING:
    from mpifarm.outputs.source import Source
    from mpifarm.queue.client import RunLine, TaskLine

BARS_MAX = 5_000
"""More attempts than this do not get a bar each: no screen has room for them."""


class _Source(NamedTuple):
    """A run whose file can be read: its counts are those over all jobs."""

    run: RunLine
    nodes: list[tuple[str, int]]
    rows: int
    started: float
    ended: float
    wide: bool
    """Some attempts held more than one core."""


def write_page(client: Source, report: JobReport, path: Path, now: float, *, force: bool) -> None:
    """The page of a job, whole or not at all. Raises UsageError for a file that exists, unless `force`."""
    with draft_of(path, force=force) as draft, open(draft, "x", encoding="utf-8") as file:
        file.writelines(page_text(gather(client, report, now)))


def gather(client: Source, report: JobReport, now: float) -> Page:
    """Look through the run files of a job once."""
    notes: list[str] = []
    everywhere = {run.id: run for run in client.runs()}
    sources = [
        source
        for run in report.runs
        if (source := _source(client, everywhere.get(run.id, run), now, notes)) is not None
    ]
    charted = _charted(sources)
    accounts = {}
    for source in sources:
        charted.offer(source.run.slots, source.started, source.ended)
        try:
            account = _look_through(client, source, report.job.id, charted)
        except OutputError as error:
            notes.append(f"Some of run {source.run.id} is missing here: {error}")
            continue
        if account is not None:
            accounts[source.run.id] = account
    accounts = exported_accounts(client) or accounts
    examples: dict[int, TaskLine] = {}
    for failure in report.failures:
        task = failure.example_task
        examples.update((line.task, line) for line in client.tasks(report.job.id, ranges=[(task, task + 1)]))
    nodes_of = {int(source.run.id): source.nodes for source in sources}
    return Page(report, now, charted, nodes_of, accounts, examples, notes)


def _charted(sources: Sequence[_Source]) -> Charted:
    """Charts with room for these runs."""
    slots: dict[str, int] = {}
    for source in sources:
        for node, count in source.nodes:
            slots[node] = max(slots.get(node, 0), count)
    lanes = Lanes(slots)
    one_by_one = lanes.by_slot and sum(source.rows for source in sources) <= BARS_MAX
    if lanes.by_slot and not one_by_one:
        lanes = Lanes(slots, wide=any(source.wide for source in sources))
    return Charted(TimeAxis((source.started, source.ended) for source in sources), lanes, one_by_one=one_by_one)


def _source(client: Source, run: RunLine, now: float, notes: list[str]) -> _Source | None:
    """A run as its file has it; None, and a note, when the file cannot be read."""
    if run.file is None:
        return None
    try:
        with open_rows(client, run) as file:
            ends = [row for at in {0, file.rows - 1} if 0 <= at < file.rows and (row := file.attempt(at)).lease]
            # The clock of the run is the database's, that of attempts their node's.
            started = min([run.started, *(row.started for row in ends)])
            ended = max([run.started + lasted_s(run, now), *(row.ended for row in ends)])
            nodes = [(printable(name.encode()), max(1, slots)) for name, _, slots in file.nodes]
            wide = any((rows["cpus"] > 1).any() for rows in in_blocks(file))
            return _Source(run, nodes, file.rows, started, ended, wide)
    except (OutputError, OSError) as error:
        notes.append(f"The charts and the accounting know nothing of run {run.id}: {error}")
        return None


def _look_through(client: Source, source: _Source, job: int, charted: Charted) -> Account | None:
    """Count all attempts of a run into the charts. Its account, unless it still goes on."""
    run, names = source.run, [node for node, _ in source.nodes]
    accounting = accounting_of(run, [slots for _, slots in source.nodes])
    with open_rows(client, run) as file:
        for rows, lost in blocks(client, run, file):
            charted.add(int(run.id), names, _batch(rows, lost, job, charted.axis))
            accounting.add(work_of(rows, lost))
    return None if run.live else accounting.account(died=run.ended is None)


def _batch(rows: Rows, lost: Bools, job: int, axis: TimeAxis) -> Batch:
    kind = np.where(rows["job"] != job, OTHER, np.where(lost, LOST, np.minimum(rows["state"], LOST)))
    node, slot, cpus = (rows[name].astype(np.int64) for name in ("node", "slot", "cpus"))
    return Batch(
        kind=kind.astype(np.int64),
        node=node,
        slot=slot,
        cpus=cpus,
        started=axis.place(rows["started"]),
        ended=axis.place(rows["ended"]),
        task=rows["task"],
        attempt=rows["attempt"],
        seconds=rows["ended"] - rows["started"],
        max_rss_kib=rows["max_rss_kib"],
    )
