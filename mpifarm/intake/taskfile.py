"""Reads task files: one command a line, millions of lines, any bytes.

- A line is a command exactly as it stands; only its line end (LF or CR LF) is taken off, so blanks around it stay.
- Lines of blanks and tabs only, and lines whose first character after those is `#`, are skipped.
- `#MPIFARM ...` (no blank after `#`) is a directive for the lines after it: see `intake.directives`. `# MPIFARM ...` is
  a mere comment.
- `[# 1-9 #] merge` waits for other tasks: see `intake.parents`. What follows is the command, without the blanks
  between.
- Refused, with file, line and column: NUL bytes, lines above 1 MiB, quotes that stay open, a backslash as line
  continuation, directives and needs that are not understood, and needs that can never be met. Nothing that bash could
  run is refused for its quoting.
- A UTF-8 byte order mark at the start of the file is skipped.

The file is cut into buffers of whole lines. A buffer that shows no trace of anything special goes through `split` and
nothing else, which is what makes plain files fast; the others are looked at line by line.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from typing import BinaryIO, TypeVar

from mpifarm.core.job.commandline import find_flaw
from mpifarm.core.model import Parent, Part
from mpifarm.core.needs import Needs
from mpifarm.errors import TaskFileError, UsageError
from mpifarm.intake.counting import Counting
from mpifarm.intake.directives import DIRECTIVE, Barrier, parse_barrier, parse_options
from mpifarm.intake.foreign import ForeignVariables, check_comment, check_first, check_hypershell
from mpifarm.intake.parents import Annotations, Parents, Unclear, merged
from mpifarm.intake.shell_lines import ShellLines
from mpifarm.intake.told import Tell, silently

T = TypeVar("T")

COMMAND_BYTES_MAX = 1 << 20
RUN_TASKS_MAX = 10_000

_READ_BYTES = 256 << 10
assert _READ_BYTES <= COMMAND_BYTES_MAX  # so only the first line of a buffer can be too long

_SHOWN_BYTES = 500
_DIRECTORY = "[@ directory @] is GREASY's: write cd directory && before the command ([# 1 #] stays before it all)"
_BOM = b"\xef\xbb\xbf"
_TRACES = (b"\0", b"#", b"'", b'"', b"\\\n", b"\n\n", b" \n", b"\t\n")
"""A buffer that begins with no line end and holds none of these consists of plain commands."""


def read_tasks(stream: BinaryIO, name: str, defaults: Needs, tell: Tell = silently) -> Iterator[Part]:
    """The tasks in file order, in parts of at most 10,000 tasks or about 1 MiB each.

    `name` is for messages. Raises TaskFileError at the first bad line, UsageError when there is no task at all, and
    either at the end for parents that cannot be; parts before have been yielded by then.
    """
    reading = _Reading(name, defaults, tell)
    for buffer in _buffers(stream):
        lines = buffer.split(b"\n")
        lines.pop()  # what follows the last line end: nothing
        if len(lines[0]) > COMMAND_BYTES_MAX:
            reason = f"the line is longer than {COMMAND_BYTES_MAX} bytes"
            raise TaskFileError(name, reading.line, 0, _shown(lines[0][:200]), reason)
        if (
            buffer[0] != 0x0A
            and not any(trace in buffer for trace in _TRACES)
            and not (b"@" in buffer and b"[@" in buffer)
        ):
            yield from reading.plain(lines)
        else:
            yield from reading.special(lines, buffer)
        reading.shell.look(buffer, lines, reading.line)
        reading.variables.look(buffer, reading.line, lines=True)
        reading.line += len(lines)
    if not reading.tasks:
        raise UsageError(f"{name}: there is no task in it (write one command a line)")
    reading.shell.check()
    reading.parents.check(reading.tasks)


def _in_runs(needs: Needs, commands: list[bytes], parents: tuple[Parent, ...]) -> Iterator[Part]:
    """The commands as tasks, in parts of limited length."""
    for lo in range(0, len(commands), RUN_TASKS_MAX):
        yield Part(needs, commands[lo : lo + RUN_TASKS_MAX], parents)


def _buffers(stream: BinaryIO) -> Iterator[bytes]:
    """The file as buffers of whole lines, each line ended by LF. One that is too long may come cut off."""
    read = getattr(stream, "read1", stream.read)  # returns what a pipe has: between two reads a Ctrl-C is noticed
    kept = b""
    chunk = read(_READ_BYTES).removeprefix(_BOM)
    while chunk:
        end = chunk.rfind(b"\n") + 1
        if end:
            yield (kept + chunk[:end]).replace(b"\r\n", b"\n")
            kept = chunk[end:]
        else:
            kept += chunk
            if len(kept) > COMMAND_BYTES_MAX + len(b"\r"):
                break
        chunk = read(_READ_BYTES)
    if kept:
        yield kept + b"\n"


class _Reading:
    """How far a file has been read: the number of the next line, the tasks so far, and what holds for the lines on."""

    def __init__(self, name: str, needs: Needs, tell: Tell) -> None:
        self.line = 1
        self.tasks = 0
        self.parents = Parents(name)
        self.shell = ShellLines(name)
        self._tell = tell
        self._counting = Counting(name, tell)
        self.variables = ForeignVariables(name, tell)
        self._name = name
        self._needs = needs
        self._barrier = Barrier()
        self._annotations = Annotations()

    def plain(self, commands: list[bytes]) -> Iterator[Part]:
        """Lines of which each is a command and nothing else."""
        if not self.tasks:
            self._first(commands[0], self.line)
        first, parents = self.tasks + 1, self._barrier.parents
        self.tasks += len(commands)
        if parents:
            self.parents.add(first, self.tasks + 1, self.line, parents)
        yield from _in_runs(self._needs, commands, parents)

    def special(self, lines: list[bytes], text: bytes) -> Iterator[Part]:
        """Any lines, which are the text."""
        hypershell = b"HYPERSHELL" in text
        commands: list[bytes] = []
        parents = common = self._barrier.parents
        for number, line in enumerate(lines, self.line):
            start = line.lstrip(b" \t")[:2]
            if not start or start[0] == 0x23:
                self._counting.skip(number)
                if not start:
                    continue
                if DIRECTIVE.match(line):
                    yield from _in_runs(self._needs, commands, parents)
                    commands = []
                    self._direct(line, number)
                    parents = common = self._barrier.parents
                else:
                    self._clear(number, line, partial(check_comment, line, line.index(b"#"), self._name, text))
                continue
            if not self.tasks:
                self._first(line, number)
            if hypershell:
                self._clear(number, line, partial(check_hypershell, line))
            if start == b"[#":
                line, wanted = self._annotated(line, number)
            else:
                if start == b"[@":
                    raise TaskFileError.at(self._name, number, line.index(b"[@"), line, _DIRECTORY)
                check_command(line, self._name, number)
                wanted = common
            if wanted != parents:
                yield from _in_runs(self._needs, commands, parents)
                commands, parents = [], wanted
            commands.append(line)
            self.tasks += 1
            if wanted:
                self.parents.add(self.tasks, self.tasks + 1, number, wanted)
        yield from _in_runs(self._needs, commands, parents)

    def _direct(self, line: bytes, number: int) -> None:
        directive = DIRECTIVE.match(line)
        assert directive is not None
        check = self._clear(number, line, partial(parse_barrier, line, directive.end()))
        if check is not None:
            self._barrier.put(self.tasks, check)
        else:
            self._needs = self._clear(number, line, partial(parse_options, line, directive.end(), self._needs))

    def _first(self, line: bytes, number: int) -> None:
        self._clear(number, line, partial(check_first, line))

    def _clear(self, number: int, line: bytes, read: Callable[[], T]) -> T:
        """What `read` makes of the line; what is unclear to it is refused."""
        try:
            return read()
        except Unclear as flaw:
            raise TaskFileError.at(self._name, number, flaw.offset, line, flaw.reason) from None

    def _annotated(self, line: bytes, number: int) -> tuple[bytes, tuple[Parent, ...]]:
        """The command of a line with needs, and all that it waits for."""
        found = self._clear(number, line, partial(self._annotations.read, line, self.tasks + 1))
        if line.startswith(b"[@", found.start):
            raise TaskFileError.at(self._name, number, found.start, line, _DIRECTORY)
        check_command(line, self._name, number, found.start)
        self._counting.compare(number, self.tasks + 1, found.elements)
        if found.forward is not None:
            furthest = max(parent.hi for parent in found.parents)
            shown = _shown(line[:_SHOWN_BYTES]) if found.forward < _SHOWN_BYTES - 100 else None
            self.parents.looks_forward(number, len(_shown(line[: found.forward])), shown, furthest)
        barrier = self._barrier.parents
        return line[found.start :], merged((*barrier, *found.parents)) if barrier else found.parents


def check_command(command: bytes, name: str, number: int, start: int = 0) -> None:
    """Raises TaskFileError when no shell could ever run what begins at `start`, or when it is too long or holds NUL."""
    if len(command) > COMMAND_BYTES_MAX:
        reason = f"the command is longer than {COMMAND_BYTES_MAX} bytes"
        raise TaskFileError(name, number, 0, _shown(command[:200]), reason)
    if b"\0" in command:
        reason = "a NUL byte, which no command can hold (is the file UTF-16, or not a text?)"
        raise TaskFileError.at(name, number, command.index(b"\0"), command, reason)
    flaw = find_flaw(command[start:])
    if flaw is not None:
        raise TaskFileError.at(name, number, start + flaw[0], command, flaw[1])


def _shown(text: bytes) -> str:
    return text.decode("utf-8", "replace")
