"""`mpifarm submit` as it is typed. Must never import mpi4py."""

from __future__ import annotations

from collections.abc import Callable
from functools import reduce
from typing import Any

import click

from mpifarm.cli.jobs import priority_option, tag_option
from mpifarm.cli.shared import client_of, dsn_option, json_option, parsed
from mpifarm.core.needs import Needs
from mpifarm.errors import UsageError
from mpifarm.intake.attempt_options import RETRIES_MAX, parse_capture, parse_crash_limit, parse_keep, parse_retry_on
from mpifarm.intake.task_options import OPTIONS, SPELLINGS

NEEDS = "mpifarm.needs"


def _each(parse: Callable[[str], str]) -> Callable[[click.Context, click.Parameter, tuple[str, ...]], tuple[str, ...]]:
    """The callback of an option that may be repeated."""

    def callback(ctx: click.Context, param: click.Parameter, values: tuple[str, ...]) -> tuple[str, ...]:
        try:
            return tuple(map(parse, values))
        except UsageError as error:
            raise click.BadParameter(str(error), ctx, param) from None

    return callback


def _needs(read: Callable[[Needs, str], Needs]) -> Callable[[click.Context, click.Parameter, tuple[str, ...]], None]:
    """The callback of an option that says what tasks need."""

    def callback(ctx: click.Context, param: click.Parameter, values: tuple[str, ...]) -> None:
        try:
            ctx.meta[NEEDS] = reduce(read, values, ctx.meta.get(NEEDS, Needs()))
        except UsageError as error:
            raise click.BadParameter(str(error).removeprefix(f"{param.opts[0]}: "), ctx, param) from None

    return callback


def _needs_options(command: Callable[..., int]) -> Callable[..., int]:
    """Every option of the table; what others call the same is taken and not shown."""
    for name, read in SPELLINGS.items():
        command = click.option(
            name,
            f"needs_{name.strip('-').replace('-', '_')}",
            multiple=True,
            expose_value=False,
            hidden=True,
            callback=_needs(read),
        )(command)
    for option in reversed(OPTIONS):
        command = click.option(
            option.flag,
            multiple=True,
            expose_value=False,
            metavar=option.metavar,
            help=option.help,
            callback=_needs(option.put),
        )(command)
    return command


class _Submit(click.Command):
    """Everything after `--` is the user's command: kept away from click, which would look for options in it."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        if "--" in args:
            at = args.index("--")
            ctx.obj = args[at + 1 :]
            args = args[:at]
        elif marks := [at for at, word in enumerate(args) if word in (":::", "::::")]:
            ctx.obj = args[marks[0] :]  # values without a command: of --function, or commands themselves
            args = args[: marks[0]]
        return super().parse_args(ctx, args)


@click.command(cls=_Submit, short_help="Put a job in the queue.")
@click.argument("files", nargs=-1, metavar="[FILE | -]  [-- COMMAND {} [::: VALUE...]]")
@click.option("--array", metavar="RANGES", help="A task per number, {} in COMMAND: 1-100, 0-90:10.")
@click.option("--each-line", metavar="FILE", help="A task per line of FILE, {} in COMMAND.")
@click.option("--from-json", metavar="FILE", help="A task per object of a JSON array or of JSON lines.")
@click.option("--function", metavar="PKG.MOD:F", help="Call this Python function, with each of the values.")
@click.option("--name", metavar="NAME", help="Name of the job; else made from the file's.")
@click.option("--job", metavar="JOB", help="Add to a job that is there, also while it runs.")
@click.option("--hold", is_flag=True, help="Do not begin until `mpifarm set JOB --release`.")
@priority_option
@tag_option
@click.option("--dedupe", is_flag=True, help="Skip tasks that have succeeded here, or are queued, in any job.")
@click.option("--once", is_flag=True, help="Skip also those that failed: safe to repeat in a requeued batch script.")
@_needs_options
@click.option("--retries", type=click.IntRange(0, RETRIES_MAX), metavar="N", help="How often a failed task runs again.")
@click.option(
    "--retry-on",
    callback=parsed(parse_retry_on),
    metavar="RULES",
    help="Only after these: 'exit:137,signal:9;timeout=3'; =TIMES, else --retries, else once.",
)
@click.option(
    "--crash-limit",
    callback=parsed(parse_crash_limit),
    metavar="N|never",
    help="A task lost with N nodes has failed; else 5.",
)
@click.option(
    "--max-fails",
    type=click.IntRange(0, 2**31 - 1),
    metavar="N",
    help="More failed tasks than N stop the job; others that end within about a second may fail too.",
)
@click.option(
    "--keep",
    callback=parsed(parse_keep),
    metavar="WHAT",
    help="Of outputs: all, failed, none, tail:64K of each; else all.",
)
@click.option(
    "--capture",
    multiple=True,
    callback=_each(parse_capture),
    metavar="PATTERN",
    help="Files of a task's directory to keep too, as out-{task}.npy; may be repeated.",
)
@click.option(
    "--after", multiple=True, metavar="JOB[.T]", help="Wait until these have succeeded: scan, scan.17, scan.1-9."
)
@click.option("--afterany", multiple=True, metavar="JOB[.T]", help="Wait until these have ended, however they did.")
@dsn_option
@json_option
@click.pass_context
def submit(ctx: click.Context, /, files: tuple[str, ...], **options: Any) -> int:
    """Put a job in the queue: a file with a command per line, or one command and what to fill in.

    \b
    Examples:
      mpifarm submit tasks.txt
      generate-tasks | mpifarm submit - --name scan
      mpifarm submit --time-limit 10m -- python fit.py {} ::: a.fits b.fits c.fits
      mpifarm submit --array 1-100 -- ./simulate --seed {}
      mpifarm submit --each-line molecules.smi --cpus 4 -- dock {}
      mpifarm submit --function mymodel:fit --from-json params.json
      mpifarm submit more.txt --job scan --dedupe
      mpifarm submit merge.txt --after scan --retries 2 --max-fails 100

    \b
    In the file, `[# 1-9 #] merge` waits for tasks 1 to 9 of the file, `[# -1 #] ...` for the one before;
    #MPIFARM BARRIER lets what follows wait for all before, BARRIER CHECK wants success. In --from-json
    records, "requires": [1, "a name"] and "requires_any" say so, and "cpus": 4, "time_limit": "10m" what
    one needs. What --after names are its tasks of now; exit code 1: some are
    cancelled already, since those have failed.
    """
    from mpifarm.commands import submit as submitting

    request = submitting.Request(files, ctx.obj, needs=ctx.meta.get(NEEDS, Needs()), **options)
    submitting.check(request)
    with submitting.Interruptible() as until_commit, client_of(request.dsn) as client:
        return submitting.submit(client, request, until_commit)
