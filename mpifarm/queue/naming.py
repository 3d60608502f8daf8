"""Names of jobs: which there may be, and which job is meant by one. Part of `queue.client` and of `queue.run_verbs`."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterator
from pathlib import PurePath

from mpifarm.core.model import JobId
from mpifarm.errors import UsageError
from mpifarm.queue.connection import Connection
from mpifarm.queue.statements import queries

SQL = queries()

_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.+-]{0,99}")
_TAKEN_WORDS = ("last", "all")
"""They choose jobs."""


def called(connection: Connection, selector: str) -> tuple[JobId, str]:
    """The job with this name or number, or the youngest for `last`. Raises UsageError with near names."""
    jobs = connection.execute(SQL["job_names"]).fetchall()
    if not jobs:
        raise UsageError(f"no job is called {selector[:100]!r}: there are no jobs yet")
    names = {name: number for number, name in jobs}
    numbers = {str(number): number for number in names.values()}
    numbers["last"] = jobs[-1][0]
    found = names.get(selector, numbers.get(selector))
    if found is None:
        near = difflib.get_close_matches(selector, names, n=3, cutoff=0.5) or [name for _, name in jobs[-3:]]
        raise UsageError(f"no job is called {selector[:100]!r}; there is {', '.join(near)}")
    return JobId(found), next(name for name, number in names.items() if number == found)


def free_names(source: str) -> Iterator[str]:
    """Names made from where the tasks came from: tasks.txt is tasks, then tasks-2, tasks-3 ..."""
    stem = re.sub(r"[^A-Za-z0-9_.+-]+", "-", PurePath(source).stem).strip("-.+")[:80]
    if not stem or stem.isdigit() or stem in _TAKEN_WORDS:
        stem = f"job-{stem}" if stem else "job"
    yield stem
    for number in range(2, 1_000_000):
        yield f"{stem}-{number}"


def check_name(name: str) -> None:
    """Raises UsageError for what cannot be the name of a job."""
    if name.isdigit() or name in _TAKEN_WORDS or not _NAME.fullmatch(name):
        raise UsageError(
            f"{name[:100]!r} cannot be the name of a job: 100 letters, digits and _ . + - at most make one;"
            " digits alone, `last` and `all` do not"
        )


def taken(name: str) -> UsageError:
    """What is said of a name that a job has."""
    return UsageError(f"there is a job called {name!r} already; nothing was submitted")
