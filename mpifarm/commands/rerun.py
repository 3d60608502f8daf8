"""`mpifarm rerun`: everything that ended waits again, also what succeeded. Must never import click or mpi4py."""

from __future__ import annotations

from typing import TYPE_CHECKING

from mpifarm.commands.retry import retry
from mpifarm.core.model import State

if TYPE_CHECKING:
    from mpifarm.queue.client import Client


def rerun(client: Client, selector: str, *, as_json: bool) -> None:
    retry(client, selector, [state for state in State if state.final], None, as_json=as_json)
