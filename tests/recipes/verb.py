"""`mpifarm count JOB`: how many tasks it has."""

NEW = {
    "mpifarm/commands/count.py": '''\
"""`mpifarm count`: how many tasks a job has. Must never import click or mpi4py."""

from __future__ import annotations

from typing import TYPE_CHECKING

from mpifarm.commands.answer import say
from mpifarm.commands.meant import choose
from mpifarm.core.plural import counted

if TYPE_CHECKING:
    from mpifarm.queue.client import Client


def count(client: Client, selector: str, *, as_json: bool) -> None:
    jobs = [job for job, _ in choose(client, selector)]
    objects = [{"name": job.name, "tasks": job.total} for job in jobs]
    say(objects, (f"{job.name}: {counted(job.total, 'task')}" for job in jobs), as_json)
'''
}

EDITS = [
    (
        "mpifarm/cli/jobs.py",
        "LIFECYCLE = (set_, ",
        '''\
@click.command(short_help="How many tasks a job has.")
@click.argument("job")
@dsn_option
@json_option
def count(job: str, dsn: str | None, as_json: bool) -> None:
    """How many tasks JOB has. JOB is a name, a number, `last` or `all`."""
    from mpifarm.commands import count

    with client_of(dsn) as client:
        count.count(client, job, as_json=as_json)


LIFECYCLE = (count, set_, ''',
    )
]

CALLED = {"mpifarm/commands/count.py": "mpifarm/commands/VERB.py"}
FILES_MAX = 4
TESTS = ["tests/test_architecture.py"]
SAYS = (["count", "--help"], "How many tasks JOB has.")
