"""A process to be killed: appends and syncs for ever, and prints how many rows it may promise after each sync."""

from __future__ import annotations

import random
import sys
from pathlib import Path

from tests.output.gather import append_seeded, new_writer


def main() -> None:
    path, seed = Path(sys.argv[1]), int(sys.argv[2])
    rng = random.Random(seed)
    writer = new_writer(path)
    while True:
        for _ in range(rng.randrange(1, 4)):
            append_seeded(writer, seed, rng.choice((1, 5, 40)))
        writer.sync()
        print(writer.rows, flush=True)


main()
