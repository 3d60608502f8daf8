"""All checks in one command.

python -m tests            everything but the long campaigns: style, types, pure, Postgres, MPI, whole programs
python -m tests fast       what needs no server and no MPI: under ten seconds
python -m tests torture    the long campaigns; each that ends well appends a line to tests/torture.jsonl
"""

from __future__ import annotations

import shutil
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
STYLE = [
    ["ruff", "check", "--quiet", "."],
    ["ruff", "format", "--check", "--quiet", "."],
    ["mypy"],
]
TWO = ["-n", "2", "--dist", "worksteal"]
"""Most of a test's time it waits for processes that wait for each other."""
FAST = [*TWO, "--hypothesis-profile=fast"]
NOT_FAST = "postgres or mpi or mpi_outside or slow or torture"


def _tool(name: str) -> str:
    beside = Path(sys.executable).with_name(name)
    found = str(beside) if beside.exists() else shutil.which(name)
    if found is None:
        sys.exit(f"{name} is missing: pip install -e '.[test]'")
    return found


def _step(title: str, command: list[str]) -> bool:
    start = time.monotonic()
    print(f"--- {title}", flush=True)
    ok = subprocess.run(command, cwd=ROOT, check=False).returncode == 0
    print(f"--- {title}: {'ok' if ok else 'FAILED'} in {time.monotonic() - start:.1f} s", flush=True)
    return ok


def main(words: list[str]) -> int:
    which = words[0] if words else "all"
    pytest = [sys.executable, "-m", "pytest", "-q"]
    style = [(command[0], [_tool(command[0]), *command[1:]]) for command in STYLE]
    steps = {
        "fast": [*style, ("pure tests", [*pytest, "-m", f"not ({NOT_FAST})", *FAST, *words[1:]])],
        "all": [*style, ("tests", [*pytest, "-m", "not torture", *TWO, *words[1:]])],
        "torture": [("long campaigns", [*pytest, "-m", "torture", *words[1:]])],
    }
    if which not in steps:
        print(__doc__)
        return 2
    results = [_step(title, command) for title, command in steps[which]]
    print("all checks passed" if all(results) else "checks FAILED", flush=True)
    return 0 if all(results) else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
