"""Reads what a submit wants done with attempts: --retries, --retry-on, --crash-limit, --keep, --capture; and --tag.

--retry-on is rules with `;` or `,` between: CLASS, CLASS:CODE, and =TIMES after either. `exit:137,signal:9;timeout=3`:
exit code 137 and signal 9 run again as often as --retries says (else once), a time limit three times, the rest never.
The first rule that fits counts. What walltime ended, or was lost with its node, always runs again and never counts;
`lost=3` is the crash limit in these words. Every refusal shows the spot. Never opens a file.
"""

from __future__ import annotations

import re
import signal
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

from mpifarm.core.job import keep as keeping
from mpifarm.core.job.capture import CapturePattern
from mpifarm.core.job.policy import CRASH_LIMIT, Policy, RetryRule
from mpifarm.core.model import FailureClass
from mpifarm.errors import UsageError
from mpifarm.units import format_bytes, parse_count

RETRIES_MAX = 1000
CRASHES_MAX = 1000
PATTERN_CHARACTERS_MAX = 1000
TAG_CHARACTERS_MAX = 200

_RULE = re.compile(r"([^:=]*)(?::([^=]*))?(?:=(.*))?", re.DOTALL)
_UNCHARGED = (FailureClass.NONE, FailureClass.WALLTIME, FailureClass.LOST, FailureClass.CANCELLED)
_CHARGED = tuple(failure.name.lower() for failure in FailureClass if failure not in _UNCHARGED)
_CODED = {"exit": "an exit code from 1 to 255", "signal": "a signal such as 9 or KILL"}


class Wish(NamedTuple):
    """A rule of --retry-on as it was written; `times` None: not said."""

    failure: FailureClass
    code: int | None
    times: int | None


@dataclass(frozen=True, slots=True)
class Wishes:
    """What the options say, as far as they were given."""

    retries: int | None = None
    retry_on: Sequence[Wish] | None = None
    crash_limit: int | None = None
    keep: str | None = None
    capture: tuple[str, ...] = ()

    def policy(self) -> Policy:
        """Raises UsageError when the crash limit is said twice."""
        rules = tuple(
            RetryRule(wish.failure, wish.code, (self.retries or 1) if wish.times is None else wish.times)
            for wish in self.retry_on or ()
            if wish.failure is not FailureClass.LOST
        )
        losses = [wish.times for wish in self.retry_on or () if wish.failure is FailureClass.LOST and wish.times]
        if losses and self.crash_limit is not None:
            raise UsageError("--crash-limit and lost=TIMES in --retry-on say the same: leave one out")
        # Lost that often it still runs again; once more and it has failed.
        crash_limit = losses[0] + 1 if losses else CRASH_LIMIT if self.crash_limit is None else self.crash_limit
        retries = 0 if self.retry_on is not None and not rules else self.retries or 0
        return Policy(retries, rules, crash_limit, self.keep or "all", self.capture)


def parse_retry_on(text: str) -> list[Wish]:
    """Raises UsageError, with the text and a caret under the spot."""
    wishes: list[Wish] = []
    start = 0
    for piece in re.split("[;,]", text):
        rule = piece.strip()
        at = start + len(piece) - len(piece.lstrip())
        start += len(piece) + 1
        try:
            wish = _wish(rule)
        except UsageError as error:
            raise UsageError(f"{error}\n{_excerpt(text, at)}") from None
        if wish is not None:
            wishes.append(wish)
    return wishes


