"""The layout of a run file, and how one is born.

    bytes     u1, chunks of 256 KiB, gzip or zstd filter: the output of all attempts, in the order it arrived
    extents   which attempt and stream the bytes [position, position + length) of `bytes` belong to
    attempts  one row per ended attempt; its extents are among rows [extent_lo, extent_hi) of `extents`
    nodes     by node number          events   (time, text): what a person should know of the run

All datasets exist before SWMR starts (none can be added later), so a million tasks cost two tables and not a million
objects. A row or a chunk is in the file before anything that points at it. The two tables have no filter and the
file no chunk cache (`rdcc_nbytes=0`): HDF5 then writes just the new rows in place, where a cache would write whole
chunks again at every flush (measured with 25 rows per flush: 1.1 bytes written per byte of content instead of 10).
The low version bound is v110, the first with SWMR, so that tools older than our own library read the file.
"""

from __future__ import annotations

import ctypes
import errno
import os
import re
from collections.abc import Mapping, Sequence
from contextlib import suppress
from datetime import datetime, timezone
from errno import EACCES, EAGAIN, EDQUOT, EEXIST, EFBIG, EIO, EISDIR, ENOENT, ENOLCK, ENOSPC, ENOTDIR, EPERM, EROFS
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from mpifarm.core.model import Limits
from mpifarm.core.row import EXTENT_FIELDS, FIELDS
from mpifarm.errors import NoRoom, OutputError
from mpifarm.runfile.codec import LEVEL
from mpifarm.startup.limited import repair_advice

FORMAT_VERSION = 3
"""2 added `flags` to `attempts`, and the streams 3 to 5; 3 added `left`. Files of formats 1 and 2 are read as well."""
VERSION_ATTRIBUTE = "mpifarm_run_file"
ENDED_ATTRIBUTE = "ended"
ROWS_ATTRIBUTE = "rows_at_end"
BYTES, EXTENTS, ATTEMPTS, NODES, EVENTS = "bytes", "extents", "attempts", "nodes", "events"

ROW_TYPE = np.dtype([(name, "<" + code) for name, code in FIELDS])
ROW_TYPES = [np.dtype([(name, "<" + code) for name, code in FIELDS[:count]]) for count in (len(FIELDS), 25, 24)]
"""Of this format and of those before it, the newest first."""
EXTENT_TYPE = np.dtype([(name, "<" + code) for name, code in EXTENT_FIELDS])
NODE_TYPE = np.dtype([("name", "S64"), ("ranks", "<u4"), ("slots", "<u4")])
EVENT_TYPE = np.dtype([("time", "<f8"), ("text", "S240")])


