"""Lustre: over how many servers the run file is spread, settled before it is created (`run --stripe-count`).

`lfs setstripe` makes the empty file; HDF5 then fills it. The program is run by the launcher of rank 0, since no rank
may fork once MPI is initialised. Whatever goes wrong, the run goes on in a file with the stripes of its directory, and
says so.
"""

from __future__ import annotations

import re
import shutil
import stat
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from mpifarm.errors import UsageError

LFS_TIMEOUT_S = 30.0
STRIPE_UNIT = 64 << 10
"""Lustre refuses sizes that are no multiple of this."""

_SIZE = re.compile(r"([0-9]{1,9})([kKmMgG]?)(?:i?[bB])?")
_UNITS = {"": 1, "k": 1 << 10, "m": 1 << 20, "g": 1 << 30}


@dataclass(frozen=True, slots=True)
class Stripes:
    """What a user wants; None: as the directory has it."""

    count: int | None = None
    """Servers (OSTs); -1: all there are."""
    size: int | None = None
    """Bytes on one of them before the next has its turn."""

    @property
    def wanted(self) -> bool:
        return self.count is not None or self.size is not None

    def words(self) -> list[str]:
        """For lfs."""
        count = [] if self.count is None else ["-c", str(self.count)]
        return count if self.size is None else [*count, "-S", str(self.size)]


class Made(NamedTuple):
    """`made`: the file is there, empty. `said`: what a person should know, or nothing."""

    made: bool
    said: str = ""


def parse_stripe_size(text: str) -> int:
    """Bytes. Raises UsageError."""
    found = _SIZE.fullmatch(text.strip())
    size = int(found[1]) * _UNITS[found[2].lower()] if found else 0
    if size == 0 or size % STRIPE_UNIT or size >= 4 << 30:
        raise UsageError(f"--stripe-size: {text!r} is not a multiple of 64K below 4G, such as 1M or 16M")
    return size


def make_striped(path: Path, stripes: Stripes, run_program: Callable[[Sequence[str], float], str]) -> Made:
    """Make the empty file, where there was none, and its directory. `run_program(argv, timeout_s)` returns what went
    wrong."""
    lfs = shutil.which("lfs")
    as_directory = "the run file has the stripes of its directory"
    if lfs is None:
        return Made(
            False, f"--stripe-count and --stripe-size need Lustre's lfs, which is not on the PATH: {as_directory}"
        )
    with suppress(OSError):  # who opens the file says what is wrong
        path.parent.mkdir(parents=True, exist_ok=True)
    wrong = run_program([lfs, "setstripe", *stripes.words(), str(path)], LFS_TIMEOUT_S)
    try:
        facts = path.lstat()
        if stat.S_ISREG(facts.st_mode) and facts.st_size == 0:
            if not wrong:
                return Made(True)
            path.unlink()
    except OSError as error:
        wrong = wrong or f"{path}: {error.strerror}"
    return Made(False, f"lfs setstripe did not make the file ({wrong or 'it is not empty'}): {as_directory}")
