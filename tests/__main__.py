"""All checks in one command.

python -m tests            everything but the long campaigns: style, types, pure, Postgres, MPI, whole programs
python -m tests fast       what needs no server and no MPI: under ten seconds
python -m tests torture    the long campaigns; each that ends well appends a line to tests/torture.jsonl

Many tests have deadlines, and two run at a time on what may be a noisy machine: of up to three that fail, each is told
and run once more, alone. What fails then has failed.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
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
AGAIN_MAX = 3
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


def _all_tests(pytest: list[str], words: list[str]) -> bool:
    with tempfile.TemporaryDirectory() as folder:
        failed = Path(folder) / "failed"
        os.environ["MPIFARM_TESTS_FAILED"] = str(failed)
        if _step("tests", [*pytest, "-m", "not torture", *TWO, *words]):
            return True
        names = sorted(set(failed.read_text().splitlines())) if failed.exists() else []
    del os.environ["MPIFARM_TESTS_FAILED"]
    if not 0 < len(names) <= AGAIN_MAX:
        return False
    return _step(f"once more, alone: {', '.join(names)}", [*pytest, *names])


def main(words: list[str]) -> int:
    which = words[0] if words else "all"
    pytest = [sys.executable, "-m", "pytest", "-q"]
    style = [(command[0], [_tool(command[0]), *command[1:]]) for command in STYLE]
    steps = {
        "fast": [*style, ("pure tests", [*pytest, "-m", f"not ({NOT_FAST})", *FAST, *words[1:]])],
        "all": style,
        "torture": [("long campaigns", [*pytest, "-m", "torture", *words[1:]])],
    }
    if which not in steps:
        print(__doc__)
        return 2
    if which == "fast":
        # Most of its time would go into compiling what has not changed.
        os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
    results = [_step(title, command) for title, command in steps[which]]
    if which == "all":
        results.append(_all_tests(pytest, words[1:]))
    print("all checks passed" if all(results) else "checks FAILED", flush=True)
    return 0 if all(results) else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
