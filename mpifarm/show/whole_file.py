"""Files for users that appear under their name whole, or not at all."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from mpifarm.errors import UsageError


@contextmanager
def draft_of(path: Path, *, force: bool) -> Iterator[Path]:
    """The name to write to; when the block ends well, the file there gets the name `path`. Raises UsageError for a
    file that exists, unless `force`. The directory is made where there is none."""
    if not force and os.path.lexists(path):
        raise _exists(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UsageError(f"cannot make the directory of {path}: {error.strerror}") from None
    draft = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        yield draft
        if force:
            draft.replace(path)
        else:
            try:
                os.link(draft, path)  # unlike a rename it refuses to replace
            except FileExistsError:
                raise _exists(path) from None
            except OSError:
                draft.rename(path)  # no hard links on this file system
    finally:
        with suppress(FileNotFoundError):
            draft.unlink()


def _exists(path: Path) -> UsageError:
    return UsageError(f"{path} exists already: --force replaces it")
