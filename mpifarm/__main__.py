"""Entry point. `run` is intercepted here: its ranks must fork their launcher before anything heavy is imported."""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING

from mpifarm.errors import UsageError
from mpifarm.surroundings import has_directory, restart_without_inspection

if TYPE_CHECKING:
    from mpifarm.options import RunOptions


def main() -> int:
    _open_standard_streams()
    restart_without_inspection()
    if not has_directory():
        return UsageError.exit_code
    argv = sys.argv[1:]
    if argv[:1] == ["run"] and not {"-h", "--help"} & set(argv):
        if any(word == "--local" or word.startswith("--local=") for word in argv):
            from mpifarm.local import run_local

            return run_local(argv[1:])
        from mpifarm.options import CommandLine
        from mpifarm.run import main as run_main

        return run_main(CommandLine(argv[1:], _run_options))
    from mpifarm.cli import main as cli_main

    return cli_main(argv)


def _open_standard_streams() -> None:
    """Where stdin, stdout or stderr are closed, nothing is read or written. Left closed, the first file or socket that
    is opened would get their number."""
    for fd, name in enumerate(("stdin", "stdout", "stderr")):
        try:
            os.fstat(fd)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # the lowest number that is free: this one
            os.set_inheritable(fd, True)
            setattr(sys, name, open(fd, "w" if fd else "r", closefd=False))  # noqa: SIM115 - as long as the process


def _run_options(argv: list[str]) -> RunOptions:
    """What the command line of a run says, read by rank 0 alone."""
    from mpifarm.cli import parse_run

    return parse_run(argv)


if __name__ == "__main__":
    sys.exit(main())
