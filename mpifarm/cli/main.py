"""The command line: reads words, calls what does the work, and turns every ending into an exit code.

Only this module and its parts, `cli_*`, import click. What a command needs is imported inside it, so that `--help` and
a mistyped option answer at once. Must never import mpi4py: on a login node that alone may fail.
"""

from __future__ import annotations

import os
import sys
import traceback
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from math import inf
from pathlib import Path
from typing import Any

import click

from mpifarm import __version__
from mpifarm.cli.database import db
from mpifarm.cli.files import FILES
from mpifarm.cli.jobs import LIFECYCLE
from mpifarm.cli.looking import report, tasks
from mpifarm.cli.shared import dsn_option, parsed
from mpifarm.cli.submitting import submit
from mpifarm.errors import FarmError, UsageError
from mpifarm.intake.task_options import CPUS_MAX, GPUS_MAX, parse_resource
from mpifarm.rank.options import RunOptions
from mpifarm.rank.striping import Stripes, parse_stripe_size
from mpifarm.runfile.codec import CODECS, require
from mpifarm.units import parse_bytes, parse_duration

BUG = 70
"""Exit code when mpifarm itself is wrong (EX_SOFTWARE)."""
INTERRUPTED, UNREAD = 128 + 2, 128 + 13
"""As a shell reports those who died of SIGINT and SIGPIPE."""

_HELP = {"help_option_names": ["-h", "--help"], "max_content_width": 110}


def main(argv: Sequence[str]) -> int:
    """Run one command line (without the program's name) and return its exit code; raises nothing."""
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")
    try:
        try:
            code = _invoke(argv)
            sys.stdout.flush()
            return code
        except BrokenPipeError:
            # Who read us has seen enough (`| head`). Python flushes stdout once more at exit: let that go nowhere.
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            return UNREAD
    except KeyboardInterrupt:
        return INTERRUPTED
    except FarmError as error:
        return _tell(str(error), error.exit_code)
    except OSError as error:
        name = f"{os.fsdecode(error.filename)}: " if isinstance(error.filename, (str, bytes)) else ""
        return _tell(f"{name}{error.strerror or error}", 3)
    except Exception as error:
        hint = "" if _debugging() else "\n  this is a bug of mpifarm; MPIFARM_DEBUG=1 shows where"
        return _tell(f"{type(error).__name__}: {error}{hint}", BUG)


def parse_run(argv: Sequence[str]) -> RunOptions:
    """The options of `mpifarm run ARGV`. Raises UsageError, or SystemExit(0) once `--help` is answered."""
    try:
        with _usage_errors(), run.make_context("mpifarm run", list(argv)) as context:
            options = run.invoke(context)
    except click.exceptions.Exit as leave:
        raise SystemExit(leave.exit_code) from None
    assert isinstance(options, RunOptions)
    return options


def _invoke(argv: Sequence[str]) -> int:
    """The exit code that the command returns; 0 when it returns nothing."""
    try:
        with _usage_errors(), mpifarm.make_context("mpifarm", list(argv) or ["--help"]) as context:
            code = mpifarm.invoke(context)
            return code if isinstance(code, int) else 0
    except click.exceptions.Exit as leave:  # --help, --version
        return leave.exit_code


@contextmanager
def _usage_errors() -> Iterator[None]:
    """Click's errors as ours."""
    try:
        yield
    except click.Abort:
        raise KeyboardInterrupt from None
    except click.ClickException as error:
        context = getattr(error, "ctx", None)
        command = context.command_path if context else "mpifarm"
        raise UsageError(f"{error.format_message()}\n  see: {command} --help") from None


def _tell(text: str, code: int) -> int:
    if _debugging():
        traceback.print_exc()
    print(f"mpifarm: {text}", file=sys.stderr)
    return code


def _debugging() -> bool:
    return os.environ.get("MPIFARM_DEBUG", "") not in ("", "0")


class _InOrder(click.Group):
    """Lists commands in the order in which they are typed, not by letter."""

    def list_commands(self, _ctx: click.Context) -> list[str]:
        return list(self.commands)


@click.group(cls=_InOrder, context_settings=_HELP)
@click.version_option(__version__, "--version", message="mpifarm %(version)s")
def mpifarm() -> None:
    """Run millions of commands inside one allocation, outputs in one file.

    \b
      mpifarm submit tasks.txt
      srun mpifarm run              on a laptop: mpifarm run --local 4
      mpifarm report
    """


mpifarm.add_command(submit)


def _words(ctx: click.Context, param: click.Parameter, text: str | None) -> tuple[str, ...]:
    """`a,b` as its words."""
    if text is None:
        return ()
    words = tuple(word.strip() for word in text.split(","))
    if not all(words):
        raise click.BadParameter(f"{text!r} names nothing between its commas", ctx, param)
    return words


