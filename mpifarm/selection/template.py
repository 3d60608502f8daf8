"""How extracted files are called: `{job}/{task:06}.{stream}`. Pure.

A template is no format string of Python: it has the five fields below and nothing else, so that no name can be made
that says more than they do. Names are relative, made of plain components: `..` is refused however it comes about.
"""

from __future__ import annotations

import re

from mpifarm.core.job import braces
from mpifarm.core.row import STDERR, STDOUT
from mpifarm.errors import UsageError

SUFFIXES = {STDOUT: "out", STDERR: "err"}
DEFAULT, DEFAULT_OF_ATTEMPTS = "{task}.{stream}", "{task}.{attempt}.{stream}"

_EXAMPLE: dict[str, int | str] = {"task": 1, "attempt": 1, "job": "scan", "stream": "out", "state": "failed"}
_MATCHING = {
    "task": "(?P<task>[0-9]+)",
    "attempt": "[0-9]+",
    "job": "[^/]+",
    "stream": "(?:out|err)",
    "state": "[a-z]+",
}


class Template:
    """Raises UsageError for a text that is no template, or could give two outputs one name."""

    def __init__(self, text: str) -> None:
        self._text = text
        try:
            fields = ", ".join(f"{{{name}}}" for name in _EXAMPLE)
            self._parts = braces.parse(text, _EXAMPLE, f"there are {fields}, and {{task:06}} for leading zeros")
        except ValueError as error:
            raise self._wrong(str(error)) from None
        self.fields = {field for _, field, _ in self._parts if field is not None}
        for needed in ("task", "stream"):
            if needed not in self.fields:
                raise self._wrong(f"without {{{needed}}} two outputs would get one name")
        self.components(_EXAMPLE)

    def components(self, values: dict[str, int | str]) -> tuple[str, ...]:
        """Directories and the file's name. Raises UsageError for what would lead elsewhere."""
        made = [literal + (format(values[field], spec) if field else "") for literal, field, spec in self._parts]
        names = tuple("".join(made).split("/"))
        if {"", ".", ".."} & set(names) or any("\0" in name for name in names):
            raise self._wrong("names are relative, of plain components: nothing is written outside of the directory")
        return names

    def matching(self) -> re.Pattern[str]:
        """What names of any job and task look like, with the group `task`."""
        seen: set[str] = set()
        pattern = ""
        for literal, field, _ in self._parts:
            pattern += re.escape(literal)
            if field is not None:
                one = _MATCHING[field]
                pattern += one.replace("(?P<task>", "(?:") if field in seen else one
                seen.add(field)
        return re.compile(pattern)

    def _wrong(self, reason: str) -> UsageError:
        return UsageError(f"{self._text!r} cannot name files: {reason}")
