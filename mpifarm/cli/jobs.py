"""The commands that change jobs in the queue, wait for them and explain them. Must never import mpi4py."""

from __future__ import annotations

from typing import Any

import click

from mpifarm.cli.shared import client_of, dsn_option, json_option, parsed
from mpifarm.core.model import FailureClass, Limits, State
from mpifarm.errors import UsageError
from mpifarm.intake.attempt_options import parse_tag
from mpifarm.units import parse_duration

WRONG = 3
"""What `wait` exits with when it cannot know."""


def _tags(ctx: click.Context, param: click.Parameter, words: tuple[str, ...]) -> dict[str, str]:
    try:
        return dict(map(parse_tag, words))
    except UsageError as error:
        raise click.BadParameter(str(error), ctx, param) from None


def _classes(text: str) -> list[FailureClass]:
    names = {failure.name.lower(): failure for failure in FailureClass if failure}
    words = [word.strip().lower() for word in text.split(",")]
    for word in words:
        if word not in names:
            raise UsageError(f"no failure class is called {word!r}; there are {', '.join(names)}")
    return [names[word] for word in words]


priority_option = click.option(
    "--priority",
    type=click.IntRange(-(2**31), 2**31 - 1),
    metavar="N",
    help="Jobs with a higher one go first; else 0.",
)
tag_option = click.option(
    "--tag",
    "tags",
    multiple=True,
    callback=_tags,
    metavar="NAME[=VALUE]",
    help="May be repeated; shown in reports, chosen by run --tags.",
)


@click.command("set", short_help="Change priority, hold or tags of a job.")
@click.argument("job")
@priority_option
@tag_option
@click.option("--hold", is_flag=True, help="Begin no more of its tasks.")
@click.option("--release", is_flag=True, help="Begin them again.")
@dsn_option
@json_option
def set_(job: str, dsn: str | None, hold: bool, release: bool, **options: Any) -> None:
    """Change JOB at once, however many tasks it has. What runs goes on; the next lease goes by what is set here.

    JOB is a name, a number, `last` or `all`.

    \b
    Examples:
      mpifarm set scan --priority 10
      mpifarm set scan --hold
      mpifarm set all --release
    """
    from mpifarm.commands.set import set_jobs

    if hold and release:
        raise UsageError("--hold or --release, not the two of them")
    held = True if hold else False if release else None
    if held is None and options["priority"] is None and not options["tags"]:
        raise UsageError("set what? --priority N, --tag NAME[=VALUE], --hold or --release")
    with client_of(dsn) as client:
        set_jobs(client, job, options["priority"], held, options["tags"], as_json=options["as_json"])


@click.command(short_help="Run failed and cancelled tasks again.")
@click.argument("job")
@click.option(
    "--state",
    "states",
    type=click.Choice(["failed", "cancelled"]),
    multiple=True,
    help="Only tasks that ended so; else both. May be repeated.",
)
@click.option("--class", "classes", callback=parsed(_classes), metavar="CLASSES", help="Only these: oom,timeout.")
@dsn_option
@json_option
def retry(
    job: str, dsn: str | None, states: tuple[str, ...], classes: list[FailureClass] | None, as_json: bool
) -> None:
    """Failed and cancelled tasks of JOB wait again, as their next attempt; what happened before stays on record.

    JOB is a name, a number, `last` or `all`; JOB.17 or JOB.10-20 names its tasks. Works while runs are going on.

    \b
    Examples:
      mpifarm retry scan
      mpifarm retry scan --class oom,timeout
      mpifarm retry scan.17
    """
    from mpifarm.commands import retry

    wanted = [State[name.upper()] for name in states] or [State.FAILED, State.CANCELLED]
    with client_of(dsn) as client:
        retry.retry(client, job, wanted, classes, as_json=as_json)


@click.command(short_help="Run finished tasks again, also those that succeeded.")
@click.argument("job")
@click.option("--force", is_flag=True, help="Yes, also what succeeded.")
@dsn_option
@json_option
def rerun(job: str, dsn: str | None, force: bool, as_json: bool) -> None:
    """All tasks of JOB that have ended wait again. The outputs so far are kept as those of superseded attempts.

    \b
    Examples:
      mpifarm rerun scan --force
      mpifarm rerun scan.17 --force
    """
    from mpifarm.commands import rerun

    if not force:
        raise UsageError("rerun also takes tasks that succeeded: say --force (mpifarm retry takes the others)")
    with client_of(dsn) as client:
        rerun.rerun(client, job, as_json=as_json)