def _resources(ctx: click.Context, param: click.Parameter, words: tuple[str, ...]) -> tuple[tuple[str, int], ...]:
    """NAME=AMOUNT each, as Needs has them."""
    try:
        return tuple(sorted(dict(map(parse_resource, words)).items()))
    except UsageError as error:
        raise click.BadParameter(str(error).removeprefix("--resource: "), ctx, param) from None


def _patience(text: str) -> float:
    return inf if text == "inf" else parse_duration(text)


@mpifarm.command(short_help="Work on the queue, with every rank of an allocation.")
@click.option("--local", type=click.IntRange(1, 10_000), metavar="N", help="Start N ranks on this machine.")
@click.option(
    "--output",
    type=click.Path(file_okay=False, path_type=Path),
    default=".",
    metavar="DIR",
    help="Where the run file goes; made if missing.",
)
@click.option(
    "--grace",
    "grace_s",
    callback=parsed(parse_duration),
    default="30s",
    show_default=True,
    metavar="DUR",
    help="Given to running tasks when told to stop (after SIGTERM 20s at most).",
)
@click.option("--jobs", callback=_words, metavar="A,B", help="Work on these jobs only: names, numbers, last.")
@click.option(
    "--tags",
    callback=_words,
    metavar="WORD,...",
    help="Only jobs with the tag NAME, NAME=VALUE, or *; earlier words first.",
)
@click.option("--max-tasks", "tasks_max", type=click.IntRange(1), metavar="N", help="Begin N tasks at most, then end.")
@click.option(
    "--idle-exit", "idle_exit_s", callback=parsed(parse_duration), metavar="DUR", help="Leave after DUR without work."
)
@click.option(
    "--wait-for-work",
    "wait_for_work_s",
    is_flag=False,
    flag_value="inf",
    callback=parsed(_patience),
    metavar="[DUR]",
    help="Stay when the queue is empty, for DUR.",
)
@click.option(
    "--queue-timeout",
    "queue_timeout_s",
    callback=parsed(parse_duration),
    default="5m",
    show_default=True,
    metavar="DUR",
    help="Give up when idle and without queue for so long.",
)
@click.option(
    "--walltime",
    "walltime_s",
    callback=parsed(parse_duration),
    metavar="DUR",
    help="Time this run has; else asked of the batch system.",
)
@click.option(
    "--cpus", type=click.IntRange(1, CPUS_MAX), metavar="N", help="Slots per node; else the cores given to its ranks."
)
@click.option(
    "--mem", callback=parsed(parse_bytes), metavar="SIZE", help="Memory per node for tasks; else what is found."
)
@click.option("--gpus", type=click.IntRange(0, GPUS_MAX), metavar="N", help="GPUs per node; else what is found.")
@click.option(
    "--resource",
    multiple=True,
    callback=_resources,
    metavar="NAME=AMOUNT",
    help="What else each node has, such as licence=4.",
)
@click.option(
    "--reserve-cores", type=click.IntRange(0), default=0, metavar="N", help="Cores of a node that tasks do not get."
)
@click.option("--no-pin", is_flag=True, help="Do not hold each task to cores of its own.")
@click.option("--exit-code", is_flag=True, help="Exit with 1 when a task of this run failed.")
@click.option(
    "--compress", type=click.Choice(CODECS), default="gzip", help="How outputs are stored; zstd needs mpifarm[zstd]."
)
@click.option("-q", "--quiet", is_flag=True, help="No progress.")
@click.option(
    "--stripe-count",
    type=click.IntRange(-1, 2000),
    metavar="N",
    help="Lustre: servers that the run file is spread over; -1: all.",
)
@click.option(
    "--stripe-size",
    callback=parsed(parse_stripe_size),
    metavar="SIZE",
    help="Lustre: bytes on one server before the next, such as 1M.",
)
@click.option(
    "--pass-dsn", is_flag=True, help="Let tasks inherit MPIFARM_DSN, with the password in it; for nested submits."
)
@dsn_option
def run(stripe_count: int | None, stripe_size: int | None, **options: Any) -> RunOptions:
    """Work on the queue with every rank until nothing is left. One run writes one file, mpifarm-run-ID.h5.

    \b
    Examples:
      srun -n 4096 mpifarm run --output $SCRATCH
      mpiexec -n 8 mpifarm run
      mpifarm run --local 4
      srun -n 4096 mpifarm run --tags gpu,* --idle-exit 10m
      mpifarm run --local 4 --jobs scan --max-tasks 10
    """
    require(options["compress"])
    return RunOptions(**options, stripes=Stripes(stripe_count, stripe_size))


mpifarm.add_command(report)
mpifarm.add_command(tasks)
for verb in (*LIFECYCLE, *FILES):
    mpifarm.add_command(verb)
mpifarm.add_command(db)
