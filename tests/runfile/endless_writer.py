"""A process whose children are to be killed. Each line `PATH SEED` on stdin starts one, which appends and syncs for
ever and tells how many rows it may promise after each sync. Forked, because importing h5py takes longer than a round.
"""

from __future__ import annotations

import os
import random
import sys
from pathlib import Path

from tests.runfile.gather import append_seeded, new_writer


def say(word: str, number: int) -> None:
    os.write(1, f"{word} {number}\n".encode())  # one call: a kill cannot cut a line in two


def write_for_ever(path: Path, seed: int) -> None:
    rng = random.Random(seed)
    writer = new_writer(path)
    while True:
        for _ in range(rng.randrange(1, 4)):
            append_seeded(writer, seed, rng.choice((1, 5, 40)))
        writer.sync()
        say("rows", writer.rows)


def main() -> None:
    for line in sys.stdin:
        path, seed = line.split()
        child = os.fork()
        if child == 0:
            write_for_ever(Path(path), int(seed))
        say("child", child)
        os.waitpid(child, 0)
        say("ended", child)


main()
