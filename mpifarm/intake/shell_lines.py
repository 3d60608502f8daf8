"""Judges commands as bash would: whether a line is complete, and whether it waits for what it starts.

A line that bash would not take by itself (a here-document, an open `(`, `&&`, `while`...) is refused, and one that ends
in `&`, whose work would be killed in its first moment. Most lines show at a glance that they cannot be such; the others
are collected and given to one `bash -n`, which runs nothing. Where there is no bash nothing is refused.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from mpifarm.core.job.commandline import background
from mpifarm.errors import TaskFileError
from mpifarm.process import check_script

_COLLECTED_BYTES = 4 << 20
_KNOWN_MAX = 100_000

_ENDS = frozenset((b"&", b"|", b"(", b"{", b"<", b">"))
_PAIRS = ((b"(", b")"), (b"{", b"}"), (b"[[", b"]]"))
_OPENERS = (b"while ", b"until ", b"for ", b"if ", b"case ", b"select ", b"function ", b"coproc ")
_HEADS = frozenset(word[:4] for word in _OPENERS) | {b"if\t"}
_BEFORE_WORDS = (b";", b"|", b"&", b"(", b"{")
"""What such a word stands behind when it is not the first of its line."""
_BEHIND = re.compile(rb"&[ \t]*(?:[)}]|disown)")
_WORD = re.compile(rb"(?<![\w$./=-])(?:if|fi|for|while|until|select|do|done|case|esac|function|coproc)(?![\w./=-])")
_ANNOTATED = re.compile(rb"[ \t]*(?:\[#[^\]]*#\][ \t]*)+")
_OPEN = re.compile(
    rb"<<|(?:&&|\|\|?&?|[(){<>])(?=[ \t]*$)|(?<![\w$./=-])(?:if|for|while|until|select|case)(?![\w./=-])|[`({]"
)


class ShellLines:
    """Judges the lines of one source; `name` is for messages. Raises TaskFileError."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._doubtful: list[tuple[int, bytes, int]] = []
        """Their numbers, the lines, and where in them the command starts."""
        self._bytes = 0
        self._known: set[bytes] = set()
        """Outlines of the lines that were collected."""

    def look(self, text: bytes, lines: Sequence[bytes], first: int) -> None:
        """At these lines, numbered from `first`, which are the text."""
        for index in sorted(_doubtful(text, lines)):
            self.look_at(lines[index], first + index)

    def look_at(self, line: bytes, number: int) -> None:
        if line.lstrip(b" \t")[:1] == b"#" and b"\n" not in line:  # of several lines Python makes one command
            return
        annotated = _ANNOTATED.match(line)
        start = annotated.end() if annotated else 0
        at = background(line[start:])
        if at is not None:
            reason = (
                "the command ends here and what it left in the background is killed: leave out the &, or end the line"
                " with `wait`"
            )
            raise TaskFileError.at(self._name, number, start + at, line, reason)
        outline = _outline(line)
        if outline in self._known:
            return
        if len(self._known) >= _KNOWN_MAX:
            self._known.clear()
        self._known.add(outline)
        self._doubtful.append((number, line, start))
        self._bytes += len(line)
        if self._bytes > _COLLECTED_BYTES:
            self.check()

    def check(self) -> None:
        """All that was looked at so far."""
        doubtful, self._doubtful, self._bytes = self._doubtful, [], 0
        while doubtful and not _taken(doubtful):
            lo, hi = 0, len(doubtful)  # those before lo are taken, those before hi are not
            while hi - lo > 1:
                middle = (lo + hi) // 2
                lo, hi = (middle, hi) if _taken(doubtful[:middle]) else (lo, middle)
            number, line, start = doubtful[hi - 1]
            said = _said_of(line[start:])
            if said is not None:
                found = _OPEN.search(line, start)
                raise TaskFileError.at(self._name, number, found.start() if found else len(line), line, said)
            doubtful = doubtful[hi:]


def _doubtful(text: bytes, lines: Sequence[bytes]) -> set[int]:
    """Which of the lines may be incomplete, or may end in the background."""
    found: set[int] = set()
    if any(mark in text for mark in (b"&", b"|", b"<", b">", b"(", b"{")):
        ends = {line[-1:] for line in lines}
        if ends & _ENDS or ends & {b" ", b"\t"}:
            found.update(i for i, line in enumerate(lines) if line.rstrip(b" \t")[-1:] in _ENDS)
        if b"&" in text and _BEHIND.search(text):
            found.update(i for i, line in enumerate(lines) if _BEHIND.search(line))
        if b"<<" in text:
            found.update(i for i, line in enumerate(lines) if b"<<" in line and b"<<" in line.replace(b"<<<", b""))
    for opened, closed in _PAIRS:
        if (opened[:1] in text and opened in text) or (closed[:1] in text and closed in text):
            found.update(i for i, line in enumerate(lines) if line.count(opened) != line.count(closed))
    if b"`" in text:
        found.update(i for i, line in enumerate(lines) if line.count(b"`") % 2)
    if any(mark in text for mark in _BEFORE_WORDS):
        worded = any(word in text for word in _OPENERS)
    else:
        worded = any(head in _HEADS or head[:1] in (b" ", b"\t") for head in {line[:4] for line in lines})
    if worded:
        found |= _with_open_words(lines)
    return found


def _with_open_words(lines: Sequence[bytes]) -> set[int]:
    found: set[int] = set()
    seen: set[bytes] = set()
    for index, line in enumerate(lines):
        outline = _outline(line)
        if outline not in seen:
            seen.add(outline)
            if _may_be_open(line):
                found.add(index)
    return found


def _outline(line: bytes) -> bytes:
    """The line without its digits: lines that differ in these alone are as complete as each other."""
    return line.translate(None, b"0123456789")


def _may_be_open(line: bytes) -> bool:
    """Whether the keywords of the line do not come in pairs."""
    if not any(word in line for word in _OPENERS):
        return False
    words = _WORD.findall(line)
    count = words.count
    loops = count(b"for") + count(b"while") + count(b"until") + count(b"select")
    return (
        count(b"if") != count(b"fi")
        or count(b"case") != count(b"esac")
        or not loops == count(b"do") == count(b"done")
        or count(b"function") + count(b"coproc") > 0
    )


def _taken(doubtful: Sequence[tuple[int, bytes, int]]) -> bool:
    """Whether bash takes each of them. Whatever one leaves open, it meets the end of another construct."""
    script = b"".join(b"{\n%b\n}\nif :; then\n%b\nfi\n" % (line[start:], line[start:]) for _, line, start in doubtful)
    said = check_script(script)
    return said is None or said == (0, "")


def _said_of(command: bytes) -> str | None:
    """What bash has against this command alone."""
    said = check_script(command + b"\n")
    if said is None or said == (0, ""):
        return None
    if "here-document" in said[1]:
        return (
            "a here-document cannot go on in the next line, which is another task: write the text to a file, or use <<<"
        )
    what = (
        "the line is not complete, and the next one is another task"
        if re.search("end of file|EOF", said[1])
        else "bash refuses it"
    )
    why = re.search(r"(?:syntax error|unexpected)[^\n]*", said[1])
    return f"{what} ({why[0]})" if why else what