@click.command(short_help="Cancel tasks, also those that run.")
@click.argument("job")
@click.option("--wait", is_flag=True, help="Come back when the running ones have ended.")
@dsn_option
@json_option
def cancel(job: str, dsn: str | None, wait: bool, as_json: bool) -> None:
    """Tasks of JOB that have not begun will not run, nor what waits for their success; mpifarm retry revives them.

    The runs that hold others are asked to end them: they hear of it within seconds, what runs gets SIGTERM and later
    SIGKILL, and what ends by itself before that counts as it ended.
    JOB is a name, a number, `last` or `all`; JOB.17 or JOB.10-20 names its tasks.

    \b
    Examples:
      mpifarm cancel scan
      mpifarm cancel scan.100-200 --wait
    """
    from mpifarm.commands import cancel

    with client_of(dsn) as client:
        cancel.cancel(client, job, wait=wait, as_json=as_json)


@click.command(short_help="Let a run finish and exit.")
@click.argument("run")
@click.option("--now", is_flag=True, help="Running tasks get the grace of the run; else as long as they take.")
@dsn_option
@json_option
def drain(run: str, dsn: str | None, now: bool, as_json: bool) -> None:
    """RUN begins nothing more, ends with the tasks that it runs, and gives the rest back; from anywhere.

    RUN is a number, as `mpifarm runs` shows it, or `last` or `all`. It hears of it within seconds.

    \b
    Examples:
      mpifarm drain 7
      mpifarm drain all --now
    """
    from mpifarm.commands import drain

    with client_of(dsn) as client:
        drain.drain(client, run, now=now, as_json=as_json)


@click.command(short_help="Take back what dead runs hold.")
@click.option("--dry-run", is_flag=True, help="Only say what would be taken back.")
@dsn_option
@json_option
def recover(dsn: str | None, dry_run: bool, as_json: bool) -> None:
    """Tasks that dead runs hold wait again, now. A working run does the same once it has nothing else to do.

    Dead is a run that ended, one not heard of for a minute, and one whose process on this machine is gone.
    """
    from mpifarm.commands import recover

    with client_of(dsn) as client:
        recover.recover(client, dry_run=dry_run, as_json=as_json)


@click.command(short_help="Delete a job from the queue.")
@click.argument("job")
@click.option("--yes", metavar="NAME", help="The job's name, for scripts; else it is asked for.")
@dsn_option
@json_option
def drop(job: str, dsn: str | None, yes: str | None, as_json: bool) -> None:
    """Delete JOB with its tasks and outcomes from the queue. Run files stay as they are.

    Refused while a live run holds tasks of it.
    """
    from mpifarm.commands import drop

    with client_of(dsn) as client:
        found = client.find(job)
        if yes is None:
            click.echo(drop.doomed(found), err=True)
            yes = click.prompt("Type its name to delete it", err=True)
        if yes != found.name:
            raise UsageError(f"the job is called {found.name}, not {yes}; nothing was deleted")
        drop.drop(client, found, as_json=as_json)


@click.command(short_help="Wait until a job has ended.")
@click.argument("job")
@click.option("--timeout", "timeout_s", callback=parsed(parse_duration), metavar="DUR", help="Give up: 90s, 2h.")
@dsn_option
@json_option
def wait(job: str, dsn: str | None, timeout_s: float | None, as_json: bool) -> int:
    """Wait until all tasks of JOB have ended. JOB is a name, a number, `last` or `all`; JOB.10-20 names its tasks.

    \b
    Exit codes:
      0    all succeeded
      1    some failed
      2    none failed, some were cancelled
      3    not known: no such job, no queue
      124  not within --timeout
    """
    from mpifarm.commands import wait
    from mpifarm.errors import FarmError

    try:
        with client_of(dsn, answer_s=Limits().answer_s) as client:
            return wait.wait(client, job, timeout_s, as_json=as_json)
    except FarmError as error:
        click.echo(f"mpifarm: {error}", err=True)
        return WRONG


@click.command(short_help="The runs that work on the queue.")
@click.option("--all", "everything", is_flag=True, help="Also all that have ended; else live ones and the last 10.")
@dsn_option
@json_option
def runs(dsn: str | None, everything: bool, as_json: bool) -> None:
    """Live and past runs: where, how big, how fast, what they take, how long since they were heard of, what
    time their allocation has left, how many tasks they have claimed now, and what they did."""
    from mpifarm.commands import runs as of_runs

    with client_of(dsn) as client:
        of_runs.show_runs(client, everything=everything, as_json=as_json)


@click.command(short_help="Why a job or task is not running, or what happened to it.")
@click.argument("job")
@dsn_option
@json_option
def explain(job: str, dsn: str | None, as_json: bool) -> None:
    """Why JOB or JOB.17 is not running, who runs it, or what happened to it, attempt by attempt.

    JOB is a name, a number, `last` or `all`; JOB.17 or JOB.10-20 names its tasks.

    \b
    Examples:
      mpifarm explain scan
      mpifarm explain scan.17
    """
    from mpifarm.commands import explain as explaining

    with client_of(dsn) as client:
        explaining.explain(client, job, dsn, as_json=as_json)


LIFECYCLE = (set_, retry, rerun, cancel, wait, explain, runs, drain, recover, drop)
