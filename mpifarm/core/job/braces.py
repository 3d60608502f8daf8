"""Texts with fields in braces, `{task:06}`: a few that are named, no format strings of Python. Pure."""

from __future__ import annotations

import re
from collections.abc import Collection
from string import Formatter

NUMBERS = ("task", "attempt")
"""Fields that may be said to have leading zeros."""

_WIDTH = re.compile(r"0?[1-9]?[0-9]?d?")

Parts = list[tuple[str, str | None, str]]
"""Text, the field behind it if there is one, and its width."""


def parse(text: str, known: Collection[str], there_are: str) -> Parts:
    """Raises ValueError with the reason; `there_are`: that of a field that is not known."""
    parts = [(literal, field, spec or "", conversion) for literal, field, spec, conversion in Formatter().parse(text)]
    for _, field, spec, conversion in parts:
        if field is not None and (field not in known or conversion):
            raise ValueError(there_are)
        if spec and (field not in NUMBERS or not _WIDTH.fullmatch(spec)):
            raise ValueError(f"{{{field}:{spec}}} is not understood; {{task:06}} is, for leading zeros")
    return [part[:3] for part in parts]
