"""Entry point. `run` is intercepted here: its ranks must fork their launcher before anything heavy is imported.

Also what `python DIRECTORY OF THIS PACKAGE` runs, as mpifarm starts itself (`startup.own_process`). Until nothing can
come from the working directory any more, it imports only what Python itself has imported.
"""

import os
import sys

TYPE_CHECKING = False
if TYPE_CHECKING:
    from mpifarm.rank.options import RunOptions

READING = ("report", "tasks", "export", "verify", "repair")
"""Commands that may read run files."""

PARENT, PACKAGE = __file__.rsplit("/", 2)[:2]  # absolute since Python 3.9
PACKAGE = f"{PARENT}/{PACKAGE}"


def forget_working_directory() -> None:
    """Take the user's directory out of `sys.path`, however it got there: their queue.py is not ours. The environment,
    which tasks inherit, stays as it is."""
    try:
        here = os.stat(".")
    except OSError:
        return  # it has been removed, with all that was in it

    def stays(entry: str) -> bool:
        if entry in ("", PACKAGE):
            return False
        try:
            return entry == PARENT or not os.path.samestat(os.stat(entry), here)
        except OSError:
            return True

    sys.path[:] = filter(stays, sys.path)


def _be_this_package() -> None:
    """Make `import mpifarm` mean the package that this file is in, wherever `sys.path` leads."""
    from importlib.util import module_from_spec, spec_from_file_location

    spec = spec_from_file_location("mpifarm", f"{PACKAGE}/__init__.py", submodule_search_locations=[PACKAGE])
    assert spec is not None and spec.loader is not None
    sys.modules["mpifarm"] = module = module_from_spec(spec)
    spec.loader.exec_module(module)


def main() -> int:
    forget_working_directory()
    import signal

    from mpifarm.startup.own_process import INTERRUPTED, Interrupts, interruptible

    interrupts = Interrupts()
    interrupts.leave()
    _open_standard_streams()
    from mpifarm.errors import UsageError
    from mpifarm.startup.surroundings import has_directory, restart_without_inspection

    restart_without_inspection()
    if not has_directory():
        return UsageError.exit_code
    argv = sys.argv[1:]
    if argv[:1] == ["run"] and not {"-h", "--help"} & set(argv):
        if any(word == "--local" or word.startswith("--local=") for word in argv):
            from mpifarm.rank.local import run_local

            return run_local(argv[1:])
        from mpifarm.startup.launched import promised

        if promised(os.environ).ranks > 1:
            interrupts.remember()
        from mpifarm.rank.options import CommandLine
        from mpifarm.rank.run import main as run_main

        code = run_main(CommandLine(argv[1:], _run_options), interrupts)
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # nothing is left to stop
        return code

    def command() -> int:
        from mpifarm.cli.main import main as cli_main

        try:
            with interruptible():
                return cli_main(argv)
        except KeyboardInterrupt:
            return INTERRUPTED

    # Who follows waits for files that are being written, and is left by Ctrl-C or by whoever reads it.
    if argv[:1] and argv[0] in READING and not {"-f", "--follow"} & set(argv):
        from mpifarm.startup.limited import watched

        return watched(command)
    return command()


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


def _run_options(argv: list[str]) -> "RunOptions":
    """What the command line of a run says, read by rank 0 alone."""
    from mpifarm.cli.main import parse_run

    return parse_run(argv)


if __name__ == "__main__":
    forget_working_directory()
    if "mpifarm" not in sys.modules:  # started as a directory
        _be_this_package()
    sys.exit(main())
