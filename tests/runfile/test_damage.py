"""Files damaged on purpose: truncated, bit-flipped, half-written, scribbled over. Whatever was done to the file, the
output of each task is exactly right or told to be damaged; and repair brings back what is there.
"""

from __future__ import annotations

import random
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.runfile.damage import DAMAGES, TASKS, Judge, half_written, make, truncated
from tests.torture import keep

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def judge() -> Iterator[Judge]:
    judge = Judge()
    yield judge
    judge.close()


def campaign(judge: Judge, folder: Path, seeds: range) -> Counter[str]:
    """How often what was found, over all damages of these seeds."""
    files = [make(folder / f"{finished}.h5", finished=finished) for finished in (True, False)]
    path, seen = folder / "damaged.h5", Counter[str]()
    for seed in seeds:
        rng = random.Random(seed)
        for number, whole in enumerate(files):
            damage = DAMAGES[seed % len(DAMAGES)]
            damaged, what = damage(whole, rng)
            path.write_bytes(damaged)
            answer = judge(path)
            said = f"seed {seed}, {('finished', 'killed')[number]}, {what}: {answer}"
            assert "died" not in answer, said
            assert not answer["read"].get("wrong"), said
            assert sum(answer["read"].values()) == TASKS, said
            repaired = answer.get("repaired", {})
            assert not repaired.get("wrong") and not answer.get("silent"), said
            if damage not in (truncated, half_written):  # they may take the index with them
                assert repaired.get("right", 0) >= answer["read"].get("right", 0), said
            seen.update(damages=1, right=answer["read"].get("right", 0), told=answer["read"].get("told", 0))
            seen.update(repaired=repaired.get("right", 0), hurt=answer["read"].get("told", 0) > 0)
    return seen


def test_no_damage_gives_wrong_bytes(judge: Judge, tmp_path: Path) -> None:
    seen = campaign(judge, tmp_path, range(24))
    assert seen["hurt"] > 8, "most of the damages did something"
    assert seen["repaired"] > seen["right"], "repair finds more than a reader does"


@pytest.mark.torture
def test_no_damage_gives_wrong_bytes_for_long(judge: Judge, tmp_path: Path) -> None:
    start = time.monotonic()
    seen = campaign(judge, tmp_path, range(1000, 2000))
    keep("damaged run files", {**seen, "tasks_each": TASKS, "seconds": round(time.monotonic() - start)})
