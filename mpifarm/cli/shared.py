"""What several commands share: options, how an option's text is parsed, and the connection to the queue.

Must never import mpi4py; psycopg only when a command connects.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from mpifarm.errors import UsageError
from mpifarm.units import parse_ranges

if TYPE_CHECKING:
    from mpifarm.queue.client import Client
    from mpifarm.selection.where import Predicate


@contextmanager
def client_of(dsn: str | None, answer_s: float | None = None) -> Iterator[Client]:
    """A connection to the queue that the option, the environment or a configuration file names. `answer_s`: a silence
    of so many seconds is an error."""
    from mpifarm.queue.client import Client
    from mpifarm.server.dsn import find_dsn

    with Client.connect(find_dsn(dsn, os.environ, Path.cwd()), answer_s) as client:
        yield client


def parsed(parse: Callable[[str], Any]) -> Callable[[click.Context, click.Parameter, str | None], Any]:
    """An option's callback: its text through `parse`, whose refusal becomes one of the option."""

    def callback(ctx: click.Context, param: click.Parameter, value: str | None) -> Any:
        try:
            return None if value is None else parse(value)
        except UsageError as error:
            raise click.BadParameter(str(error), ctx, param) from None

    return callback


def _where(text: str) -> Predicate:
    from mpifarm.selection.where import parse_where

    return parse_where(text)


dsn_option = click.option(
    "--dsn", metavar="DSN", help="The queue's database, as libpq takes it; else MPIFARM_DSN or .mpifarm.toml."
)
json_option = click.option("--json", "as_json", is_flag=True, help="Print JSON, for programs.")
tasks_option = click.option(
    "--tasks", "ranges", callback=parsed(parse_ranges), metavar="RANGES", help="Only these: 3,7-9."
)
where_option = click.option(
    "--where", callback=parsed(_where), metavar="CONDITION", help="Only tasks like this: 'seconds > 60 and node = n12'."
)
