"""The commands that look at jobs: `mpifarm report` and `mpifarm tasks`. Must never import mpi4py."""

from __future__ import annotations

import re
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from mpifarm.cli.shared import dsn_option, json_option, parsed, tasks_option, where_option
from mpifarm.errors import UsageError

if TYPE_CHECKING:
    from mpifarm.selection.template import Template


def _attempt(text: str) -> int:
    from mpifarm.selection.report_options import parse_attempt

    return parse_attempt(text)


def _pattern(text: str) -> re.Pattern[bytes]:
    from mpifarm.selection.report_options import parse_pattern

    return parse_pattern(text)


def _template(text: str) -> Template:
    from mpifarm.selection.template import Template

    return Template(text)


@click.command(short_help="How jobs stand; why tasks failed; outputs.")
@click.argument("job", required=False)
@tasks_option
@click.option("--stderr", "only_stderr", is_flag=True, help="With --tasks or --grep: their stderr.")
@click.option("--both", is_flag=True, help="With --tasks or --grep: each task's stdout, then its stderr.")
@click.option("--follow", "-f", is_flag=True, help="With --tasks: their output as it comes, until they have ended.")
@click.option("--attempt", callback=parsed(_attempt), metavar="all|N", help="Of all attempts, superseded ones too.")
@click.option(
    "--grep", "pattern", callback=parsed(_pattern), metavar="REGEX", help="Lines with a match, as TASK: LINE."
)
@where_option
@click.option(
    "--extract",
    type=click.Path(file_okay=False, path_type=Path),
    metavar="DIR",
    help="Write DIR/17.out and, unless empty, DIR/17.err.",
)
@click.option(
    "--captured",
    is_flag=True,
    help="Files that tasks left and submit --capture took: their names; with --extract, as DIR/17/NAME.",
)
@click.option("--values", is_flag=True, help="What functions returned, as JSON; with --json also what they used.")
@click.option(
    "--template",
    callback=parsed(_template),
    metavar="NAME",
    help="With --extract: '{job}/{task:06}.{stream}'; also {attempt}, {state}.",
)
@click.option(
    "--html", type=click.Path(dir_okay=False, path_type=Path), metavar="FILE", help="Write one page with charts."
)
@click.option("--force", is_flag=True, help="With --extract and --html: replace existing files.")
@dsn_option
@json_option
def report(job: str | None, **options: Any) -> int:
    """How all jobs stand; how JOB stands and why tasks failed; or the outputs of tasks, byte for byte.

    JOB is a name, a number, or `last`, or the FILE.h5 of `mpifarm export`, which needs no queue; JOB.17 or JOB.3,7-9
    names its tasks. Works while runs are going on.

    \b
    Examples:
      mpifarm report
      mpifarm report scan
      mpifarm report scan --tasks 3,7-9 > outputs.txt
      mpifarm report scan.17 --follow
      mpifarm report scan --grep 'energy *=' --where 'seconds > 60 and node = nid0012'
      mpifarm report scan.17 --attempt all --both
      mpifarm report scan.17 --captured --extract files/
      mpifarm report scan --html scan.html
      mpifarm report last --extract outputs/ --template '{job}/{task:06}.{stream}'

    \b
    CONDITION compares task, state, class, exit_code, signal, seconds, node, attempts, started, left (processes that
    it left behind), command or entry by = != < <= > >= or ~ (a regular expression), and joins with: and or not ( )
    """
    from mpifarm.commands import report
    from mpifarm.commands.answer import tell
    from mpifarm.outputs.source import open_source
    from mpifarm.selection.report_options import Wanted, check

    wanted = Wanted(**options)
    check(job, wanted)
    with open_source(job, wanted.dsn) as client:
        missing = report.report(client, job, wanted)
    sys.stdout.flush()  # what is missing is said after what is there
    for sentence in missing.sentences:
        tell(sentence)
    return missing.code


@click.command(short_help="A line per task of a job.")
@click.argument("job")
@click.option("--state", "states", multiple=True, metavar="STATE", help="Only tasks in this state; may be repeated.")
@tasks_option
@where_option
@click.option(
    "--format",
    "form",
    type=click.Choice(["text", "json", "jsonl", "csv", "joblog", "parquet"]),
    help="joblog: as GNU parallel's.",
)
@click.option("--as-taskfile", is_flag=True, help="As a task file, to submit the same again.")
@dsn_option
@json_option
def tasks(job: str, dsn: str | None, **options: Any) -> None:
    """A line per task of JOB: task, state, how it failed, seconds, node, attempts, command.

    In a pipe the fields are separated by tabs and nothing is cut. In JSON, command bytes that are no UTF-8 are lone
    surrogates, as Python writes file names.

    \b
    Examples:
      mpifarm tasks scan --state failed
      mpifarm tasks scan --where 'seconds > 60 and node = nid0012'
      mpifarm tasks last --tasks 1-20 --json
      mpifarm tasks scan --format csv > tasks.csv
      mpifarm tasks scan --state failed --as-taskfile > again.txt
    """
    from mpifarm.commands.tasks import print_tasks
    from mpifarm.outputs.source import open_source
    from mpifarm.show.text import state_named

    if options["as_json"] and options["form"] not in (None, "json"):
        raise UsageError("--json or --format, not the two of them")
    if options["as_taskfile"] and (options["as_json"] or options["form"]):
        raise UsageError("--as-taskfile is a format of its own: leave out --json and --format")
    form = "taskfile" if options["as_taskfile"] else "json" if options["as_json"] else options["form"] or "text"
    states = [state_named(word) for word in options["states"]]
    with open_source(job, dsn) as client:
        print_tasks(client, job, options["ranges"], states, options["where"], form)
