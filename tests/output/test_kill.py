"""Another process reads while the writer writes, and the writer is killed: what it promised is there, byte for byte."""

from __future__ import annotations

import os
import random
import select
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from mpifarm.core.row import STDOUT
from mpifarm.output.reader import open_run
from tests.output.gather import assert_seeded

DEADLINE_S = 30.0


class EndlessWriter:
    """The child and the rows it has promised so far."""

    def __init__(self, path: Path, seed: int) -> None:
        command = [sys.executable, "-m", "tests.output.endless_writer", str(path), str(seed)]
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE)
        self._told = b""

    @property
    def promised(self) -> int:
        lines = self._told.split(b"\n")[:-1]  # the last is unfinished
        return int(lines[-1]) if lines else 0

    def listen(self, seconds: float) -> bool:
        """Take in what it says within `seconds`; False at its end."""
        assert self.process.stdout is not None
        pipe = self.process.stdout.fileno()
        if select.select([pipe], [], [], seconds)[0]:
            told = os.read(pipe, 1 << 16)
            self._told += told
            return bool(told)
        return True

    def wait_for(self, rows: int) -> None:
        deadline = time.monotonic() + DEADLINE_S
        while self.promised < rows:
            assert time.monotonic() < deadline and self.listen(1.0), "the writer stopped by itself"

    def kill(self) -> None:
        self.process.kill()
        while self.listen(DEADLINE_S):
            pass
        self.process.wait(DEADLINE_S)


@contextmanager
def endless_writer(path: Path, seed: int) -> Iterator[EndlessWriter]:
    writer = EndlessWriter(path, seed)
    try:
        yield writer
    finally:
        writer.kill()
        assert writer.process.stdout is not None
        writer.process.stdout.close()


def kill_round(path: Path, seed: int) -> None:
    rng = random.Random(seed)
    with endless_writer(path, seed) as writer:
        writer.wait_for(rng.randrange(1, 1200))
        end = time.monotonic() + rng.uniform(0, 0.01)
        while (left := end - time.monotonic()) > 0:  # the kill falls anywhere between two promises
            writer.listen(left)
        writer.kill()
    with open_run(path) as run:
        assert run.rows >= writer.promised
        assert_seeded(run, seed, range(writer.promised))
    path.unlink()


def test_a_killed_writer_keeps_its_promises(tmp_path: Path) -> None:
    for seed in range(15):
        kill_round(tmp_path / "run.h5", seed)


@pytest.mark.torture
def test_many_killed_writers_keep_their_promises(tmp_path: Path) -> None:
    for seed in range(100, 400):
        kill_round(tmp_path / "run.h5", seed)


def test_reading_while_another_process_writes(tmp_path: Path) -> None:
    """Every row that is seen, promised or not yet, can be read to the last byte."""
    path, seed, seen, looks = tmp_path / "run.h5", 3, 0, 0
    with endless_writer(path, seed) as writer:
        writer.wait_for(1)
        with open_run(path) as run:
            while seen < 1500:
                promised = writer.promised
                run.refresh()
                assert run.rows >= promised
                assert_seeded(run, seed, range(seen, run.rows))
                if run.rows:
                    last = run.attempt(run.rows - 1)
                    streamed = run.running_output(last.lease, last.task, last.attempt, STDOUT)
                    assert sum(map(len, streamed)) == last.stdout_bytes
                seen, looks = run.rows, looks + 1
                assert writer.listen(0.01)
    assert looks > 1
