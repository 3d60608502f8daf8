"""Whole runs whose file cannot be written for a while: what is recorded is there, what is not runs again or goes on."""

from __future__ import annotations

import os
import resource
import select
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.fix_farm import Farm, wait_for

pytestmark = [pytest.mark.postgres, pytest.mark.mpi_outside]

TASKS, MANY = 60, 400
SIZE = 200_000

needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root may mount")


class Watched:
    """A run, and what it says while it runs."""

    def __init__(self, farm: Farm, folder: Path, *options: str) -> None:
        self.process = farm.start("run", "--quiet", "--output", str(folder), *options, ranks=3)
        self.folder = folder
        self.said = ""
        self._thread = threading.Thread(target=self._listen, daemon=True)
        self._thread.start()

    def _listen(self) -> None:
        assert self.process.stderr is not None
        for line in iter(self.process.stderr.readline, b""):
            self.said += line.decode()

    def end(self, deadline_s: float = 60.0) -> int:
        assert self.process.stdout is not None and self.process.stderr is not None
        self.process.wait(deadline_s)
        self._thread.join(5.0)
        self.process.stdout.close()
        self.process.stderr.close()
        return self.process.returncode


def submit(farm: Farm, tasks: int = TASKS) -> None:
    """Each task leaves what it printed under its number, to compare."""
    line = f"echo $MPIFARM_TASK >> begun; head -c {SIZE} /dev/urandom | tee out-$MPIFARM_TASK; sleep 0.02"
    farm.submit([line] * tasks)


def begun(farm: Farm) -> int:
    path = farm.cwd / "begun"
    return len(path.read_text().split()) if path.exists() else 0


def recorded(farm: Farm) -> list[int]:
    return [task["task"] for task in farm.tasks() if task["state"] == "succeeded"]


def check(farm: Farm, tasks: list[int]) -> None:
    """What is recorded is there, byte for byte."""
    ranges = ",".join(map(str, tasks))
    expected = b"".join((farm.cwd / f"out-{task}").read_bytes() for task in tasks)
    assert not tasks or farm.output(ranges) == expected


def stands_still(farm: Farm, seconds: float = 1.5) -> None:
    """No task is started any more, for so long."""
    seen, since = begun(farm), time.monotonic()

    def still() -> bool:
        nonlocal seen, since
        if begun(farm) != seen:
            seen, since = begun(farm), time.monotonic()
        return time.monotonic() - since > seconds

    wait_for(still, "no task starts any more", 30.0)


def writer_of(path: Path) -> int:
    """The process that has the run file open for writing."""
    for folder in Path("/proc").iterdir():
        if folder.name.isdigit():
            try:
                for fd in (folder / "fd").iterdir():
                    if os.readlink(fd) == str(path) and os.access(f"{folder}/fdinfo/{fd.name}", os.R_OK):
                        flags = int((folder / "fdinfo" / fd.name).read_text().split("flags:")[1].split()[0], 8)
                        if flags & os.O_ACCMODE:
                            return int(folder.name)
            except OSError:
                continue
    return 0


def run_file(folder: Path) -> Path:
    return Path(wait_for(lambda: list(folder.glob("mpifarm-run-*.h5")), "a run file")[0])


@contextmanager
def small_quota(farm: Farm, run: Watched) -> Iterator[Callable[[], None]]:
    """As a quota: the file may not grow by more than a little. The yielded call lifts it."""
    path = run_file(run.folder)
    pid = wait_for(lambda: writer_of(path), "who writes the run file")
    wait_for(lambda: begun(farm) > 5, "some tasks begin")
    before = resource.prlimit(pid, resource.RLIMIT_FSIZE)
    resource.prlimit(pid, resource.RLIMIT_FSIZE, (path.stat().st_size + 3 * SIZE, before[1]))
    yield lambda: resource.prlimit(pid, resource.RLIMIT_FSIZE, before) and None


def test_a_quota_is_hit_and_lifted(farm: Farm) -> None:
    submit(farm)
    run = Watched(farm, farm.cwd, "--compress", "none")
    with small_quota(farm, run) as lift:
        wait_for(lambda: "make room" in run.said, "the user is told")
        stands_still(farm)
        done = recorded(farm)
        assert len(done) < TASKS
        check(farm, done)
        lift()
    assert run.end() == 0, run.said
    assert recorded(farm) == list(range(1, TASKS + 1))
    check(farm, recorded(farm))
    assert begun(farm) == TASKS, "nothing ran twice"


