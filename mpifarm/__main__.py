"""Entry point. `run` is intercepted here: its ranks must fork their launcher before anything heavy is imported."""

from __future__ import annotations

import sys


def main() -> int:
    argv = sys.argv[1:]
    if argv[:1] == ["run"] and not {"-h", "--help"} & set(argv):
        if any(word == "--local" or word.startswith("--local=") for word in argv):
            from mpifarm.local import run_local

            return run_local(argv[1:])
        from mpifarm.run import main as run_main

        return run_main(argv[1:])
    from mpifarm.cli import main as cli_main

    return cli_main(argv)


if __name__ == "__main__":
    sys.exit(main())
