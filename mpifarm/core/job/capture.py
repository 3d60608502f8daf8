"""Patterns of files to capture: `--capture 'out/{task}-*.npy'`, relative to the directory of the task. Pure.

A pattern is made of components, each a name or a glob (`*`, `?`, `[a-z]`; as in a shell they match no leading dot), or
`**` for any directories. `{task}`, `{attempt}`, `{job}` and `{}` (the entry, as in the command) stand for what they are
in each attempt, with `{task:06}` for leading zeros; what they stand for is never taken for a glob. Braces that are
meant are doubled. No pattern leads out of the directory.
"""

from __future__ import annotations

import fnmatch
import re
from collections.abc import Mapping
from typing import NamedTuple

from mpifarm.core.job import braces

ANY_DIRECTORIES = "**"
COMPONENTS_MAX = 64

_GLOB = re.compile(r"[*?[]")
_EXAMPLE: dict[str, int | str] = {"task": 1, "attempt": 1, "job": "scan", "": "x"}


class Component(NamedTuple):
    """One step of a path."""

    text: str
    """The name, or the glob."""
    pattern: re.Pattern[str] | None
    """None: a name (or `**`)."""

    def fits(self, name: str) -> bool:
        if self.pattern is None:
            return name == self.text
        return self.pattern.match(name) is not None and (name[0] != "." or self.text[0] == ".")


class CapturePattern:
    """Raises ValueError for a text that is no pattern."""

    def __init__(self, text: str) -> None:
        self.text = text
        try:
            there_are = "there are {task}, {attempt}, {job} and {}, the entry; braces that are meant are doubled"
            self._parts = braces.parse(text, _EXAMPLE, there_are)
        except ValueError as error:
            raise self._wrong(str(error)) from None
        self.components(_EXAMPLE)

    def components(self, values: Mapping[str, int | str]) -> list[Component]:
        """The steps from the task's directory, for an attempt. Raises ValueError when they lead out of it."""
        made, globs = [""], [False]
        for literal, field, spec in self._parts:
            for meant, text in ((True, literal), (False, format(values[field], spec) if field is not None else "")):
                for number, piece in enumerate(text.split("/")):
                    if number:
                        made.append("")
                        globs.append(False)
                    made[-1] += piece if meant else _GLOB.sub(r"[\g<0>]", piece)
                    globs[-1] |= meant and _GLOB.search(piece) is not None
        if made[0] == "" and len(made) > 1:
            raise self._wrong("it must be relative to the directory of the task")
        names = [_component(text, glob) for text, glob in zip(made, globs) if text not in ("", ".")]
        if not names or made[-1] == "":
            raise self._wrong("it names no file")
        if len(names) > COMPONENTS_MAX or sum(name.text == ANY_DIRECTORIES for name in names) > 1:
            raise self._wrong(f"it may have one ** and {COMPONENTS_MAX} steps at most")
        if any(name.text == ".." or "\0" in name.text for name in names):
            raise self._wrong("it leads out of the directory of the task")
        return names

    @property
    def own(self) -> bool:
        """Whether something of the task's own is in it, so that it does not take what others of its job left."""
        return any(field in ("task", "") for _, field, _ in self._parts)

    def _wrong(self, reason: str) -> ValueError:
        return ValueError(f"{self.text!r} names no files to capture: {reason}")


def _component(text: str, glob: bool) -> Component:
    if glob and text != ANY_DIRECTORIES:
        return Component(text, re.compile(fnmatch.translate(text)))
    return Component(text if glob else re.sub(r"\[([*?[])\]", r"\1", text), None)