def test_a_stop_while_there_is_no_room(farm: Farm) -> None:
    submit(farm)
    run = Watched(farm, farm.cwd, "--grace", "1s")
    with small_quota(farm, run):
        wait_for(lambda: "make room" in run.said, "the user is told")
        stands_still(farm)
        os.killpg(run.process.pid, signal.SIGTERM)
        run.end()
    check(farm, recorded(farm))
    farm.run("run", ranks=3)
    assert recorded(farm) == list(range(1, TASKS + 1))
    check(farm, recorded(farm))


@pytest.mark.torture
@needs_root
def test_a_full_file_system(farm: Farm) -> None:
    disk = farm.cwd / "disk"
    disk.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=4m", "tmpfs", disk], check=True)
    try:
        submit(farm)
        run = Watched(farm, disk)
        wait_for(lambda: "make room" in run.said, "the user is told")
        stands_still(farm)
        check(farm, recorded(farm))
        subprocess.run(["mount", "-o", "remount,size=64m", disk], check=True)
        assert run.end() == 0, run.said
        assert recorded(farm) == list(range(1, TASKS + 1))
        check(farm, recorded(farm))
    finally:
        subprocess.run(["umount", "--lazy", disk], check=True)


@needs_root
def test_a_file_system_that_stops_answering(farm: Farm) -> None:
    """Frozen, so that a write never returns: everything else goes on, and says so."""
    image, disk = farm.cwd / "image", farm.cwd / "disk"
    disk.mkdir()
    with image.open("wb") as file:
        file.truncate(256 << 20)
    subprocess.run(["mkfs.ext4", "-q", image], check=True)
    if subprocess.run(["mount", "-o", "loop", image, disk], check=False, capture_output=True).returncode:
        pytest.skip("no loop devices here")
    try:
        submit(farm, MANY)  # more than may be on its way to the file
        run = Watched(farm, disk)
        wait_for(lambda: begun(farm) > 5, "some tasks begin")
        subprocess.run(["fsfreeze", "-f", disk], check=True)
        try:
            wait_for(lambda: "does not answer" in run.said, "the user is told", 30.0)
            stands_still(farm)
            assert begun(farm) < MANY
        finally:
            subprocess.run(["fsfreeze", "-u", disk], check=True)
        assert run.end() == 0, run.said
        assert recorded(farm) == list(range(1, MANY + 1))
        check(farm, recorded(farm))
    finally:
        subprocess.run(["umount", "--lazy", disk], check=True)


def test_a_directory_that_cannot_be_written(farm: Farm) -> None:
    closed = Path("/sys")  # refuses root, too
    if os.geteuid():
        closed = farm.cwd / "closed"
        closed.mkdir(mode=0o500)
    farm.submit(["echo never"])
    _, said = farm.run("run", "--output", str(closed), ranks=3, code=None)
    assert ("cannot create run file" in said and "choose another directory" in said) or "choose a directory" in said
    assert farm.report()["tasks"]["pending"] == 1
    farm.run("run", ranks=3)
    assert farm.output("1") == b"never\n"


def test_a_long_task_is_seen_within_two_seconds(farm: Farm) -> None:
    """It prints the time now and then; so old is what stands in the file when it is first seen there."""
    farm.submit(["for i in 1 2 3 4 5; do date +%s.%N; sleep 0.5; done; head -c 0 < gate"])
    os.mkfifo(farm.cwd / "gate")
    run = farm.start("run", "--quiet", ranks=3)
    follow = farm.start("report", "job", "--tasks", "1", "--follow")
    assert follow.stdout is not None
    ages, rest = [], b""
    while len(ages) < 5:
        assert select.select([follow.stdout], [], [], 20.0)[0], "nothing is seen"
        *lines, rest = (rest + os.read(follow.stdout.fileno(), 4096)).split(b"\n")
        ages += [time.time() - float(line) for line in lines]
    assert max(ages[1:]) < 2.0, ages
    (farm.cwd / "gate").write_bytes(b"")
    farm.finish(run)
    farm.finish(follow)
