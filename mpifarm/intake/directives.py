"""Reads `#MPIFARM` lines: what the lines after them need, and barriers between them.

`#MPIFARM --cpus 4 --time-limit=10m` replaces the options it names until the next such line; 0s is no limit. What is
said once for a job, such as --retries, is refused here. `#MPIFARM BARRIER [CHECK]` are disBatch's words.
"""

from __future__ import annotations

import re

from mpifarm.core.model import Parent
from mpifarm.core.needs import Needs
from mpifarm.errors import UsageError
from mpifarm.intake.parents import Unclear
from mpifarm.intake.task_options import PER_JOB, flags, reader

DIRECTIVE = re.compile(rb"[ \t]*#MPIFARM(?=[ \t]|$)")

_WORD = re.compile(rb"[^ \t=]+|=")
_VALUE = re.compile(rb"(?:[ \t]*=[ \t]*|[ \t]+)([^ \t=][^ \t]*)")


class Barrier:
    """What the lines after a barrier wait for. Pure.

    After BARRIER: all tasks before it have ended. After BARRIER CHECK: also, those since the barrier before have
    succeeded (and so, when they began, has what they waited for).
    """

    def __init__(self) -> None:
        self.parents: tuple[Parent, ...] = ()
        self._since = self._since_before = 1
        """The first task after the last barrier, and after the one before."""

    def put(self, tasks: int, check: bool) -> None:
        """After so many tasks. Of two barriers with nothing between the stricter counts."""
        lo, hi = self._since if self._since <= tasks else self._since_before, tasks + 1
        if not tasks:
            return
        checked = tuple(parent for parent in self.parents if not parent.any)
        if check:
            self.parents = (Parent(lo, hi),)
        elif self._since <= tasks:
            ended = [parent.lo for parent in self.parents if parent.any]
            self.parents = (*checked, Parent(min([lo, *ended]), hi, True))
        self._since_before, self._since = lo, hi


def parse_barrier(line: bytes, start: int) -> bool | None:
    """Whether it is a BARRIER CHECK; None when it is no barrier. Raises Unclear."""
    words = list(_WORD.finditer(line, start))
    if not words or words[0][0] != b"BARRIER":
        return None
    if len(words) > 1 and words[1][0] != b"CHECK":
        raise Unclear(words[1].start(), "after BARRIER comes CHECK or nothing (options stand in a line of their own)")
    if len(words) > 2:
        raise Unclear(words[2].start(), "after BARRIER CHECK comes nothing (options stand in a line of their own)")
    return len(words) == 2


def parse_options(line: bytes, start: int, needs: Needs) -> Needs:
    """`needs` with the options of the directive replaced: `--option value` or `--option=value`. Raises Unclear."""
    word = _WORD.search(line, start)
    if word is None:
        raise Unclear(start, f"the directive names no option ({flags()}) and no BARRIER")
    while word is not None:
        option = _shown(word[0])
        put = reader(option)
        if put is None:
            raise Unclear(word.start(), _not_here(option))
        value = _VALUE.match(line, word.end())
        if value is None:
            raise Unclear(word.start(), f"{option} has no value")
        try:
            needs = put(needs, _shown(value[1]))
        except UsageError as error:
            raise Unclear(value.start(1), str(error)) from None
        word = _WORD.search(line, value.end())
    return needs


def _not_here(option: str) -> str:
    if option in PER_JOB:
        return f"{option} is for all tasks of a submit, not for some lines: mpifarm submit {option} ..."
    there = f"there are {flags()}"
    return f"unknown option {option!r} ({there}{', and BARRIER [CHECK]' if not option.startswith('--') else ''})"


def _shown(text: bytes) -> str:
    return text.decode("utf-8", "replace")
