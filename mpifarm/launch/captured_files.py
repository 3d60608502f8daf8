"""Takes the files that a job captures out of the directory of an ended attempt, piece by piece. Imports nothing heavy.

The directory belongs to the task, which may have put anything there: so directories are opened one below the other, no
symbolic link is followed, only regular files are opened, and one is read no further than it was long at first. Files
that have not changed since the attempt began belong to others (tasks of a job share a directory). That is seen by their
ctime, since `mv`, `cp -p` and `tar` bring old mtimes along.
"""

from __future__ import annotations

import errno
import os
import stat
import time
from collections.abc import Generator, Iterator, Mapping, Sequence
from zlib import crc32

from mpifarm.core.job.capture import ANY_DIRECTORIES, CapturePattern, Component
from mpifarm.core.left_behind import Listing
from mpifarm.core.row import CAPTURED

FILES_MAX = 10_000
"""Of one attempt."""
NOTES_MAX = 100
DEPTH_MAX = 16
"""Directories below each other that `**` stands for."""
READ_BYTES = 256 << 10
_ENTRIES_AT_ONCE = 4096

_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_FILE = os.O_RDONLY | os.O_NONBLOCK | os.O_NOFOLLOW | os.O_NOCTTY | os.O_CLOEXEC
_CLOCK_REALTIME_COARSE = 5
TICK_MAX_NS = 10_000_000

Step = bytes | None
"""A piece of a file, or nothing: it goes on, and others may have a turn."""


def file_clock_ns() -> int:
    """The time as the kernel writes it into files: up to a tick behind the fine one."""
    return time.clock_gettime_ns(_CLOCK_REALTIME_COARSE)


