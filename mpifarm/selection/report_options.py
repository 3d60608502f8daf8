"""What `mpifarm report` was asked for, as plain data, and which of its options make sense together. Pure."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from mpifarm.core.row import STDERR, STDOUT
from mpifarm.errors import UsageError
from mpifarm.selection.template import DEFAULT, DEFAULT_OF_ATTEMPTS, Template
from mpifarm.selection.where import Predicate, compile_pattern
from mpifarm.units import parse_count

Ranges = Sequence[tuple[int, int]]
"""Task numbers, half-open."""

ALL = 0
"""The number that stands for all attempts; real ones count from 1."""

_OF_TASKS = re.compile(r"(.+)\.(\d[\d,:_-]*)")
"""JOB.17, JOB.3,7-9."""


@dataclass(frozen=True, slots=True)
class Wanted:
    """The options of one `mpifarm report`; the defaults are those of the command line."""

    ranges: Ranges | None = None
    only_stderr: bool = False
    both: bool = False
    attempt: int | None = None
    """None: the one that counts. ALL, or a number."""
    follow: bool = False
    where: Predicate | None = None
    pattern: re.Pattern[bytes] | None = None
    html: Path | None = None
    extract: Path | None = None
    captured: bool = False
    values: bool = False
    template: Template | None = None
    force: bool = False
    dsn: str | None = None
    """As it was typed, for the next command to type."""
    as_json: bool = False

    @property
    def streams(self) -> tuple[int, ...]:
        return (STDOUT, STDERR) if self.both else (STDERR,) if self.only_stderr else (STDOUT,)

    @property
    def names(self) -> Template:
        """How extracted files are called."""
        return self.template or Template(DEFAULT if self.attempt is None else DEFAULT_OF_ATTEMPTS)


def parse_attempt(text: str) -> int:
    """`all` or a number. Raises UsageError."""
    return ALL if text.strip().lower() == "all" else parse_count(text, "an attempt", highest=2**16 - 1)


def parse_pattern(text: str) -> re.Pattern[bytes]:
    """A regular expression for the bytes that were typed. Raises UsageError."""
    return compile_pattern(os.fsencode(text))


def named_tasks(selector: str) -> tuple[str, str] | None:
    """JOB and RANGES of `JOB.RANGES`."""
    match = _OF_TASKS.fullmatch(selector)
    return None if match is None else (match[1], match[2])


def check(job: str | None, wanted: Wanted) -> None:
    """Raises UsageError for options that make no sense together, before the queue is asked."""
    tasks = wanted.ranges is not None or (job is not None and named_tasks(job) is not None)
    outputs = tasks or wanted.extract is not None or wanted.pattern is not None or wanted.captured
    outputs = outputs or wanted.values
    if wanted.html is not None and (job is None or outputs or wanted.as_json):
        raise UsageError("--html is about a whole job: mpifarm report JOB --html FILE")
    if job is None and (outputs or wanted.follow or wanted.where or wanted.attempt is not None):
        raise UsageError("of which job? mpifarm report JOB --tasks ... (mpifarm report lists the jobs)")
    typed = wanted.ranges is not None or wanted.extract is not None or wanted.pattern is not None
    if wanted.values and (wanted.extract or wanted.pattern or wanted.captured or wanted.follow or wanted.only_stderr):
        raise UsageError("--values goes with --tasks, --where, --attempt and --json")
    if wanted.as_json and typed and not wanted.values:
        raise UsageError("outputs are bytes, not JSON: leave out --json (mpifarm tasks JOB --json has the rest)")
    if wanted.extract is not None:
        if wanted.only_stderr or wanted.both:
            raise UsageError("--stderr and --both go with --tasks; --extract writes both streams anyway")
        if wanted.attempt == ALL and "attempt" not in wanted.names.fields:
            raise UsageError("--attempt all needs {attempt} in the --template, or two outputs would get one name")
    elif wanted.template is not None:
        raise UsageError("--template goes with --extract")
    elif wanted.force and wanted.html is None:
        raise UsageError("--force goes with --extract and --html")
    if (wanted.only_stderr or wanted.both) and not outputs:
        raise UsageError("--stderr and --both go with --tasks and --grep")
    if wanted.only_stderr and wanted.both:
        raise UsageError("--stderr or --both, not the two of them")
    if wanted.captured and (wanted.pattern or wanted.follow or wanted.template or wanted.only_stderr or wanted.both):
        raise UsageError("--captured goes with --tasks, --where, --attempt and --extract")
    if wanted.extract is not None and wanted.pattern is not None:
        raise UsageError("--grep or --extract, not the two of them")
    if (wanted.where or wanted.attempt is not None) and not outputs:
        raise UsageError(
            "--where and --attempt go with --tasks, --grep and --extract (--where also: mpifarm tasks JOB)"
        )
    if wanted.follow:
        _check_follow(tasks, wanted)


def _check_follow(tasks: bool, wanted: Wanted) -> None:
    if not tasks:
        raise UsageError("--follow goes with --tasks: say which, as in --tasks 17")
    if wanted.extract is not None or wanted.pattern is not None or wanted.where or wanted.attempt is not None:
        raise UsageError("--follow goes with --tasks, --stderr and --both alone")
