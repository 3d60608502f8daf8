"""A process reads while another writes, and writers are killed: what they promised is there, byte for byte."""

from __future__ import annotations

import os
import random
import select
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from mpifarm.core.row import STDOUT
from mpifarm.runfile.reader import open_run
from tests.runfile.gather import assert_seeded

pytestmark = pytest.mark.slow

DEADLINE_S = 30.0


class EndlessWriter:
    """Starts endless writers, one at a time; `promised` are the rows of the present one that must survive."""

    def __init__(self) -> None:
        command = [sys.executable, "-m", "tests.runfile.endless_writer"]
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, bufsize=0)
        self._unfinished_line = b""

    def start(self, path: Path, seed: int) -> None:
        assert self.process.stdin is not None
        self.child = self.promised = 0
        self.process.stdin.write(f"{path} {seed}\n".encode())

    def listen(self, seconds: float) -> None:
        """Take in what is said within `seconds`."""
        assert self.process.stdout is not None
        pipe = self.process.stdout.fileno()
        if not select.select([pipe], [], [], seconds)[0]:
            return
        *lines, self._unfinished_line = (self._unfinished_line + os.read(pipe, 1 << 16)).split(b"\n")
        for word, number in map(bytes.split, lines):
            if word == b"rows":
                self.promised = int(number)
            else:
                self.child = int(number) if word == b"child" else 0

    def wait_for(self, rows: int) -> None:
        deadline = time.monotonic() + DEADLINE_S
        while not self.child or self.promised < rows:
            assert time.monotonic() < deadline, "the writer does not write"
            self.listen(1.0)

    def kill(self) -> None:
        os.kill(self.child, signal.SIGKILL)
        deadline = time.monotonic() + DEADLINE_S
        while self.child:
            assert time.monotonic() < deadline, "the writer does not die"
            self.listen(1.0)


@pytest.fixture(scope="module")
def writer() -> Iterator[EndlessWriter]:
    writer = EndlessWriter()
    assert writer.process.stdin is not None and writer.process.stdout is not None
    yield writer
    writer.process.stdin.close()
    writer.process.wait(DEADLINE_S)
    writer.process.stdout.close()


def kill_round(writer: EndlessWriter, path: Path, seed: int) -> None:
    rng = random.Random(seed)
    writer.start(path, seed)
    writer.wait_for(rng.randrange(1, 300))
    end = time.monotonic() + rng.uniform(0, 0.01)
    while (left := end - time.monotonic()) > 0:  # the kill falls anywhere between two promises
        writer.listen(left)
    writer.kill()
    with open_run(path) as run:
        assert run.rows >= writer.promised > 0
        assert_seeded(run, seed, range(writer.promised))
    path.unlink()


def test_a_killed_writer_keeps_its_promises(writer: EndlessWriter, tmp_path: Path) -> None:
    for seed in range(15):
        kill_round(writer, tmp_path / "run.h5", seed)


@pytest.mark.torture
def test_many_killed_writers_keep_their_promises(writer: EndlessWriter, tmp_path: Path) -> None:
    for seed in range(100, 1100):
        kill_round(writer, tmp_path / "run.h5", seed)


def test_reading_while_another_process_writes(writer: EndlessWriter, tmp_path: Path) -> None:
    """Every row that is seen, promised or not yet, can be read to the last byte; and again when the writer is gone."""
    path, seed, seen, looks = tmp_path / "run.h5", 3, 0, 0
    writer.start(path, seed)
    writer.wait_for(1)
    with open_run(path) as run:
        while seen < 500:
            promised = writer.promised
            run.refresh()
            assert run.rows >= promised
            assert_seeded(run, seed, range(seen, run.rows))
            if run.rows:
                last = run.attempt(run.rows - 1)
                streamed = run.running_output(last.key, STDOUT)
                assert sum(map(len, streamed)) == last.stdout_bytes
            seen, looks = run.rows, looks + 1
            writer.listen(0.01)
        assert looks > 1
        writer.kill()
        newest = writer.promised - 1
        assert run.attempt(newest).task == newest + 1  # `attempt` refreshes by itself
