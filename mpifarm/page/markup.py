"""The HTML page of a job, as text: what was found out goes in, markup comes out. Pure.

What users wrote (names, commands, outputs, paths) only gets in as escaped text, and the page's own policy forbids
scripts and requests besides. Must never import click, h5py or the queue.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from html import escape
from typing import TYPE_CHECKING, NamedTuple

from mpifarm import __version__
from mpifarm.core.lifecycle import STATES
from mpifarm.core.model import RunId
from mpifarm.core.plural import counted
from mpifarm.outputs.accounting import NAMES, Account, core_time
from mpifarm.page import charts
from mpifarm.page.binning import KINDS, RATE_BINS, TIME_BINS, Charted, joined
from mpifarm.page.style import STYLE
from mpifarm.show.text import JobReport, busy_share, ending, lasted_s, printable, run_state, telling_line, when
from mpifarm.units import format_seconds

if TYPE_CHECKING:
    from mpifarm.queue.client import TaskLine

NODES_SHOWN = 15
TEXT_MAX = 300

_MEANING = {
    "start-up": "from the start of the run to its first task",
    "waiting": "idle between tasks: the queue had none that fits, or was slow to hand it over",
    "launch": "idle between tasks for moments: ending one, starting the next",
    "task": "tasks whose outcome counts",
    "lost": "attempts given back at the end of an allocation, superseded, or cut off with a run that died",
    "tail": "slots with nothing left to do while the last tasks ran",
    "drain": "from the end of the last task to the end of the run",
}
assert tuple(_MEANING) == NAMES


class Page(NamedTuple):
    """All that a page shows, in the order in which it was found out."""

    report: JobReport
    now: float
    charted: Charted
    nodes_of: dict[int, list[tuple[str, int]]]
    """(name, slots) by node number, by run."""
    accounts: dict[RunId, Account]
    examples: dict[int, TaskLine]
    notes: list[str]


def page_text(page: Page) -> Iterator[str]:
    """The page in pieces."""
    job, charted = page.report.job, page.charted
    yield (
        '<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8">'
        "<meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none'; style-src 'unsafe-inline'\">"
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f'<meta name="generator" content="mpifarm {__version__}">'
        f"<title>{escape(job.name)} - mpifarm</title><style>{STYLE}</style></head><body>\n"
    )
    yield from _head(page)
    if charted.kinds.any():
        yield from _time(page)
        yield from _charts(page)
    yield from _failures(page)
    yield from _runs(page)
    yield f'<p class="note">Written {when(page.now)} by mpifarm {__version__}. Times are local to where that was.'
    if any(run.live for run in page.report.runs):
        yield " A run was going on: attempts that had not ended yet are not shown."
    yield "</p>\n</body></html>\n"


def _head(page: Page) -> Iterator[str]:
    job = page.report.job
    state = f"{job.state} (held)" if job.held else job.state
    yield f'<header><h1>{escape(job.name)}<span class="state {escape(job.state)}">{escape(state)}</span></h1>'
    yield f'<p class="soft">job {job.id}, submitted {when(job.submitted)} from {_text(job.source or "a program")}'
    yield f" in {_text(job.cwd)}</p></header>"
    tiles = [("", "tasks", f"{job.total:,}")]
    tiles += [(state, state, f"{getattr(job, state):,}") for state in STATES if getattr(job, state)]
    if page.report.seconds:
        names = ("median duration", "95 % within", "longest")
        tiles += [("", name, format_seconds(s)) for name, s in zip(names, page.report.seconds)]
    yield '<dl class="tiles">'
    for style, name, value in tiles:
        yield f'<div class="{style}"><dt>{name}</dt><dd>{value}</dd></div>'
    yield "</dl>\n"
    for note in page.notes:
        yield f'<p class="note">{_text(note)}</p>\n'


def _time(page: Page) -> Iterator[str]:
    """The account of all runs that are over."""
    if not page.accounts:
        return
    total = Account()
    for account in page.accounts.values():
        total = total.plus(account)
    which = "run" if len(page.accounts) == 1 else counted(len(page.accounts), "run")
    yield '<section id="time"><h2>Where the core time went</h2><p class="soft">'
    yield f"{core_time(total.total)} in all: every slot of the {which} from start to end, for whatever job.</p>"
    yield _share(total)
    yield '<div class="scroll"><table><tr><th>share<th class="n">of all<th class="n">core time<th>what it is</tr>'
    for name, percent, seconds in zip(NAMES, total.percent(), total):
        yield f'<tr><td class="w"><span class="key {name}"></span>{name}<td class="n">{percent:.1f} %'
        yield f'<td class="n">{core_time(seconds)}<td>{_MEANING[name]}</tr>'
    yield f'<tr><td>all<td class="n">100.0 %<td class="n">{core_time(total.total)}<td></tr>'
    yield "</table></div></section>\n"


def _share(account: Account) -> str:
    parts = (
        f'<i class="{name}" style="flex:{percent:.1f} 1 0" title="{name} {percent:.1f} %"></i>'
        for name, percent in zip(NAMES, account.percent())
        if percent
    )
    return f'<div class="share">{"".join(parts)}</div>'


def _charts(page: Page) -> Iterator[str]:
    charted, axis = page.charted, page.charted.axis
    width_s = axis.length_s / TIME_BINS
    busy = charted.load.seconds() / width_s
    first = f"Run time from {when(axis.parts[0][1])}"
    rest = "; the time between runs is left out, dashed lines show where." if len(axis.parts) > 1 else "."
    names = ["succeeded", "failed", "cancelled", "lost", "other jobs"]
    layers = [charts.Layer(*layer) for layer in zip(KINDS, names, busy)]
    legend = [(layer.style, layer.name) for layer in layers if layer.values.any()]
    yield '<section><h2>Utilisation</h2><p class="soft">Cores that tasks held; the line is what the runs offered. '
    yield f"{first}{rest}</p>"
    offered = charted.offered.seconds()[0] / width_s
    yield _figure(charts.over_time("utilisation", "cores in use over time", "cores", axis, layers, offered), legend)
    ended = charted.ended / (axis.length_s / RATE_BINS)
    layers = [charts.Layer(*layer) for layer in zip(KINDS, names, ended)]
    yield '</section>\n<section><h2>Throughput</h2><p class="soft">Tasks of this job that ended, per second.</p>'
    yield _figure(charts.over_time("throughput", "tasks ended per second", "tasks/s", axis, layers, None), [])
    yield "</section>\n"
    yield from _by_slot(page, legend)
    yield '<section><div class="pair"><div><h2>Duration</h2><p class="soft">Seconds a task took, logarithmic.</p>'
    yield _figure(charts.durations(charted.durations), [])
    yield '</div><div><h2>Memory</h2><p class="soft">Largest resident size of a task\'s processes, logarithmic.</p>'
    yield _figure(charts.memory(charted.memory), []) + "</div></div></section>\n"


def _by_slot(page: Page, legend: Sequence[tuple[str, str]]) -> Iterator[str]:
    charted, axis, lanes = page.charted, page.charted.axis, page.charted.lanes
    if charted.one_by_one:
        said = "Each bar is an attempt."
        runs = [(run, page.nodes_of[run], joined(batches)) for run, batches in charted.bars.items()]
        drawn = charts.bars(axis, lanes, runs)
    else:
        row = "a slot" if lanes.by_slot else "a node" if lanes.nodes_each == 1 else counted(lanes.nodes_each, "node")
        many = f"{counted(int(charted.kinds.sum()), 'attempt')} on {counted(sum(lanes.slots), 'slot')}"
        said = (
            f"{many} are too many for a bar each, so they are summed up: a row is {row}, its shade how much of it was "
            f"busy, for whatever job, in each of {TIME_BINS} steps of time. A mark at the foot of a row: "
            f"{100 * charts.MARKED_SHARE:.0f} % or more of the tasks that ended there then failed."
        )
        drawn = charts.shades(axis, lanes, charted.cells.seconds(), charted.ended_in, charted.failed_in)
        legend = [
            ("shade1", "up to 20 % busy"),
            ("shade3", "up to 60 %"),
            ("shade5", "over 80 %"),
            ("failed", "failed"),
        ]
    yield f'<section><h2>Tasks by node and slot</h2><p class="soft">{said}</p>'
    yield _figure(drawn, legend) + "</section>\n"


def _figure(svg: str, legend: Sequence[tuple[str, str]]) -> str:
    keys = "".join(f'<li><span class="key {style}"></span>{escape(name)}</li>' for style, name in legend)
    return f"<figure>{svg}</figure>" + (f'<ul class="legend">{keys}</ul>' if keys else "")


def _failures(page: Page) -> Iterator[str]:
    job, failures = page.report.job, page.report.failures
    if not failures:
        return
    yield '<section id="failures"><h2>Failures</h2><div class="scroll"><table>'
    yield '<tr><th>class<th class="n">tasks<th class="gauge"><th>example<th>ended<th>its command, and its stderr</tr>'
    most = max(failure.count for failure in failures)
    for failure in failures:
        line = page.examples.get(failure.example_task)
        told = [_text(line.command)] if line is not None else []
        told += [_text(telling_line(failure.stderr_tail))] if failure.stderr_tail else []
        yield f'<tr><td class="w">{escape(failure.failure)}<td class="n">{failure.count:,}'
        yield _gauge(failure.count / most)
        yield f'<td class="w">{escape(job.name)}.{failure.example_task}'
        yield f'<td class="w">{escape(ending(failure.failure, failure.exit_code, failure.signal))}'
        yield f'<td class="any">{"<br>".join(f"<code>{text}</code>" for text in told)}</tr>'
    yield "</table></div>"
    nodes = [(bad, total, node) for node, (total, bad) in page.charted.on_node.items() if bad]
    nodes.sort(key=lambda row: (-row[0], row[2]))
    if nodes:
        yield '<h3>By node</h3><div class="scroll"><table>'
        yield '<tr><th>node<th class="n">failed<th class="gauge"><th class="n">of its tasks<th class="n">share<th></tr>'
        for bad, total, node in nodes[:NODES_SHOWN]:
            yield f'<tr><td class="w">{escape(node)}<td class="n">{bad:,}{_gauge(bad / nodes[0][0])}'
            yield f'<td class="n">{total:,}<td class="n">{100 * bad / total:.1f} %<td></tr>'
        yield "</table></div>"
        if len(nodes) > NODES_SHOWN:
            yield f'<p class="note">and {counted(len(nodes) - NODES_SHOWN, "more node")} with failures</p>'
    yield "</section>\n"


def _gauge(share: float) -> str:
    return f'<td class="gauge"><span class="bar failed" style="width:{100 * share:.1f}%"></span>'


def _runs(page: Page) -> Iterator[str]:
    if not page.report.runs:
        return
    yield '<section id="runs"><h2>Runs</h2><div class="scroll"><table><tr><th class="n">run<th>state<th>on'
    for name in ("nodes", "slots", "started", "lasted", "succeeded", "failed", "returned", "busy"):
        yield f'<th class="n">{name}'
    yield "<th>core time<th>file</tr>"
    for run in page.report.runs:
        numbers = [f"{run.nodes:,}", f"{run.slots:,}", when(run.started), format_seconds(lasted_s(run, page.now))]
        numbers += [
            f"{run.succeeded:,}",
            f"{run.failed:,}",
            f"{run.returned:,}",
            f"{100 * busy_share(run, page.now):.0f} %",
        ]
        account = page.accounts.get(run.id)
        yield f'<tr><td class="n">{run.id}<td>{run_state(run)}'
        yield f'<td class="w">{_text(f"{run.host} {run.allocation}".rstrip())}'
        yield "".join(f'<td class="n">{number}' for number in numbers)
        yield f'<td>{_share(account) if account is not None else ""}<td class="any">{_text(run.file or "")}</tr>'
    yield '</table></div><p class="note">Counts and busy are of this job; the core time is of all jobs of a run.</p>'
    yield "</section>\n"


def _text(text: str | bytes) -> str:
    """Whatever somebody wrote, as text of one line: printable, not longer than a page can show, escaped."""
    raw = text if isinstance(text, bytes) else text.encode("utf-8", "surrogateescape")
    shown = printable(raw[: 4 * TEXT_MAX])
    return escape(shown if len(shown) <= TEXT_MAX else shown[:TEXT_MAX] + "…")
