"""The variables from which libpq takes what a DSN does not say: PGHOST, PGSERVICE, PGOPTIONS and so on."""

from __future__ import annotations

import os
import threading
from collections.abc import Container, Iterator
from contextlib import contextmanager

from psycopg import pq

_PREFIX = "PG"
_NO_KEYWORD = ("PGDATESTYLE", "PGGEQO", "PGSERVICEFILE", "PGSYSCONFDIR", "PGTZ")
"""Those of which libpq does not tell with its keywords."""
_taken_away = threading.Lock()


@contextmanager
def none_of_them() -> Iterator[None]:
    """Inside, libpq finds none of them: what a user has set for other servers says nothing of our own."""
    with _taken_away:
        held = {name: value for name, value in os.environ.items() if name.startswith(_PREFIX)}
        for name in held:
            del os.environ[name]
        try:
            yield
        finally:
            os.environ.update(held)


def those_that_count(given: Container[str]) -> list[str]:
    """The names of those that are set and not overruled by a keyword in `given`. Their values may be secrets."""
    keywords = {entry.envvar.decode(): entry.keyword.decode() for entry in pq.Conninfo.get_defaults() if entry.envvar}
    count = [name for name, keyword in keywords.items() if keyword not in given]
    return sorted(name for name in (*count, *_NO_KEYWORD) if os.environ.get(name))
