"""A file system that refuses, files that are not ours, and disks that fill up at every place where one can."""

from __future__ import annotations

import errno
import fcntl
import os
import resource
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace

import h5py
import pytest

from mpifarm.errors import NoRoom, OutputError
from mpifarm.runfile.format import FORMAT_VERSION, VERSION_ATTRIBUTE
from mpifarm.runfile.reader import open_run
from mpifarm.runfile.writer import RESERVE_BYTES
from tests.runfile.gather import append_seeded, assert_seeded, new_writer, open_as_killed

pytestmark = pytest.mark.slow


def test_an_existing_file_is_never_overwritten(tmp_path: Path) -> None:
    path = tmp_path / "run.h5"
    path.write_text("precious")
    with pytest.raises(OutputError, match="exists already"):
        new_writer(path)
    assert path.read_text() == "precious"


def test_an_unwritable_directory(tmp_path: Path) -> None:
    if os.geteuid() == 0:
        directory = Path("/sys")  # refuses root too
    else:
        directory = tmp_path / "closed"
        directory.mkdir(mode=0o500)
    with pytest.raises(OutputError, match=rf"cannot create run file {directory}/run.h5: .*choose"):
        new_writer(directory / "run.h5")


def test_a_missing_directory_is_made_and_a_missing_file_told(tmp_path: Path) -> None:
    new_writer(tmp_path / "new" / "dir" / "run.h5")
    assert (tmp_path / "new" / "dir" / "run.h5").stat().st_size
    with pytest.raises(OutputError, match=r"cannot create .*not a directory"):
        new_writer(tmp_path / "new" / "dir" / "run.h5" / "run.h5")
    with pytest.raises(OutputError, match=r"cannot open .* no such file or directory"):
        open_run(tmp_path / "run.h5")


def test_a_failed_creation_leaves_nothing_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "fsync", refusing(errno.EDQUOT))
    with pytest.raises(OutputError, match="make room"):
        new_writer(tmp_path / "run.h5")
    assert list(tmp_path.iterdir()) == []


def test_a_lock_held_by_another_is_explained(tmp_path: Path) -> None:
    path = tmp_path / "run.h5"
    new_writer(path).close()
    with path.open("rb") as other:
        fcntl.flock(other, fcntl.LOCK_EX)
        with pytest.raises(OutputError, match="HDF5_USE_FILE_LOCKING=FALSE"):
            open_run(path)


def test_a_newer_format_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "run.h5"
    new_writer(path).close()
    with h5py.File(path, "r+") as file:
        file.attrs[VERSION_ATTRIBUTE] = 99
    with pytest.raises(OutputError, match=rf"format 99 and this mpifarm reads up to format {FORMAT_VERSION}"):
        open_run(path)


def test_files_that_are_no_run_files(tmp_path: Path) -> None:
    path = tmp_path / "notes.txt"
    path.write_text("dear diary " * 1000)
    with pytest.raises(OutputError, match="not an HDF5 file, or it is truncated"):
        open_run(path)
    path = tmp_path / "other.h5"
    h5py.File(path, "w").close()
    with pytest.raises(OutputError, match="no run of mpifarm wrote it"):
        open_run(path)


