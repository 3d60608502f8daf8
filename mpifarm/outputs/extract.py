"""Outputs of tasks as files: one per attempt and stream, named by a template, never outside of their directory.

Subdirectories are opened one below the other and no symbolic link is followed on the way, so that neither a template
nor what somebody put into the directory leads out of it. Must never import click or mpi4py.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from errno import EILSEQ, EINVAL, EISDIR, ENAMETOOLONG
from pathlib import Path
from typing import TYPE_CHECKING

from mpifarm.core.row import STDOUT
from mpifarm.errors import OutputError, UsageError
from mpifarm.outputs.streams_of_tasks import Attempt, Choice, Missing, Outputs, each_attempt
from mpifarm.selection.template import DEFAULT, SUFFIXES, Template

if TYPE_CHECKING:
    from mpifarm.queue.client import TaskLine

_OPEN = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC
_UNFIT = (ENAMETOOLONG, EINVAL, EILSEQ, EISDIR)
"""What a file system says of a name that it cannot have: it costs this file, not those after it."""


class Folder:
    """The directory that outputs are extracted to. A context manager."""

    def __init__(self, path: Path, *, force: bool) -> None:
        """Make it. `force`: replace what is there already."""
        path.mkdir(parents=True, exist_ok=True)
        self.path, self._force = path, force
        self._root = os.open(path, _OPEN)
        self._below: tuple[tuple[str, ...], int] = (), os.dup(self._root)
        """The subdirectory that was used last, and its descriptor: most often it is the next one's, too."""

    def __enter__(self) -> Folder:
        return self

    def __exit__(self, *_: object) -> None:
        os.close(self._root)
        os.close(self._below[1])

    def refuse_existing(self, template: Template, ranges: Sequence[tuple[int, int]] | None) -> None:
        """Unless forced, refuse a directory that holds outputs of these tasks (None: of any) before one is written."""
        if self._force:
            return
        matching = template.matching()
        for folder, _, names in os.walk(self.path):
            for name in names:
                path = Path(folder, name)
                found = matching.fullmatch(path.relative_to(self.path).as_posix())
                if found and (ranges is None or any(lo <= int(found["task"]) < hi for lo, hi in ranges)):
                    raise _exists(path)

    def write(self, components: Sequence[str], pieces: Iterator[bytes], *, even_empty: bool) -> None:
        """Written beside its name and then given it, so that a name always stands for a whole output.

        The name itself is never opened, so a symbolic link of that name leads nowhere. Raises UsageError for a file
        that exists, unless forced.
        """
        *folders, name = components
        first = next(pieces, b"")
        path = self.path.joinpath(*components)
        with _fitting(path):
            self._write(path, name, self._descend(tuple(folders)), first, pieces, even_empty=even_empty)

    def _write(
        self, path: Path, name: str, folder: int, first: bytes, pieces: Iterator[bytes], *, even_empty: bool
    ) -> None:
        if not first and not even_empty:
            if self._force:
                _unlink(name, folder)  # left by an earlier extraction, it would be taken for this one's
            return
        draft = f".mpifarm-{os.getpid()}"  # not longer than the name may be
        try:
            descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o666, dir_fd=folder)
            with open(descriptor, "wb") as file:
                file.write(first)
                file.writelines(pieces)
            if self._force:
                os.replace(draft, name, src_dir_fd=folder, dst_dir_fd=folder)
            else:
                _name(draft, name, folder, path)
        finally:
            _unlink(draft, folder)

    def _descend(self, folders: tuple[str, ...]) -> int:
        """The descriptor of a subdirectory, made where it is missing."""
        if self._below[0] == folders:
            return self._below[1]
        descriptor = os.dup(self._root)
        for depth, name in enumerate(folders, 1):
            above = descriptor
            try:
                try:
                    os.mkdir(name, dir_fd=above)
                except FileExistsError:
                    pass
                descriptor = os.open(name, _OPEN | os.O_NOFOLLOW, dir_fd=above)
            except NotADirectoryError:
                path = self.path.joinpath(*folders[:depth])
                raise UsageError(f"{path} is no directory of its own, so nothing is written below it") from None
            finally:
                os.close(above)
        os.close(self._below[1])
        self._below = folders, descriptor
        return descriptor


def extract(
    lines: Iterable[TaskLine],
    folder: Folder,
    job: str,
    template: Template | None = None,
    choice: Choice = Outputs.recorded,
) -> Missing:
    """A file of the stdout and, unless it is empty, one of the stderr of every chosen attempt; each appears whole or
    not. Raises UsageError for a file that exists, unless the folder is forced."""
    template = template or Template(DEFAULT)

    def write(outputs: Outputs, line: TaskLine, attempt: Attempt) -> None:
        values: dict[str, int | str] = {"job": job, "task": line.task, "attempt": attempt.row.attempt}
        values["state"] = line.state
        for stream, suffix in SUFFIXES.items():
            components = template.components({**values, "stream": suffix})
            folder.write(components, outputs.stream(attempt, stream), even_empty=stream == STDOUT)

    return each_attempt(lines, choice, write)


@contextmanager
def _fitting(path: Path) -> Iterator[None]:
    """Raises OutputError for a name that cannot be had here."""
    try:
        yield
    except OSError as error:
        if error.errno not in _UNFIT:
            raise
        raise OutputError(f"{path} cannot be written: {error.strerror}") from error


def _name(draft: str, name: str, folder: int, path: Path) -> None:
    """Like a rename that refuses to replace. Raises UsageError."""
    try:
        os.link(draft, name, src_dir_fd=folder, dst_dir_fd=folder)
    except FileExistsError:
        raise _exists(path) from None
    except OSError:
        # No hard links on this file system; the small window between the two calls has to do.
        try:
            os.stat(name, dir_fd=folder, follow_symlinks=False)
        except FileNotFoundError:
            os.rename(draft, name, src_dir_fd=folder, dst_dir_fd=folder)
        else:
            raise _exists(path) from None


def _unlink(name: str, folder: int) -> None:
    try:
        os.unlink(name, dir_fd=folder)
    except FileNotFoundError:
        pass


def _exists(path: Path) -> UsageError:
    return UsageError(f"{path} exists already: --force replaces such files, or choose another directory")
