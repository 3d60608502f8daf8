"""What tasks inherit of what only the run was told: not the DSN with its password, nor what `run --local` set for MPI.

Imports nothing heavy: the launcher of every node does this before its first task.
"""

from __future__ import annotations

from collections.abc import MutableMapping, Sequence

PASS = "--pass-dsn"
DSN, WITHHELD = "MPIFARM_DSN", "MPIFARM_DSN_WITHHELD"
LOCAL = "MPIFARM_LOCAL_SETTINGS"
"""Names of variables, with commas between: set by `run --local` for its own MPI."""


def take_option(name: str, argv: Sequence[str]) -> tuple[str, list[str]]:
    """The last value of an option (`--dsn X`, `--dsn=X`) in a command line, empty without one, and the other words."""
    value, rest = "", []
    words = iter(argv)
    for word in words:
        if word == name:
            value = next(words, "")
        elif word.startswith(f"{name}="):
            value = word.partition("=")[2]
        else:
            rest.append(word)
    return value, rest


def withhold(argv: Sequence[str], environ: MutableMapping[str, str]) -> None:
    """Make `environ`, that of a run with these words, fit for tasks."""
    for name in filter(None, environ.pop(LOCAL, "").split(",")):
        environ.pop(name, None)
    said, rest = take_option("--dsn", argv)
    dsn = said or environ.get(DSN, "")
    environ.pop(DSN, None)
    if dsn and PASS in rest:
        environ[DSN] = dsn
        environ.pop(WITHHELD, None)
    elif dsn:
        # So that an mpifarm in a task asks, and does not take another queue for this one.
        environ[WITHHELD] = "1"