def test_a_truncated_file_never_gives_wrong_bytes(tmp_path: Path) -> None:
    path = tmp_path / "run.h5"
    writer = new_writer(path)
    append_seeded(writer, 1, 200)
    writer.close()
    whole = path.read_bytes()
    for share in range(1, 16):
        path.write_bytes(whole[: len(whole) * share // 16])
        with pytest.raises(OutputError), open_run(path) as run:
            assert_seeded(run, 1, range(200))


@contextmanager
def file_size_limit(size: int) -> Iterator[Callable[[], None]]:
    """Writes past `size` fail with EFBIG, as they do with ENOSPC on a full disk; the yielded call ends that."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)

    def lift() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)

    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield lift
    finally:
        lift()


@contextmanager
def small_disk(directory: Path, size: int) -> Iterator[Callable[[], None]]:
    """A real tmpfs where we may mount one, else a file size limit. The yielded call makes room."""
    mount = ["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(directory)]
    if subprocess.run(mount, check=False, capture_output=True).returncode:
        with file_size_limit(size) as lift:
            yield lift
        return
    try:
        grow = ["mount", "-o", "remount,size=64m", str(directory)]
        yield lambda: subprocess.run(grow, check=True, capture_output=True) and None
    finally:
        subprocess.run(["umount", "--lazy", str(directory)], check=True)


def fill_up_and_go_on(path: Path, spare: Path, make_room: Callable[[], None], refusals: int, rows: int) -> None:
    """Write until refused, look at what is there, make room, go on: nothing is lost and nothing stands twice."""
    writer, synced, refused = new_writer(path), 0, 0
    while synced < rows:
        try:
            if writer.rows == synced:
                append_seeded(writer, 7, 10)
            writer.sync()
            synced = writer.rows
        except OutputError as error:
            assert "make room" in str(error)
            refused += 1
            assert refused <= refusals, "refused although there is room"
            if refused == refusals:
                with open_as_killed(writer, spare) as run:
                    assert_seeded(run, 7, range(max(0, synced - 20), synced))
                make_room()
    assert refused == refusals
    writer.close()
    with open_run(path) as run:
        assert run.rows == writer.rows
        assert_seeded(run, 7, range(run.rows))


def test_a_full_file_system(tmp_path: Path) -> None:
    disk = tmp_path / "disk"
    disk.mkdir()
    with small_disk(disk, RESERVE_BYTES + (1 << 20)) as make_room:
        fill_up_and_go_on(disk / "run.h5", tmp_path / "copy.h5", make_room, refusals=3, rows=300)


def test_quotas_hit_at_any_write(tmp_path: Path) -> None:
    """A quota does not show in the free space: HDF5 itself fails, at whatever it was just writing."""
    sweep_limits(tmp_path, range(150_000, 400_000, 24_989))


@pytest.mark.torture
def test_quotas_hit_at_every_write(tmp_path: Path) -> None:
    sweep_limits(tmp_path, range(10_000, 900_000, 997))


def sweep_limits(directory: Path, limits: range) -> None:
    for limit in limits:
        path = directory / f"{limit}.h5"
        with file_size_limit(limit) as lift:
            fill_up_and_go_on(path, directory / "copy.h5", lift, refusals=1 + limit % 3, rows=120)
        path.unlink()


@pytest.mark.parametrize("limit", range(0, 9000, 1000))
def test_no_room_while_the_file_is_made(tmp_path: Path, limit: int) -> None:
    """Kind: the disk fills up at any write of the creation: a sentence, no crash of HDF5, and no file is left."""
    path = tmp_path / "run.h5"
    with file_size_limit(limit):
        try:
            writer = new_writer(path)
        except NoRoom as error:
            assert "cannot create run file" in str(error) and not path.exists()
            return
    assert limit > 4000
    append_seeded(writer, 1, 10)
    writer.close()
    with open_run(path) as run:
        assert_seeded(run, 1, range(10))


def test_closing_while_the_disk_is_full(tmp_path: Path) -> None:
    writer = new_writer(tmp_path / "run.h5")
    append_seeded(writer, 8, 50)
    writer.sync()
    with file_size_limit(writer.path.stat().st_size + 10):
        with pytest.raises(OutputError, match="make room"):
            append_seeded(writer, 8, 50)
        with pytest.raises(OutputError, match=r"cannot close .* make room"):
            writer.close()
        writer.close()
    with open_run(writer.path) as run:
        assert run.rows == 50
        assert_seeded(run, 8, range(50))


def test_room_is_looked_for_before_hdf5_is_touched(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    writer = new_writer(tmp_path / "run.h5")
    space = SimpleNamespace(f_blocks=10_000, f_bavail=RESERVE_BYTES // 4096, f_frsize=4096)
    with monkeypatch.context() as patched:
        patched.setattr(os, "fstatvfs", lambda _: space)
        with pytest.raises(OutputError, match="1024 KiB left"):
            append_seeded(writer, 9, 5)
    append_seeded(writer, 9, 5)
    writer.close()
    with open_run(writer.path) as run:
        assert_seeded(run, 9, range(5))


def refusing(number: int) -> Callable[[int], None]:
    def fsync(_: int) -> None:
        raise OSError(number, os.strerror(number))

    return fsync


def test_a_failed_fsync_ends_the_file_but_not_what_was_synced(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    writer = new_writer(tmp_path / "run.h5")
    append_seeded(writer, 10, 20)
    writer.sync()
    append_seeded(writer, 10, 20)
    with monkeypatch.context() as patched:
        patched.setattr(os, "fsync", refusing(errno.EIO))
        with pytest.raises(OutputError, match="input/output error"):
            writer.sync()
    more = (writer.sync, lambda: append_seeded(writer, 10, 1), lambda: writer.events([(1.0, "x")]), writer.close)
    for step in more:
        with pytest.raises(OutputError, match="What was synced before is safe"):
            step()
    assert writer.broken
    writer.close()
    with open_run(writer.path) as run:
        assert_seeded(run, 10, range(20))
