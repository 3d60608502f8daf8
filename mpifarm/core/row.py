"""The row of one ended attempt: packed once where the task ran, stored as it is in the run file, read by the queue.

The binary layout (little endian, no padding) is the layout of the run file's `attempts` dataset, so a row crosses
three processes and reaches the disk without being taken apart: the leader looks at a few of its fields and sets where
its extents are, in place. `mpifarm.runfile.format` derives its dtype from FIELDS. Likewise an extent is packed where
the output was read: on its way to the leader its position is in the node's arena, in the file it is in `bytes`.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Collection, Iterable, Iterator
from typing import NamedTuple

from mpifarm.core.model import AttemptKey, JobId, LeaseId

FIELDS: tuple[tuple[str, str], ...] = (
    # name, numpy/struct code; units stand in the name
    ("lease", "u8"),
    ("job", "u4"),
    ("task", "u4"),
    ("attempt", "u2"),
    ("state", "u1"),
    ("failure", "u1"),
    ("exit_code", "i2"),
    ("signal", "u1"),
    ("node", "u2"),
    ("slot", "u2"),
    ("cpus", "u2"),
    ("started", "f8"),  # Unix seconds
    ("ended", "f8"),
    ("user_s", "f4"),
    ("system_s", "f4"),
    ("max_rss_kib", "u4"),  # 0: less than can be told, see `mpifarm.launch.spawning.own_peak_kib`
    ("read_bytes", "u8"),
    ("write_bytes", "u8"),
    ("stdout_bytes", "u8"),
    ("stderr_bytes", "u8"),
    ("stdout_crc32", "u4"),
    ("stderr_crc32", "u4"),
    ("extent_lo", "i8"),  # all extents of the attempt lie in [extent_lo, extent_hi) of `extents`
    ("extent_hi", "i8"),
    ("flags", "u1"),  # since format 2
    ("left", "u2"),  # processes it left behind, killed; since format 3
)
_CODES = {"u1": "B", "u2": "H", "u4": "I", "u8": "Q", "i2": "h", "i8": "q", "f4": "f", "f8": "d"}
ROW = struct.Struct("<" + "".join(_CODES[code] for _, code in FIELDS))

EXTENT_FIELDS: tuple[tuple[str, str], ...] = (
    ("lease", "u8"),
    ("task", "u4"),
    ("attempt", "u2"),
    ("stream", "u1"),
    ("length", "u4"),
    ("position", "u8"),  # of the first byte in `bytes`
)
EXTENT = struct.Struct("<" + "".join(_CODES[code] for _, code in EXTENT_FIELDS))

STDOUT, STDERR, CAPTURED, VALUES, CONTENTS = 1, 2, 3, 4, 5
"""Streams of an attempt. CAPTURED: the files it left, one behind the other; VALUES: arrays, likewise. CONTENTS says
what lies where in those two, see `mpifarm.core.left_behind`."""

STDOUT_CUT, STDERR_CUT, HAS_CONTENTS, NOT_ALL_TAKEN = 1, 2, 4, 8
"""Bits of `flags`. CUT: the job's --keep left some or all of the stream out: its length is what the task wrote, its
checksum that of what is in the file. NOT_ALL_TAKEN: something that --capture names is not there; the contents say
why."""


class AttemptRow(NamedTuple):
    """One row, unpacked; the fields of FIELDS in order."""

    lease: LeaseId
    job: JobId
    task: int
    attempt: int
    state: int
    failure: int
    exit_code: int
    signal: int
    node: int
    slot: int
    cpus: int
    started: float
    ended: float
    user_s: float = 0.0
    system_s: float = 0.0
    max_rss_kib: int = 0
    read_bytes: int = 0
    write_bytes: int = 0
    stdout_bytes: int = 0
    stderr_bytes: int = 0
    stdout_crc32: int = 0
    stderr_crc32: int = 0
    extent_lo: int = 0
    extent_hi: int = 0
    flags: int = 0
    left: int = 0

    @property
    def key(self) -> AttemptKey:
        return AttemptKey(self.lease, self.task, self.attempt)

    def packed(self) -> bytes:
        return ROW.pack(*self)


assert AttemptRow._fields == tuple(name for name, _ in FIELDS)
LEFT_MAX = 0xFFFF
"""More processes than that are not told apart."""


class Glance(NamedTuple):
    """What a leader must know of a row that passes; the fields in the order of FIELDS."""

    lease: LeaseId
    task: int
    attempt: int
    state: int
    cpus: int
    started: float
    ended: float


def _seen(names: Collection[str]) -> struct.Struct:
    """These fields of a row, and nothing of the others."""
    codes = ((name, _CODES[code]) for name, code in FIELDS)
    return struct.Struct("<" + "".join(c if name in names else f"{struct.calcsize('<' + c)}x" for name, c in codes))


_GLANCE = _seen(Glance._fields)
_EXTENTS = struct.Struct("<qq")
_EXTENTS_AT = struct.calcsize(
    "<" + "".join(_CODES[code] for _, code in FIELDS[: AttemptRow._fields.index("extent_lo")])
)


def glances(rows: bytes) -> Iterator[Glance]:
    """What a leader must know of packed rows, in order."""
    return map(Glance._make, _GLANCE.iter_unpack(rows))


def set_extents(rows: bytearray, at: int, lo: int, hi: int) -> None:
    """The row that begins at byte `at` of the packed `rows` has its extents in [lo, hi)."""
    _EXTENTS.pack_into(rows, at + _EXTENTS_AT, lo, hi)


_OUTPUT = struct.Struct("<QQII")


def output_checksum(row: AttemptRow) -> int:
    """CRC-32, as a signed number, of the lengths and checksums of an attempt's outputs: what the queue remembers of
    them, to tell a run file that is not the one that was written."""
    return next(output_checksums((row.stdout_bytes,), (row.stderr_bytes,), (row.stdout_crc32,), (row.stderr_crc32,)))


def output_checksums(*columns: Iterable[int]) -> Iterator[int]:
    """The same of many rows, by columns: stdout_bytes, stderr_bytes, stdout_crc32, stderr_crc32."""
    for packed in map(_OUTPUT.pack, *columns):
        yield (zlib.crc32(packed) ^ 0x8000_0000) - 0x8000_0000


def unpack_rows(packed: bytes) -> Iterator[AttemptRow]:
    """The rows of a message in order. Raises struct.error when `packed` is not a whole number of rows."""
    return map(AttemptRow._make, ROW.iter_unpack(packed))
