"""What all benchmarks share: the JSON line of a figure, and a queue of its own in a scratch directory."""

from __future__ import annotations

import contextlib
import datetime
import json
import os
import platform
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent


def commit() -> str:
    done = subprocess.run(
        ["git", "describe", "--always", "--dirty"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    return done.stdout.strip() or "unknown"


def machine() -> str:
    """Cores, processor and kernel of this machine."""
    model = "unknown processor"
    with contextlib.suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                model = line.split(":", 1)[1].strip()
                break
    return f"{len(os.sched_getaffinity(0))} cores, {model}, {platform.system()} {platform.release()}"


def now() -> str:
    return datetime.datetime.now(datetime.timezone.utc).strftime("%Y-%m-%dT%H:%M:%SZ")


def emit(benchmark: str, figure: str, value: float, unit: str, **more: object) -> None:
    """Print one figure as a JSON line."""
    line = {
        "benchmark": benchmark,
        "figure": figure,
        "value": float(f"{value:.4g}"),
        "unit": unit,
        **more,
        "machine": machine(),
        "commit": commit(),
        "date": now(),
        "python": platform.python_version(),
    }
    print(json.dumps(line), flush=True)


@contextlib.contextmanager
def scratch_farm() -> Iterator[tuple[Path, dict[str, str]]]:
    """A directory and an environment in which `mpifarm` uses an embedded queue of its own."""
    with tempfile.TemporaryDirectory(prefix="mpifarm-bench-") as name:
        Path(name).chmod(0o755)
        environ = {k: v for k, v in os.environ.items() if not k.startswith("MPIFARM_")}
        environ["MPIFARM_PG_DIR"] = str(Path(name) / "pg")
        environ["XDG_CONFIG_HOME"] = str(Path(name) / "config")
        yield Path(name), environ


def farm(arguments: list[str], cwd: Path, environ: dict[str, str], prefix: list[str] | None = None) -> str:
    """Run one mpifarm command to its end; its stdout."""
    command = [*(prefix or []), sys.executable, "-m", "mpifarm", *arguments]
    done = subprocess.run(command, cwd=cwd, env=environ, capture_output=True, text=True, timeout=1800, check=False)
    if done.returncode:
        sys.exit(f"{' '.join(command)} ended with {done.returncode}:\n{done.stderr}")
    return done.stdout