def _wish(rule: str) -> Wish | None:
    """None: what is wished happens anyway."""
    match = _RULE.fullmatch(rule)
    assert match is not None
    name, code, times = (None if group is None else group.strip() for group in match.groups())
    name = (name or "").lower()
    if name not in (*_CHARGED, "lost", "walltime"):
        other = "what people cancelled does not run again by itself" if name == "cancelled" else None
        said = f"no failure class is called {name[:40]!r}" if name else "a rule is missing"
        raise UsageError(other or f"{said}: there are {', '.join(_CHARGED)} (and lost=TIMES)")
    if name == "walltime":
        if times is not None or code is not None:
            raise UsageError("what walltime ended always runs again and never counts: leave it out")
        return None
    if code is not None and name not in _CODED:
        raise UsageError(f"{name} has no code: only {' and '.join(_CODED)} have")
    number = None if code is None else _code(name, code)
    often = None if times is None else parse_count(times, f"{name}=TIMES", lowest=0, highest=RETRIES_MAX)
    if name == "lost" and not often:
        if often == 0:
            raise UsageError("lost=0 would fail tasks that did nothing wrong; --crash-limit 1 says so")
        return None
    return Wish(FailureClass[name.upper()], number, often)


def _code(name: str, code: str) -> int:
    if name == "exit":
        if re.fullmatch("[0-9]{1,3}", code) and 1 <= int(code) <= 255:
            return int(code)
    else:
        word = code.upper().removeprefix("SIG")
        if re.fullmatch("[0-9]{1,2}", code) and 1 <= int(code) <= 64:
            return int(code)
        if f"SIG{word}" in signal.Signals.__members__:
            return int(signal.Signals[f"SIG{word}"])
    raise UsageError(f"{code[:40]!r} is not {_CODED[name]}")


def _excerpt(text: str, at: int) -> str:
    start = max(0, at - 60)
    shown = "".join(character if character.isprintable() else "\N{REPLACEMENT CHARACTER}" for character in text)
    return f"    {shown[start : start + 100]}\n    {' ' * (at - start)}^"


def parse_tag(word: str) -> tuple[str, str]:
    """NAME=VALUE, or NAME with an empty value. Raises UsageError."""
    name, _, value = word.partition("=")
    if not name:
        raise UsageError(f"{word[:40]!r} is not NAME or NAME=VALUE")
    if len(word) > TAG_CHARACTERS_MAX:
        raise UsageError(f"{word[:20]!r}... is longer than {TAG_CHARACTERS_MAX} characters")
    if not word.isprintable():
        raise UsageError(f"{word!r} holds characters that cannot be shown")
    if name == "*" or "," in word:
        raise UsageError(f"{word!r}: * and commas mean something to run --tags")
    return name, value


def parse_crash_limit(text: str) -> int:
    """A number of lost nodes from 1 on; `never` is 0. Raises UsageError."""
    return 0 if text.strip().lower() == "never" else parse_count(text, "nodes lost", highest=CRASHES_MAX)


def parse_keep(text: str) -> str:
    """As `core.job.policy.Policy.keep` has it, a size in bytes. Raises UsageError."""
    try:
        keep = keeping.parse_keep(text.lower())
    except ValueError:
        most = format_bytes(keeping.TAIL_BYTES_MAX)
        raise UsageError(
            f"{text[:40]!r} is not all, failed, none or tail:SIZE such as tail:64K (at most {most})"
        ) from None
    return f"{keep.what}:{keep.tail_bytes}" if keep.what == keeping.TAIL else keep.what


def shared_capture(patterns: Sequence[str], tasks: int) -> str | None:
    """A warning of the first pattern by which the tasks of a job, so many, take the files of each other."""
    shared = next((text for text in patterns if not CapturePattern(text).own), None) if tasks > 1 else None
    if shared is None:
        return None
    return (
        f"warning: --capture {shared!r} holds nothing of the task's own, and all start in one directory: each takes"
        " what the others left there, too ({task} is its number, {} its entry: out-{task}.npy, {task}/*.npy)"
    )


def parse_capture(pattern: str) -> str:
    """A pattern of files in the task's directory: see `core.job.capture`. Raises UsageError."""
    if len(pattern) > PATTERN_CHARACTERS_MAX:
        raise UsageError(f"{pattern[:40]!r}... is longer than {PATTERN_CHARACTERS_MAX:,} characters")
    if not pattern.isprintable():
        raise UsageError(f"{pattern!r} holds characters that cannot be shown")
    try:
        CapturePattern(pattern)
    except ValueError as error:
        raise UsageError(str(error)) from None
    return pattern
