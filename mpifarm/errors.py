"""Every error a user can meet, by whose turn it is to act. The message says what is wrong, where, and what to do.

`UsageError`: the user typed or wrote something wrong. `SiteError`: the machine around us (MPI, file system, batch
system). `QueueError`: the database. `OutputError`: a run file. Anything else that escapes is a bug of mpifarm.
"""

from __future__ import annotations


class FarmError(Exception):
    """Base of all errors meant for users: printed as `mpifarm: <message>`, never as a traceback."""

    exit_code = 1


class UsageError(FarmError):
    """The command line or an input file is wrong; nothing was changed."""

    exit_code = 2


class NothingToDo(FarmError):
    """There is none of what was asked for now, and there may be later."""

    exit_code = 0


class SiteError(FarmError):
    """The machine around us does not offer what is needed."""

    exit_code = 3


class QueueError(FarmError):
    """The queue's database cannot be used."""

    exit_code = 4


class QueueUnreachable(QueueError):
    """The database does not answer now; it may later."""


class SchemaError(QueueError):
    """The database holds a queue of another version of mpifarm."""


class OutputError(FarmError):
    """A run file cannot be written or read."""

    exit_code = 5


class NoRoom(OutputError):
    """Its file system is full, or a quota: the same may be tried again."""


class TaskFileError(UsageError):
    """A task file has a bad line. Shows `file:line:column`, the line and a caret under the spot."""

    def __init__(self, file: str, line: int, column: int, text: str, reason: str) -> None:
        shown = "".join(c if c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in text)
        start = max(0, column - 60)
        excerpt = shown[start : start + 100]
        super().__init__(f"{file}:{line}:{column + 1}: {reason}\n    {excerpt}\n    {' ' * (column - start)}^")
        self.line = line
        self.column = column

    @classmethod
    def at(cls, file: str, line: int, offset: int, text: bytes, reason: str) -> TaskFileError:
        """Of bytes: the column is counted in characters, as editors count it, and `offset` in bytes."""
        column = len(text[:offset].decode("utf-8", "replace"))
        return cls(file, line, column, text.decode("utf-8", "replace"), reason)
