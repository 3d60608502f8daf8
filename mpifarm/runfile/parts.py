"""A run whose file cannot be written any more goes on in another: how the files of one run hang together.

The next file begins after the last good sync of the one before, whose numbers it goes on counting: a row, an extent, a
chunk has the same number whichever file it is in. It names the file before it; what that one may hold beyond the sync
does not count. The queue knows of the newest file, and who opens it reads them all. Must never import h5py.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

from mpifarm.core.model import Limits
from mpifarm.errors import OutputError

CHUNK_BYTES = Limits().chunk_bytes
_CONTINUES, _FIRST = "continues", ("first_row", "first_extent", "first_chunk")
_COPIED_BYTES = 64 << 20


class Counts(NamedTuple):
    """What a file holds, those before it included."""

    rows: int = 0
    extents: int = 0
    bytes: int = 0


class Before(NamedTuple):
    """The file that one goes on from, and where."""

    path: Path
    counts: Counts

    def attributes(self, path: Path) -> dict[str, str]:
        """For the file at `path`. Files that stay side by side may be moved together."""
        beside = self.path.parent == path.parent
        rows, extents, size = self.counts
        first = (rows, extents, size // CHUNK_BYTES)
        return {_CONTINUES: self.path.name if beside else str(self.path), **dict(zip(_FIRST, map(str, first)))}


def before(path: Path, attributes: Mapping[str, str]) -> Before | None:
    """What `attributes` of the file at `path` say. Raises OutputError when they make no sense."""
    name = attributes.get(_CONTINUES)
    if name is None:
        return None
    try:
        rows, extents, chunks = (int(attributes[key]) for key in _FIRST)
    except (KeyError, ValueError):
        raise OutputError(f"run file {path} is damaged: it does not say where it goes on from {name}") from None
    found = path.parent / name
    if found == path or min(rows, extents, chunks) < 0:
        raise OutputError(f"run file {path} is damaged: it cannot go on from {name}")
    return Before(found, Counts(rows, extents, chunks * CHUNK_BYTES))


def next_path(path: Path, number: int) -> Path:
    """`mpifarm-run-7.h5` goes on in `mpifarm-run-7.2.h5`, and so on; a name that is taken is left alone."""
    return unused(path.with_name(f"{path.stem}.{number}{path.suffix}"))


def unused(path: Path) -> Path:
    """`path`, or with -2, -3 ... before the suffix: two queues may count their runs into one directory."""
    candidate, number = path, 1
    while os.path.lexists(candidate):  # a link that leads nowhere has a name, too
        number += 1
        candidate = path.with_name(f"{path.stem}-{number}{path.suffix}")
    return candidate


def displaced(path: Path, descriptor: int) -> str:
    """What became of the name of an open file, or nothing when it is still its."""
    mine = os.fstat(descriptor)
    try:
        found = os.stat(path)
    except OSError:
        return "was moved away" if mine.st_nlink else "was removed"
    if (found.st_dev, found.st_ino) == (mine.st_dev, mine.st_ino):
        return ""
    return "was moved, and its name given to another file" if mine.st_nlink else "was replaced by another file"


def save(path: Path, descriptor: int) -> Path:
    """Give an open file a name again: `path`, if that is free. A link where it has still one, else a copy. Raises
    OutputError."""
    made: Path | None = None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        free = unused(path)
        if os.fstat(descriptor).st_nlink:
            try:
                os.link(f"/proc/self/fd/{descriptor}", free, follow_symlinks=True)
                return free
            except OSError:
                pass  # on another file system, or where links are refused
        with open(os.open(free, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600), "wb") as copy:
            made = free
            done, size = 0, os.fstat(descriptor).st_size
            while done < size:
                piece = os.pread(descriptor, min(_COPIED_BYTES, size - done), done)
                if not piece:
                    break
                copy.write(piece)
                done += len(piece)
            copy.flush()
            os.fsync(copy.fileno())
        return free
    except OSError as error:
        if made is not None:
            with suppress(OSError):
                made.unlink()
        raise OutputError(f"cannot save run file {path}: {error.strerror}") from error
