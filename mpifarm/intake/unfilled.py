"""Looks for what a command after `--` seems to want and does not get. Pure.

- A replacement string that nothing fills is refused: `{}`, `{.}`, `{2}`, `{#}` without a source, `{name}` without
  `--from-json`. Meant as one is what stands in a plain word, one of letters, digits and `-_./=:,+%~` beside it. All
  else is the shell's or the program's own: `${x}`, `{ a; b; }`, `{1..3}`, `'{print $1}'`, anything in quotes within a
  shell line, and every word of the programs that have such braces themselves (find, xargs, awk...).
- A word that only a shell would understand is told when the words are an argument list.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from enum import Enum

from mpifarm.errors import TaskFileError, UsageError
from mpifarm.intake.told import Tell


class Source(Enum):
    """What the replacement strings of a command are filled from."""

    NONE = 0
    VALUES = 1
    RECORDS = 2


BRACED = frozenset(b"find xargs parallel fd awk gawk mawk nawk sed perl jq git grep egrep rg".split())
"""Programs to which `{}`, `{name}` or `{2}` mean something."""
_COMPARING = frozenset(b"[ [[ test expr find".split())
"""Programs to which `<`, `>`, `|` or `;` are arguments."""

_NAMED = rb"\{[A-Za-z_][A-Za-z0-9_]*\}"
_NUMBERED = rb"\{-?[1-9][0-9]{0,8}(?://|/\.|/|\.)?\}"
_BARE = rb"\{(?://|/\.|/|\.|#|%)?\}"
_PLAIN = re.compile(rb"(?:[-\w./=:,+%~\x80-\xff]|" + b"|".join((_NAMED, _NUMBERED, _BARE)) + rb")*")
_NAME = re.compile(_NAMED)
_ANY = re.compile(_NAMED + rb"|(?<!\w)" + _NUMBERED + b"|" + _BARE)  # `a{3}` is what regular expressions have
_SHELL_WORD = re.compile(rb"[^\s;|&()<>`]+")
_OPAQUE = re.compile(rb"""'[^']*'|"(?:\\.|[^"\\])*"|\\.|\$\{[^}]*\}|\$\w*""", re.DOTALL)
_OPERATOR = re.compile(rb"\|\|?&?|&&?|;|[0-9&]?>>?|<|[0-9]?>&[0-9]")
_ASSIGNED = re.compile(rb"[A-Za-z_][A-Za-z0-9_]*\+?=")
_VARIABLE = re.compile(rb"\$(?:[A-Za-z_]\w*|\{[A-Za-z_]\w*\})")


def check_words(words: Sequence[bytes], source: Source, tell: Tell) -> None:
    """Raises TaskFileError for what nothing fills; tells of what no shell will read."""
    found = _unfilled(words, source)
    if found is not None:
        offset, braces = found
        raise TaskFileError.at("command", 1, offset, b" ".join(words), _refusal(braces, source))
    if len(words) > 1:
        if _ASSIGNED.match(words[0]):
            shown = words[0].decode("utf-8", "replace")
            raise UsageError(f"{shown} would be the program: write env {shown} ..., or the whole command as one word")
        _tell_of_shell(words, tell)


def _unfilled(words: Sequence[bytes], source: Source) -> tuple[int, str] | None:
    """The first replacement string that nothing fills, and where in the command it stands."""
    if source is Source.RECORDS:
        return None  # every brace was looked at
    plain = list(_shell_words(words[0]) if len(words) == 1 else _offsets(words))
    if any(word.rpartition(b"/")[2] in BRACED for _, word in plain):
        return None
    for offset, word in plain:
        if b"{" in word and _PLAIN.fullmatch(word):
            match = (_ANY if source is Source.NONE else _NAME).search(word)
            if match is not None:
                return offset + match.start(), match[0].decode()
    return None


def _offsets(words: Sequence[bytes]) -> Iterator[tuple[int, bytes]]:
    offset = 0
    for word in words:
        yield offset, word
        offset += len(word) + 1


def _shell_words(line: bytes) -> Iterator[tuple[int, bytes]]:
    """The words of a shell line without what is in quotes, as far as that can be told without a shell."""
    masked = _OPAQUE.sub(lambda match: b"_" * len(match[0]), line)
    for match in _SHELL_WORD.finditer(masked):
        if masked[match.end() : match.end() + 1] not in (b"<", b">"):  # `exec {fd}>file`
            yield match.start(), match[0]


def _refusal(braces: str, source: Source) -> str:
    name = braces[1:-1]
    if name.isidentifier():
        fix = f'--from-json FILE fills it, from records with "{name}": ...'
        if source is Source.VALUES:
            fix = f"{{}}, {{1}}, {{#}} stand for values; {fix}"
    else:
        fix = "add ::: VALUE..., --array 1-9, or --each-line FILE (- is stdin)"
    quoted = f"in quotes within one shell line, as in -- \"prog '{braces}'\""
    return f"nothing fills {braces}: {fix}. Braces that are meant stand {quoted}"


def _tell_of_shell(words: Sequence[bytes], tell: Tell) -> None:
    program = words[0].rpartition(b"/")[2]
    if program in _COMPARING | BRACED:
        return
    for word in words[1:]:
        if _OPERATOR.fullmatch(word):
            what = "several words are an argument list, and no shell reads them"
        elif _VARIABLE.search(word) and not re.search(rb"[\s'\"]", word):
            what = "several words are an argument list, in which no shell fills in variables"
        else:
            continue
        shown = word.decode("utf-8", "replace")
        tell(f"warning: {program.decode('utf-8', 'replace')} gets {shown!r} as it stands: {what};"
             " a shell line is one word: -- 'COMMAND'")  # fmt: skip
        return