def widened(rows: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """Rows of an older format with the fields that it did not have, which are 0."""
    wide = np.zeros(len(rows), ROW_TYPE)
    for name in rows.dtype.names or ():
        wide[name] = rows[name]
    return wide


CHUNK_BYTES = Limits().chunk_bytes
ATTEMPTS_CHUNK_ROWS = 512
EXTENTS_CHUNK_ROWS = 2048
EVENTS_CHUNK_ROWS = 64

HOW_TO_READ = (
    'with h5py: f = h5py.File(path, "r", swmr=True); row = f["attempts"][i]; '
    'e = f["extents"][row["extent_lo"]:row["extent_hi"]]; keep those e with lease, task and attempt of row and '
    'stream 1 (stdout) or 2 (stderr); join f["bytes"][position:position + length] of them in order. Stream 5, where '
    "there is one, is JSON lines: which files and arrays lie where in streams 3 and 4"
)

HOW_TO_READ_ZSTD = HOW_TO_READ.replace("with h5py:", "with h5py, and `import hdf5plugin` for the filter:")

ZSTD_FILTER = 32015
"""Registered with the HDF Group."""

_READ_ATTEMPTS = 28

FAILURES = (OSError, RuntimeError, ValueError, KeyError)
"""What h5py raises when HDF5 or the system under it fails; which of them is not predictable."""

NOT_HDF5 = "it is not an HDF5 file, or it is truncated"
_LOCK_ADVICE = (
    "the file is locked, or its file system cannot lock. If no other program writes it, set "
    "HDF5_USE_FILE_LOCKING=FALSE in the environment and start again"
)
_FULL = "no space is left for it (file system or quota full, or a file size limit reached): make room"
_ADVICE = {
    EEXIST: "it exists already, and run files are never overwritten: move it away or choose another path",
    ENOENT: "no such file or directory",
    ENOTDIR: "a part of the path is not a directory",
    EISDIR: "it is a directory",
    EACCES: "permission denied: choose a directory that you may write to, or ask its owner",
    EPERM: "permission denied: choose a directory that you may write to, or ask its owner",
    EROFS: "the file system is read-only here: choose another directory",
    EAGAIN: _LOCK_ADVICE,
    ENOLCK: _LOCK_ADVICE,
    ENOSPC: _FULL,
    EDQUOT: _FULL,
    EFBIG: _FULL,
    EIO: "the file system reports an input/output error: ask those who run it",
}


def explain(path: str | Path, action: str, error: BaseException) -> OutputError:
    """`error` of h5py or the system as a sentence: what could not be done to which file, why, and what to do."""
    text = str(error)
    told = re.search(r"errno = (\d+)", text)  # HDF5 says it in its message even where h5py drops it
    number = getattr(error, "errno", None) or (int(told[1]) if told else 0)
    if "unable to lock file" in text:
        why = _LOCK_ADVICE
    elif number in _ADVICE:
        why = _ADVICE[number]
    elif "truncated file" in text or "signature not found" in text:
        why = NOT_HDF5
    else:
        why = " ".join(text.split())
    if number not in _ADVICE and why != _LOCK_ADVICE and action in ("open", "read"):
        why += f"; {repair_advice(path)}"
    return (NoRoom if why == _FULL else OutputError)(f"cannot {action} run file {path}: {why}")


def create(
    path: str | Path,
    attributes: Mapping[str, str],
    nodes: Sequence[tuple[str, int, int]],
    compress: str = "gzip",
    *,
    made: bool = False,
) -> h5py.File:
    """A new run file, complete and in SWMR mode, durable under its name, in a directory that is made where there is
    none. Raises OutputError; never overwrites anything
    but, when it was `made`, an empty file.

    compress: of `mpifarm.runfile.codec.CODECS`."""
    if made and Path(path).lstat().st_size:
        raise OutputError(f"cannot create run file {path}: somebody else has written to it")
    file: h5py.File | None = None
    try:
        if not made:
            _make_directory(Path(path).parent)
        descriptor = os.open(path, os.O_WRONLY | os.O_CLOEXEC | (0 if made else os.O_CREAT | os.O_EXCL), 0o600)
    except OSError as error:
        raise explain(path, "create", error) from error
    try:
        # HDF5 makes it in memory: it may crash where a disk fills up meanwhile.
        with open(descriptor, "wb") as plain:
            plain.write(_born(attributes, nodes, compress))
            plain.flush()
            os.fsync(plain.fileno())
        file = _open_to_append(path)
        keep_private(file)
        os.fsync(file.id.get_vfd_handle())
        _sync_directory(Path(path).resolve().parent)
    except FAILURES as error:
        with suppress(*FAILURES):
            if file is not None:
                file.close()
        with suppress(OSError):
            Path(path).unlink()
        raise explain(path, "create", error) from error
    return file


def _born(attributes: Mapping[str, str], nodes: Sequence[tuple[str, int, int]], compress: str) -> bytes:
    """The content of a run file that holds nothing yet."""
    with h5py.File("born.h5", "w", libver=("v110", "latest"), driver="core", backing_store=False) as file:
        _fill(file, attributes, nodes, compress)
        file.flush()
        image: bytes = file.id.get_file_image()
        return image


def _open_to_append(path: str | Path) -> h5py.File:
    """In SWMR mode."""
    access = h5py.h5p.create(h5py.h5p.FILE_ACCESS)
    access.set_cache(0, 521, 0, 0.75)
    access.set_libver_bounds(h5py.h5f.LIBVER_V110, h5py.h5f.LIBVER_LATEST)
    limit_read_attempts(access)
    return h5py.File(h5py.h5f.open(os.fsencode(path), h5py.h5f.ACC_RDWR | h5py.h5f.ACC_SWMR_WRITE, access))


def limit_read_attempts(access: h5py.h5p.PropFAID) -> None:
    """Who works on a file in SWMR mode takes metadata with a wrong checksum for half written and reads again, after a
    pause of 1 ns that doubles each time: with this a quarter of a second in all. Left alone HDF5 does it 100 times,
    which no damaged file sees the end of."""
    try:
        # Not wrapped by h5py, whose library this is.
        limit = ctypes.CDLL(h5py.h5p.__file__).H5Pset_metadata_read_attempts
    except (OSError, AttributeError):  # linked in a way that hides it: a damaged file may hang
        return
    limit(ctypes.c_int64(access.id), ctypes.c_uint(_READ_ATTEMPTS))


def keep_private(file: h5py.File) -> None:
    """Let nobody but the owner read a new file, whatever the umask: outputs hold what tasks print, environments with
    passwords in them included. Who wants to share it says so (chmod)."""
    with suppress(OSError):  # a file system without owners
        os.fchmod(file.id.get_vfd_handle(), 0o600)


def _fill(file: h5py.File, attributes: Mapping[str, str], nodes: Sequence[tuple[str, int, int]], compress: str) -> None:
    for name, value in attributes.items():  # a path may hold bytes that are no text
        file.attrs[name] = value.encode("utf-8", "backslashreplace").decode()
    file.attrs[VERSION_ATTRIBUTE] = FORMAT_VERSION
    file.attrs["h5py_version"] = h5py.version.version
    file.attrs["hdf5_version"] = h5py.version.hdf5_version
    file.attrs[ENDED_ATTRIBUTE] = np.float64("nan")  # in place of it, since SWMR forbids a new one: Unix seconds
    file.attrs[ROWS_ATTRIBUTE] = np.int64(-1)  # and this: of `attempts`, so that it is known when they are lost
    file.attrs["created"] = datetime.now(timezone.utc).isoformat(timespec="seconds")
    file.attrs["how_to_read"] = HOW_TO_READ_ZSTD if compress == "zstd" else HOW_TO_READ
    # The level is a label: chunks arrive compressed. No fill: nothing reads what was not written.
    growing: dict[str, Any] = {"shape": (0,), "maxshape": (None,), "fill_time": "never"}
    # `none` has the gzip filter, too, which all its chunks skip: so a chunk looks the same in every run file.
    filtered: dict[str, Any] = {"compression": "gzip", "compression_opts": LEVEL}
    if compress == "zstd":
        import hdf5plugin  # noqa: F401 - HDF5 makes no dataset with a filter it does not know

        filtered = {"compression": ZSTD_FILTER, "compression_opts": (LEVEL,)}
    file.create_dataset(BYTES, dtype="u1", chunks=(CHUNK_BYTES,), **filtered, **growing)
    file.create_dataset(EXTENTS, dtype=EXTENT_TYPE, chunks=(EXTENTS_CHUNK_ROWS,), **growing)
    file.create_dataset(ATTEMPTS, dtype=ROW_TYPE, chunks=(ATTEMPTS_CHUNK_ROWS,), **growing)
    file.create_dataset(EVENTS, dtype=EVENT_TYPE, chunks=(EVENTS_CHUNK_ROWS,), **growing)
    known = [(clip(name, NODE_TYPE["name"]), ranks, slots) for name, ranks, slots in nodes]
    file.create_dataset(NODES, data=np.array(known, NODE_TYPE))


def has_ended(attributes: Mapping[str, str]) -> bool:
    """Whether the file of these attributes was closed in order."""
    return attributes.get(ENDED_ATTRIBUTE, "nan") != "nan"


def rows_at_end(attributes: Mapping[str, str]) -> int:
    """How many rows its `attempts` had then; -1 where that is not known."""
    text = attributes.get(ROWS_ATTRIBUTE, "")
    return int(text) if text.isdecimal() else -1


def clip(text: str, field: np.dtype[Any]) -> bytes:
    """`text` in UTF-8, cut to the width of `field` between two characters."""
    return text.encode("utf-8", "replace")[: field.itemsize].decode("utf-8", "ignore").encode()


def _make_directory(folder: Path) -> None:
    """Raises OSError, NotADirectoryError where it is something else."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except FileExistsError as error:
        raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR), folder) from error


def _sync_directory(directory: Path) -> None:
    """Without this a crash of the machine can lose the name of a file whose content is safe."""
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
