"""Reads task files: one command a line, millions of lines, any bytes.

- A line is a command exactly as it stands; only its line end (LF or CR LF) is taken off, so blanks around it stay.
- Lines of blanks and tabs only, and lines whose first character after those is `#`, are skipped.
- `#MPIFARM --cpus 4 --time-limit 10m` (no blank after `#`) sets what the lines after it need, until the next such
  line; it replaces only the options it names, and 0s is no limit. `# MPIFARM ...` is a mere comment.
- Refused, with file, line and column: NUL bytes, lines above 1 MiB, quotes that stay open, a backslash as line
  continuation, and directives that are not understood. Nothing that bash could run is refused for its quoting.
- A UTF-8 byte order mark at the start of the file is skipped.

The file is cut into buffers of whole lines. A buffer that shows no trace of anything special goes through `split` and
nothing else, which is what makes plain files fast; the others are looked at line by line.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import BinaryIO

from mpifarm.core.commandline import find_flaw
from mpifarm.core.model import Shape, TaskText
from mpifarm.errors import TaskFileError, UsageError
from mpifarm.units import parse_count, parse_duration

COMMAND_BYTES_MAX = 1 << 20
RUN_TASKS_MAX = 10_000
CPUS_MAX = 65_535

_READ_BYTES = 256 << 10
assert _READ_BYTES <= COMMAND_BYTES_MAX  # so only the first line of a buffer can be too long

_BOM = b"\xef\xbb\xbf"
_TRACES = (b"\0", b"#", b"'", b'"', b"\\\n", b"\n\n", b" \n", b"\t\n")
"""A buffer that begins with no line end and holds none of these consists of plain commands."""

_DIRECTIVE = re.compile(rb"[ \t]*#MPIFARM(?=[ \t]|$)")
_WORD = re.compile(rb"[^ \t=]+|=")


def read_tasks(stream: BinaryIO, name: str, defaults: Shape) -> Iterator[tuple[Shape, list[TaskText]]]:
    """The tasks in file order, in runs of one shape, at most 10,000 tasks or about 1 MiB each.

    `name` is for messages. Raises TaskFileError at the first bad line, UsageError when there is no task at all;
    runs before it have been yielded by then.
    """
    shape = defaults
    line_number = 1
    empty = True
    for buffer in _buffers(stream):
        lines = buffer.split(b"\n")
        lines.pop()  # what follows the last line end: nothing
        if len(lines[0]) > COMMAND_BYTES_MAX:
            reason = f"the line is longer than {COMMAND_BYTES_MAX} bytes"
            raise TaskFileError(name, line_number, 0, _shown(lines[0][:200]), reason)
        if buffer[0] != 0x0A and not any(trace in buffer for trace in _TRACES):
            empty = False
            yield from _in_runs(shape, lines)
        else:
            for next_shape, commands in _special_lines(lines, name, line_number, shape):
                shape = next_shape
                empty = empty and not commands
                yield from _in_runs(shape, commands)
        line_number += len(lines)
    if empty:
        raise UsageError(f"{name}: there is no task in it (write one command a line)")


def _in_runs(shape: Shape, commands: list[bytes]) -> Iterator[tuple[Shape, list[TaskText]]]:
    """The commands as tasks, in runs of limited length."""
    for lo in range(0, len(commands), RUN_TASKS_MAX):
        yield shape, list(map(TaskText, commands[lo : lo + RUN_TASKS_MAX]))


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


def _special_lines(
    lines: list[bytes], name: str, first_number: int, shape: Shape
) -> Iterator[tuple[Shape, list[bytes]]]:
    """The commands among the lines by shape; the last shape comes even when no command follows it."""
    commands: list[bytes] = []
    for number, line in enumerate(lines, first_number):
        start = line.lstrip(b" \t")[:1]
        if not start:
            continue
        if start == b"#":
            directive = _DIRECTIVE.match(line)
            if directive is not None:
                yield shape, commands
                shape, commands = _parse_directive(line, directive.end(), shape, name, number), []
            continue
        check_command(line, name, number)
        commands.append(line)
    yield shape, commands


def check_command(command: bytes, name: str, number: int) -> None:
    """Raises TaskFileError when no shell could ever run this, or when it is too long or holds a NUL byte."""
    if len(command) > COMMAND_BYTES_MAX:
        reason = f"the command is longer than {COMMAND_BYTES_MAX} bytes"
        raise TaskFileError(name, number, 0, _shown(command[:200]), reason)
    if b"\0" in command:
        reason = "a NUL byte, which no command can hold (is the file UTF-16, or not a text?)"
        raise _bad_line(name, number, command.index(b"\0"), command, reason)
    flaw = find_flaw(command)
    if flaw is not None:
        raise _bad_line(name, number, flaw[0], command, flaw[1])


def _parse_directive(line: bytes, start: int, shape: Shape, name: str, number: int) -> Shape:
    """The shape with the options of the directive replaced: `--option value` or `--option=value`."""
    words = list(_WORD.finditer(line, start))
    if not words:
        raise _bad_line(name, number, start, line, "the directive names no option (--cpus or --time-limit)")
    position = 0
    while position < len(words):
        at = words[position].start()
        option = _shown(words[position][0])
        position += 1
        if option not in ("--cpus", "--time-limit"):
            reason = f"unknown option {option!r} (there are --cpus and --time-limit)"
            raise _bad_line(name, number, at, line, reason)
        if position < len(words) and words[position][0] == b"=":
            position += 1
        if position == len(words):
            raise _bad_line(name, number, at, line, f"{option} has no value")
        value = _shown(words[position][0])
        try:
            if option == "--cpus":
                shape = shape._replace(cpus=parse_count(value, option, highest=CPUS_MAX))
            else:
                shape = shape._replace(time_limit_s=parse_duration(value))
        except UsageError as error:
            raise _bad_line(name, number, words[position].start(), line, str(error)) from None
        position += 1
    return shape


def _bad_line(name: str, number: int, offset: int, line: bytes, reason: str) -> TaskFileError:
    """The error with the column counted in characters, as editors count it."""
    return TaskFileError(name, number, len(_shown(line[:offset])), _shown(line), reason)


def _shown(text: bytes) -> str:
    return text.decode("utf-8", "replace")
