"""Damaged copies of a run file, and a process that judges what readers make of them.

As a program it reads paths from stdin and answers each with a line of JSON: what came of every task, read as a report
with a queue does (the queue knows lease and attempt of each) and after a repair. HDF5 may hang or crash over a damaged
file; then only this process does.
"""

from __future__ import annotations

import json
import random
import subprocess
import sys
from collections import Counter
from collections.abc import Callable
from functools import lru_cache
from pathlib import Path
from typing import Any

from mpifarm.core.row import STDERR, STDOUT
from mpifarm.errors import FarmError, OutputError
from mpifarm.outputs.streams_of_tasks import Outputs
from mpifarm.runfile.repairing.rebuild import Repaired, repair
from tests.reporting.rows import a_task
from tests.runfile.gather import append_seeded, new_writer
from tests.runfile.gather import content as make_content

SEED, TASKS = 11, 160
DEADLINE_S = 60.0
content = lru_cache(maxsize=None)(make_content)
BLOCK = 4096


def make(path: Path, *, finished: bool) -> bytes:
    """A run file of TASKS tasks in several messages; not finished: as a kill of its writer leaves it."""
    writer = new_writer(path)
    for _ in range(TASKS // 20):
        append_seeded(writer, SEED, 20)
        writer.sync()
    whole = path.read_bytes()
    writer.close()
    return path.read_bytes() if finished else whole


def truncated(whole: bytes, rng: random.Random) -> tuple[bytes, str]:
    length = rng.randrange(len(whole))
    return whole[:length], f"truncated to {length}"


def flipped(whole: bytes, rng: random.Random) -> tuple[bytes, str]:
    """One bit; half of the time in something that is not output."""
    at = rng.randrange(len(whole))
    if rng.random() < 0.5:
        marks = [whole.find(mark) for mark in (b"OHDR", b"OCHK", b"GCOL", b"EAHD", b"EAIB", b"EADB")]
        at = min(len(whole) - 1, rng.choice([0, *marks]) + rng.randrange(400))
    bit = rng.randrange(8)
    return whole[:at] + bytes((whole[at] ^ 1 << bit,)) + whole[at + 1 :], f"bit {bit} of byte {at} flipped"


def half_written(whole: bytes, rng: random.Random) -> tuple[bytes, str]:
    """Blocks of the disk that were never written, as a crash of the machine leaves them."""
    first = rng.randrange(len(whole)) // BLOCK * BLOCK
    last = min(len(whole), first + rng.choice((1, 1, 4, 1 << 20)) * BLOCK)
    return whole[:first] + bytes(last - first) + whole[last:], f"bytes {first} to {last} never written"


def scribbled(whole: bytes, rng: random.Random) -> tuple[bytes, str]:
    first = rng.randrange(len(whole))
    noise = rng.randbytes(rng.choice((1, 16, 512)))[: len(whole) - first]
    return whole[:first] + noise + whole[first + len(noise) :], f"{len(noise)} bytes from {first} on overwritten"


DAMAGES: list[Callable[[bytes, random.Random], tuple[bytes, str]]] = [truncated, flipped, half_written, scribbled]


def read(path: Path) -> Counter[str]:
    """Every task as its outcome in the queue names it: `right`, `told` to be damaged, or `wrong`."""
    found: Counter[str] = Counter()
    with Outputs() as outputs:
        for task in range(1, TASKS + 1):
            line = a_task(task, state="succeeded", file=str(path), file_row=task - 1, lease=1, attempt=1)
            try:
                (attempt,) = outputs.recorded(line)
                for stream in (STDOUT, STDERR):
                    if b"".join(outputs.stream(attempt, stream)) != content(SEED, task, stream):
                        found["wrong"] += 1
                        break
                else:
                    found["right"] += 1
            except OutputError:
                found["told"] += 1
    return found


def judge(path: Path) -> dict[str, Any]:
    before = path.read_bytes()
    out = path.with_suffix(".repaired")
    answer: dict[str, Any] = {"read": read(path)}
    try:
        repaired = repair(path, out)
    except FarmError as error:
        answer["refused"] = str(error)
    else:
        answer["repaired"] = read(out)
        answer["silent"] = _silent(repaired, answer["repaired"])
        out.unlink()
    assert path.read_bytes() == before, "the original was touched"
    return answer


def _silent(repaired: Repaired, found: Counter[str]) -> int:
    """Tasks that cannot be had after the repair and that it did not tell, by task or by row."""
    told = sum(map(len, repaired.damaged.values())) + TASKS - repaired.attempts
    return max(0, found["told"] - told)


class Judge:
    """The judging process, started again when it hangs or dies."""

    def __init__(self) -> None:
        self._process: subprocess.Popen[str] | None = None

    def __call__(self, path: Path) -> dict[str, Any]:
        if self._process is None:
            command = ["timeout", "-s", "KILL", "600", sys.executable, "-m", "tests.runfile.damage"]
            self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        assert self._process.stdin is not None and self._process.stdout is not None
        self._process.stdin.write(f"{path}\n")
        self._process.stdin.flush()
        line = self._process.stdout.readline()
        if not line:
            code = self._process.wait()
            self.close()
            return {"died": code}
        answer: dict[str, Any] = json.loads(line)
        return answer

    def close(self) -> None:
        if self._process is not None:
            assert self._process.stdin is not None and self._process.stdout is not None
            self._process.stdin.close()
            self._process.wait(DEADLINE_S)
            self._process.stdout.close()
            self._process = None


def main() -> None:
    import faulthandler

    for line in sys.stdin:
        faulthandler.dump_traceback_later(DEADLINE_S, exit=True)  # a hang shows where
        print(json.dumps(judge(Path(line.rstrip("\n")))), flush=True)


if __name__ == "__main__":
    main()
