"""What can be said of one task: `#MPIFARM --cpus 4`, `"cpus": 4` in a JSON record, `Command(cpus=4)` in Python.

One more is one line of OPTIONS (and an option of `cli/submitting.py`, which says it for all). Never opens a file.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

from mpifarm.core.needs import Needs
from mpifarm.errors import UsageError
from mpifarm.units import parse_count, parse_duration

CPUS_MAX = 65_535


class TaskOption(NamedTuple):
    """A word of the user for a field of Needs."""

    flag: str
    field: str
    parse: Callable[[str], Any]
    """Raises UsageError."""

    @property
    def key(self) -> str:
        """Its name in JSON and Python."""
        return self.flag[2:].replace("-", "_")

    def put(self, needs: Needs, text: str) -> Needs:
        """The needs with what the text says. Raises UsageError."""
        return needs._replace(**{self.field: self.parse(text)})

    def put_value(self, needs: Needs, value: object) -> Needs:
        """The needs with a value of JSON: a number is read as its digits are. Raises UsageError."""
        if isinstance(value, bool) or not isinstance(value, (str, int, float)):
            raise UsageError(f"{json.dumps(value)[:60]} is not a value for it")
        return self.put(needs, str(value))


OPTIONS = (
    TaskOption("--cpus", "cpus", partial(parse_count, what="--cpus", highest=CPUS_MAX)),
    TaskOption("--time-limit", "time_limit_s", parse_duration),
)
BY_FLAG = {option.flag: option for option in OPTIONS}
BY_KEY = {option.key: option for option in OPTIONS}

PER_JOB = (
    "--name", "--job", "--hold", "--priority", "--tag", "--dedupe", "--once", "--retries", "--retry-on",
    "--crash-limit", "--max-fails", "--keep", "--capture", "--after", "--afterany",
)  # fmt: skip
"""What is said once for all tasks of a submit."""


def flags() -> str:
    """--cpus, --time-limit..., for a sentence."""
    names = [option.flag for option in OPTIONS]
    return f"{', '.join(names[:-1])} and {names[-1]}"
