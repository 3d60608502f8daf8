"""Makes many tasks of one command: GNU parallel's `:::`, HyperQueue's `--array`, `--each-line` and `--from-json`.

One word after `--` is a shell line: the shell of the task expands what is in it. Several words are an argument list,
which reaches the program exactly as it was typed. Then the replacement strings are filled in, inside words too, see
`mpifarm.intake.replacement`; what nothing fills is refused, see `mpifarm.intake.unfilled`.

- `:::` VALUES, `::::` FILES (each file is a source, each line a value, `-` is stdin): every combination, the last
  source changing fastest. `:::+` and `::::+` go along with the source before them instead, until the shortest ends.
  Without any replacement string the values are appended; without a command they are the commands themselves.
  The entry of a task is its values with tabs between.
- `--array 1-100`, `--each-line FILE`: once for each number or line, which is the entry of the task. Nothing is
  appended. Blank lines are left out, and that is said.
- `--from-json FILE` (an array of objects, or one object on each line): once for each object, whose compact JSON is the
  entry; see `mpifarm.intake.records` for what an object may wait for.

Everything streams but the values of all sources after the first, which combinations repeat, and JSON arrays.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from functools import partial
from itertools import groupby, product
from operator import itemgetter
from typing import BinaryIO

from mpifarm.core.model import Kind, Parent, Part, TaskText
from mpifarm.core.needs import Needs
from mpifarm.core.plural import counted
from mpifarm.errors import UsageError
from mpifarm.intake.foreign import ForeignVariables, foreign_variable
from mpifarm.intake.parents import TASKS_MAX
from mpifarm.intake.record_keys import Keys
from mpifarm.intake.records import Settled, tasks_of
from mpifarm.intake.replacement import (
    Record,
    Template,
    Values,
    command_line,
    compile_keys,
    compile_positions,
    has_positions,
    keys_in,
)
from mpifarm.intake.shell_lines import ShellLines
from mpifarm.intake.taskfile import COMMAND_BYTES_MAX, RUN_TASKS_MAX, check_command
from mpifarm.intake.told import Tell, silently
from mpifarm.intake.unfilled import Source, check_words
from mpifarm.units import each_padded, parse_numbers

RUN_BYTES_MAX = 8 << 20
_BOM = b"\xef\xbb\xbf"
MARKS = (":::", ":::+", "::::", "::::+")


@dataclass(frozen=True, slots=True)
class Expansion:
    """What the user typed: the words after `--`, and at most one option that says what to repeat them for."""

    words: Sequence[str]
    array: str | None = None
    each_line: str | None = None
    from_json: str | None = None


def expand_arguments(asked: Expansion, needs: Needs, stdin: BinaryIO, tell: Tell = silently) -> Iterator[Part]:
    """The tasks in order, in parts of at most 10,000 tasks or about 8 MiB; a single one when nothing is repeated.

    UsageErrors of the words are raised here, those of files while their lines stream by.
    """
    words = list(asked.words)
    first_mark = next((i for i, word in enumerate(words) if word in MARKS), len(words))
    command = [os.fsencode(word) for word in words[:first_mark]]
    marked = words[first_mark:]
    check_sources(asked, marked)
    if not b"".join(command).strip():
        if not marked:
            raise UsageError("there is no command: write it after --")
        command = []
    source = _source_of(asked, bool(marked))
    check_words(command, source, tell)
    if len(command) == 1:
        _check_shell_line(command[0], tell)
    fills: Callable[[list[bytes]], object] = keys_in if source is Source.RECORDS else has_positions
    if source is not Source.NONE and not marked and not fills(command):
        tell("the command is the same for all tasks: each finds its value in MPIFARM_ENTRY")

    if marked:
        groups = parse_sources(marked, stdin, tell)
        template = compile_positions(command, sum(map(len, groups)), append=True)
        tasks = combined(template, groups)
        if not command:
            tasks = _judged(tasks, ForeignVariables("combination", tell))
    elif asked.array is not None:
        check_count(asked.array)
        tasks = repeated(compile_positions(command, 1), "--array", each_padded(asked.array))
    elif asked.each_line is not None:
        lines = not_blank(asked.each_line, stdin, tell)
        tasks = repeated(compile_positions(command, 1), asked.each_line, lines)
    elif asked.from_json is not None:
        keys = Keys(keys_in(command), needs, asked.from_json, tell)
        return _from_records(compile_keys(command), asked.from_json, keys, stdin)
    else:
        line = command_line(command)
        check_command(line, "command", 1)
        tasks = iter([TaskText(line)])
    return in_parts(needs, tasks)


def _check_shell_line(line: bytes, tell: Tell) -> None:
    """What is filled in is quoted, so it changes nothing of this."""
    shell = ShellLines("command")
    shell.look(line, [line], 1)
    shell.check()
    found = foreign_variable(line)
    if found is not None:
        tell(f"warning: {found[1]}")


def _judged(tasks: Iterable[TaskText], variables: ForeignVariables) -> Iterator[TaskText]:
    """Tasks of which each has another shell line."""
    shell = ShellLines("combination")
    for number, task in enumerate(tasks, 1):
        shell.look(task.body, [task.body], number)
        variables.look(task.body, number)
        yield task
    shell.check()


def check_sources(asked: Expansion, marked: Sequence[str]) -> None:
    """Raises UsageError for values from two places; `marked`: those after `:::` and the like."""
    options = (asked.array, asked.each_line, asked.from_json)
    if len([option for option in options if option is not None]) + bool(marked) > 1:
        raise UsageError("only one of --array, --each-line, --from-json and ::: can be used at once")


def check_count(array: str) -> None:
    """Raises UsageError for more than a job holds, before anything streams."""
    if (count := sum(map(len, parse_numbers(array)))) > TASKS_MAX:
        raise UsageError(f"--array {array}: {counted(count, 'task')}, and a job holds {TASKS_MAX:,} at most")


def _source_of(asked: Expansion, marked: bool) -> Source:
    if asked.from_json is not None:
        return Source.RECORDS
    return Source.VALUES if marked or asked.array is not None or asked.each_line is not None else Source.NONE


def in_parts(
    needs: Needs, tasks: Iterable[TaskText], parents: tuple[Parent, ...] = (), kind: Kind = Kind.COMMAND
) -> Iterator[Part]:
    """The tasks, which need and wait for the same, in parts of limited length."""
    run: list[TaskText] = []
    size = 0
    for task in tasks:
        run.append(task)
        size += len(task.body) + len(task.entry or b"")
        if len(run) == RUN_TASKS_MAX or size >= RUN_BYTES_MAX:
            yield Part(needs, run, parents, kind)
            run, size = [], 0
    if run:
        yield Part(needs, run, parents, kind)


def settled_parts(tasks: Iterable[Settled]) -> Iterator[Part]:
    """The tasks in parts that need and wait for the same."""
    for (needs, parents, kind), group in groupby(tasks, itemgetter(1, 2, 3)):
        yield from in_parts(needs, map(itemgetter(0), group), parents, kind)


def _from_records(template: Template[Record], path: str, keys: Keys, stdin: BinaryIO) -> Iterator[Part]:
    with opened(path, stdin) as stream:
        yield from settled_parts(tasks_of(template, keys, path, stream))


# Where values come from.

_Source = Callable[[], Iterator[bytes]]


def parse_sources(marked: list[str], stdin: BinaryIO, tell: Tell) -> list[list[_Source]]:
    """The sources in groups: those of a group go along with each other, groups are combined."""
    groups: list[list[_Source]] = []
    position = 0
    stdin_uses = 0
    while position < len(marked):
        mark = marked[position]
        end = next((i for i in range(position + 1, len(marked)) if marked[i] in MARKS), len(marked))
        words = marked[position + 1 : end]
        position = end
        if not words:
            raise UsageError(f"{mark} has no {'file' if '::::' in mark else 'value'} after it")
        if mark.endswith("+") and not groups:
            raise UsageError(f"{mark} goes along with the source before it, and there is none")
        sources: list[_Source]
        if mark.startswith("::::"):
            stdin_uses += words.count("-")
            sources = [partial(_told_blank, word, stdin, tell) for word in words]
        else:
            sources = [partial(iter, [os.fsencode(word) for word in words])]
        if mark.endswith("+"):
            groups[-1] += sources
        else:
            groups += [[source] for source in sources]
    if stdin_uses > 1:
        raise UsageError("stdin (-) can be read only once")
    return groups


def combined(template: Template[Values], groups: list[list[_Source]]) -> Iterator[TaskText]:
    """A task for each combination of one row of every group."""
    first, *others = (zip(*(source() for source in group)) for group in groups)
    repeated = [list(rows) for rows in others]
    task = 0
    for head in first:
        for tail in product(*repeated):
            task += 1
            values = sum(tail, head)
            command = template.fill(values, task)
            check_command(command, "combination", task)
            yield TaskText(command, b"\t".join(values))


def repeated(template: Template[Values], name: str, entries: Iterable[tuple[int, bytes]]) -> Iterator[TaskText]:
    """A task for each entry; each comes with its number or line, for messages."""
    for task, (number, entry) in enumerate(entries, 1):
        command = template.fill((entry,), task)
        check_command(command, name, number)
        yield TaskText(command, entry)


def not_blank(path: str, stdin: BinaryIO, tell: Tell) -> Iterator[tuple[int, bytes]]:
    """The lines with anything in them and their numbers; UsageError when there is none."""
    first = blank = 0
    number = 0
    for number, line in enumerate(_lines(path, stdin), 1):
        if line.strip(b" \t"):
            yield number, line
        else:
            first, blank = first or number, blank + 1
    if blank == number:
        raise UsageError(f"{path}: there are only blank lines in it")
    if blank:
        tell(f"{path}: {counted(blank, 'blank line')} left out, the first is line {first:,}")


def _told_blank(path: str, stdin: BinaryIO, tell: Tell) -> Iterator[bytes]:
    """All lines: of `::::` blank ones are values too, as GNU parallel has it, and sources may go along with others."""
    told = False
    for number, line in enumerate(_lines(path, stdin), 1):
        if not told and not line.strip(b" \t"):
            tell(f"warning: {path}:{number}: a blank line is a value like others (--each-line leaves such lines out)")
            told = True
        yield line


def opened(path: str, stdin: BinaryIO) -> AbstractContextManager[BinaryIO]:
    if path == "-":
        return nullcontext(stdin)
    try:
        return open(path, "rb")
    except OSError as error:
        raise UsageError(f"{path}: {error.strerror}") from None


def _lines(path: str, stdin: BinaryIO) -> Iterator[bytes]:
    """Every line without its line end (LF or CR LF); UsageError when there is none."""
    number = 0
    with opened(path, stdin) as stream:
        for number, read in enumerate(iter(lambda: stream.readline(COMMAND_BYTES_MAX + 2), b""), 1):
            line = read.removesuffix(b"\n").removesuffix(b"\r") if read.endswith(b"\n") else read
            if number == 1:
                line = line.removeprefix(_BOM)
            if len(line) > COMMAND_BYTES_MAX:
                raise UsageError(f"{path}:{number}: the line is longer than {COMMAND_BYTES_MAX} bytes")
            if b"\0" in line:
                raise UsageError(f"{path}:{number}: a NUL byte, which no command can hold")
            yield line
    if number == 0:
        raise UsageError(f"{path}: there is no line in it")
