"""What a command line means to bash, as far as it can be told without bash. Pure: never imports anything but `re`.

`plan` finds the lines that need no shell at all; starting those directly halves what a small task costs. `find_flaw`
finds the lines that bash could never run. Both are one-sided on purpose: `plan` answers None and `find_flaw` answers
None whenever there is the least doubt, so doubt costs a shell and never changes what a line means.

`plan` takes words of plain characters (anything that is neither special to bash somewhere nor a control character),
single-quoted text, and double-quoted text without `$`, backquote, backslash and `!`. The first word decides whether
bash would execute a file: it may be no builtin, no keyword, no assignment, no job (`%1`), and no option of bash itself.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

KEYWORDS = frozenset(
    b"if then else elif fi case esac for select while until do done in function time { } ! [[ ]] coproc".split()
)
BASH_WORDS = KEYWORDS | frozenset(
    b". : [ alias bg bind break builtin caller cd command compgen complete compopt continue declare dirs "
    b"disown echo enable eval exec exit export false fc fg getopts hash help history jobs kill let local "
    b"logout mapfile popd printf pushd pwd read readarray readonly return set shift shopt source suspend "
    b"test times trap true type typeset ulimit umask unalias unset wait".split()
)
"""Builtins and keywords of bash 4 and 5: as a first word they are not files to execute."""

_PLAIN = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789_-./,:@%+^=" + bytes(range(0x80, 0x100))
_PLAIN_AND_BLANK = _PLAIN + b" \t"
_PIECE = re.compile(
    rb"[ \t]+|[" + re.escape(_PLAIN) + rb"]+"
    rb"|'[^'\x00-\x08\x0a-\x1f\x7f]*'"
    rb'|"[^"$`\\!\x00-\x08\x0a-\x1f\x7f]*"'
)


def plan(command: bytes, *, shell_only: bool) -> tuple[bytes, ...] | None:
    """The argv that `bash -c command` would execute and nothing else; None when bash must run the line.

    `shell_only`: the environment changes what bash does (see `shell_is_altered`), so every line is bash's.
    """
    if shell_only:
        return None
    if not command.translate(None, _PLAIN_AND_BLANK):
        words = command.split()
    elif b"'" in command or b'"' in command:
        words = _quoted_words(command)
    else:
        return None
    if not words:
        return None
    first = words[0]
    if first in BASH_WORDS or b"=" in first or first[:1] in b"-+%":  # an empty first word is `in` here too
        return None
    return tuple(words)


def _quoted_words(command: bytes) -> list[bytes]:
    """The words of a line with quotes, without them; none when there is anything beyond plain and quoted text."""
    pieces: list[bytes] = _PIECE.findall(command)
    if sum(map(len, pieces)) != len(command):
        return []
    words: list[bytes] = []
    inside = False
    for piece in pieces:
        mark = piece[:1]
        if mark in b" \t":
            inside = False
            continue
        text = piece[1:-1] if mark in b"'\"" else piece
        if inside:
            words[-1] += text
        else:
            words.append(text)
            inside = True
    return words


def shell_is_altered(names: Iterable[str]) -> bool:
    """Whether variables of these names make bash run code of the user's or read lines in another way."""
    return any(name in ("BASH_ENV", "SHELLOPTS") or name.startswith("BASH_FUNC_") for name in names)


# As far as the quoting of a line can be followed without a parser. Every alternative starts with another character, and
# nothing follows the loop, so `match` never backtracks over it. It stops before a comment, before a quote that is
# not closed, before a backslash that ends the line, and before what only bash can follow: $( ${ $[ (( << and `.
_FOLLOWED = re.compile(
    rb"""(?:
      [^'"\\#$`<(]+
    | \\.
    | (?<=[^\s;&|()<>])\#
    | \$\$
    | \$'[^'\\]*(?:\\.[^'\\]*)*'
    | \$(?![$'({\[])
    | '[^']*'
    | "[^"\\$`]*(?:(?:\\.|\$(?![({\[]))[^"\\$`]*)*"
    | <(?!<)
    | \((?!\()
    )*""",
    re.VERBOSE | re.DOTALL,
)
_OPEN_DOUBLE = re.compile(rb'"[^"\\$`]*(?:(?:\\.|\$(?![({\[]))[^"\\$`]*)*\\?\Z', re.DOTALL)


def find_flaw(command: bytes) -> tuple[int, str] | None:
    """Where (byte offset) and why bash can never run this line as one command, or None. Never refuses a valid line."""
    ends_escaped = command.endswith(b"\\")
    if not ends_escaped and b"'" not in command and b'"' not in command:
        return None
    followed = _FOLLOWED.match(command)
    assert followed is not None  # it matches the empty string
    stop = followed.end()
    mark = command[stop : stop + 2]
    if mark[:1] == b"'" or mark == b"$'":
        return stop, "the single quote opened here is not closed on this line (one line is one command)"
    if mark[:1] == b'"' and _OPEN_DOUBLE.match(command, stop):
        return stop, "the double quote opened here is not closed on this line (one line is one command)"
    backslashes = len(command) - len(command.rstrip(b"\\"))
    # Where the quoting was lost, a backslash is the last word only if it can be in no comment and in no quote.
    certain = mark == b"\\" or (mark and b"#" not in command[stop:] and b"'" not in command[stop:])
    if backslashes % 2 and certain:
        return len(command) - 1, "a backslash cannot continue a command on the next line: write it on one line"
    return None


_BEHIND = re.compile(rb"(?<![&<>|\\])&[ \t]*(?:[)}][ \t;)}]*|disown[^;&|]*)?$")


def background(command: bytes) -> int | None:
    """Where the `&` stands with which the command ends, leaving something to run behind it; None: it does not."""
    found = _BEHIND.search(command)
    if found is None:
        return None
    if b"#" in command[: found.start()]:  # it may stand in a comment
        followed = _FOLLOWED.match(command)
        assert followed is not None
        if followed.end() <= found.start():
            return None
    return found.start()