class Taking:
    """One attempt's files. Iterate over `steps` and append the pieces to the stream CAPTURED; once `steps` is exhausted
    or closed, `listing` is right."""

    def __init__(
        self, cwd: bytes, patterns: Sequence[CapturePattern], values: Mapping[str, int | str], since_ns: int
    ) -> None:
        self.listing = Listing()
        self.missed = False
        """Something that is asked for is not there, or not as it should be."""
        self.youngest_ns = 0
        """When the file changed last that changed last, of those that were taken."""
        self._cwd, self._patterns, self._values, self._since_ns = cwd, patterns, values, since_ns
        self._seen: set[str] = set()
        self._notes = 0

    def steps(self) -> Generator[Step, None, None]:
        try:
            root = os.open(self._cwd, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        except OSError as error:
            self._note(f"cannot look into {os.fsdecode(self._cwd)}: {error.strerror}")
            return
        try:
            for pattern in self._patterns:
                try:
                    yield from self._take_all(root, pattern)
                except OSError as error:
                    self._note(f"{pattern.text}: {error.strerror}")
        finally:
            os.close(root)

    def _take_all(self, root: int, pattern: CapturePattern) -> Iterator[Step]:
        try:
            components = pattern.components(self._values)
        except ValueError as error:
            self._note(str(error))
            return
        if components[-1].text == ANY_DIRECTORIES:
            components += CapturePattern("*").components({})
        shown = "/".join(component.text for component in components)
        taken = old = 0
        for found in self._walk(root, components, ""):
            if found is None:
                yield None
                continue
            folder, name, path = found
            if path in self._seen:
                taken += 1
                continue
            if len(self._seen) == FILES_MAX:
                self._note(f"{shown}: there are more than {FILES_MAX:,} files; the rest was left")
                return
            try:
                facts = os.stat(name, dir_fd=folder, follow_symlinks=False)
                if facts.st_ctime_ns < self._since_ns:
                    old += 1
                    continue
                if stat.S_ISDIR(facts.st_mode) and components[-1].pattern is not None:
                    continue
                self._seen.add(path)
                yield from self._take(folder, name, path, facts)
                taken += 1
            except FileNotFoundError:
                pass
            except OSError as error:
                self._note(f"{path}: {error.strerror}")
        if not taken:
            older = f" ({old:,} there before)" if old else ""
            self._note(f"{shown}: no such file was made or changed by the attempt{older}")

    def _take(self, folder: int, name: str, path: str, facts: os.stat_result) -> Iterator[Step]:
        if not stat.S_ISREG(facts.st_mode):
            self._note(f"{path}: {_kind(facts.st_mode)}, not taken")
            return
        fd = os.open(name, _FILE, dir_fd=folder)
        try:
            begun = os.fstat(fd)
            if not stat.S_ISREG(begun.st_mode):
                self._note(f"{path}: {_kind(begun.st_mode)}, not taken")
                return
            yield from self._read(fd, path, begun)
        finally:
            os.close(fd)
        yield None

    def _read(self, fd: int, path: str, begun: os.stat_result) -> Iterator[Step]:
        size = checksum = 0
        wrong = "it was taken in part"
        try:
            while size < begun.st_size and (piece := os.read(fd, min(READ_BYTES, begun.st_size - size))):
                size += len(piece)
                checksum = crc32(piece, checksum)
                yield piece
            ended = os.fstat(fd)
            changed = (begun.st_size, begun.st_mtime_ns) != (ended.st_size, ended.st_mtime_ns)
            self.youngest_ns = max(self.youngest_ns, ended.st_ctime_ns)
            wrong = "it changed while it was read" if changed or size < begun.st_size else ""
        except OSError as error:
            wrong = f"reading it failed after {size:,} bytes: {error.strerror}"
        finally:  # also when the rest is given up
            self.listing.add(CAPTURED, path, size, checksum)
            if wrong:
                self._note(f"{path}: {wrong}")

    def _walk(
        self, folder: int, steps: Sequence[Component], path: str, depth: int = 0
    ) -> Iterator[tuple[int, str, str] | None]:
        """What is named by the steps below `folder`: (its directory, its name, its path). None: a pause."""
        step, rest = steps[0], steps[1:]
        if step.text == ANY_DIRECTORIES:
            yield from self._walk(folder, rest, path, depth)
            rest = steps if depth < DEPTH_MAX else ()
            names = yield from self._names(folder, None)
            if names and not rest:
                self._note(f"{path}: no directories deeper than {DEPTH_MAX} are looked into")
                return
            depth += 1
        elif step.pattern is None:
            names = [step.text]
        else:
            names = yield from self._names(folder, step)
        for name in names:
            below = path + name
            if not rest:
                yield folder, name, below
                continue
            try:
                child = os.open(name, _DIRECTORY, dir_fd=folder)
            except OSError as error:
                if error.errno not in (errno.ENOENT, errno.ENOTDIR) or step.pattern is None:
                    self._note_closed(folder, name, below, error)
                continue
            try:
                yield from self._walk(child, rest, below + "/", depth)
            finally:
                os.close(child)

    def _names(self, folder: int, step: Component | None) -> Generator[None, None, list[str]]:
        """Returns what is in a directory and fits, sorted; None: the directories in it."""
        names: list[str] = []
        with os.scandir(folder) as entries:
            for number, entry in enumerate(entries, 1):
                if entry.is_dir(follow_symlinks=False) if step is None else step.fits(entry.name):
                    names.append(entry.name)
                    if len(names) > FILES_MAX:
                        break
                if number % _ENTRIES_AT_ONCE == 0:
                    yield None
        return sorted(names)

    def _note_closed(self, folder: int, name: str, path: str, error: OSError) -> None:
        try:
            mode = os.stat(name, dir_fd=folder, follow_symlinks=False).st_mode
        except OSError:
            return  # not there: that no file was found says it
        why = _kind(mode) + ", not followed" if not stat.S_ISDIR(mode) else error.strerror
        self._note(f"{path}: {why}")

    def _note(self, text: str) -> None:
        self.missed = True
        self._notes += 1
        if self._notes < NOTES_MAX:
            self.listing.note(text)
        elif self._notes == NOTES_MAX:
            self.listing.note("and more")


def _kind(mode: int) -> str:
    kinds = {
        stat.S_IFDIR: "a directory",
        stat.S_IFLNK: "a symbolic link",
        stat.S_IFIFO: "a named pipe",
        stat.S_IFSOCK: "a socket",
    }
    return kinds.get(stat.S_IFMT(mode), "a device")
