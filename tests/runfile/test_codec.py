"""What `run --compress` stores can be read by HDF5 itself, by our reader, and be repaired."""

from __future__ import annotations

import random
import sys
import zlib
from pathlib import Path

import h5py
import pytest

from mpifarm.core.row import STDOUT
from mpifarm.errors import UsageError
from mpifarm.runfile.codec import CODECS, compressor, expand, require
from mpifarm.runfile.format import BYTES, CHUNK_BYTES
from mpifarm.runfile.reader import open_run
from mpifarm.runfile.repairing.rebuild import repair
from tests.runfile.gather import Gatherer, new_writer

TEXT = b"".join(b"%d squared is %d\n" % (n, n * n) for n in range(20_000))
NOISE = random.Random(4).randbytes(CHUNK_BYTES + 1000)


def write(path: Path, compress: str) -> None:
    writer = new_writer(path, compress)
    for number, content in enumerate((TEXT, NOISE, b"short"), 1):
        gatherer = Gatherer(compress=compress)
        gatherer.whole((1, number, 1), content)
        writer.append(gatherer.message())
    writer.sync()
    writer.close()


@pytest.mark.parametrize("compress", CODECS)
def test_round_trip(tmp_path: Path, compress: str) -> None:
    path = tmp_path / "run.h5"
    write(path, compress)
    with h5py.File(path, "r") as file:  # as any HDF5 tool does
        read = file[BYTES][:].tobytes()
        assert TEXT in read and NOISE in read
        assert ("hdf5plugin" in file.attrs["how_to_read"]) == (compress == "zstd")
    assert (path.stat().st_size < len(read)) == (compress != "none")
    repair(path, tmp_path / "repaired.h5", lambda _: None)
    for made in (path, tmp_path / "repaired.h5"):
        with open_run(made) as run:
            assert [b"".join(run.output(row, STDOUT)) for row in range(3)] == [TEXT, NOISE, b"short"]


def test_a_damaged_zstd_chunk_is_told() -> None:
    compress = compressor("zstd")
    assert compress is not None
    stored = compress(memoryview(TEXT))
    assert expand(stored) == (TEXT, False)
    with pytest.raises(zlib.error):
        expand(stored[:-100])


def test_without_isa_l_zlib_does_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "isal.isal_zlib", None)
    compress = compressor("gzip")
    assert compress is not None and compress(memoryview(TEXT)) == zlib.compress(TEXT, 1)


@pytest.mark.parametrize("missing", ["hdf5plugin", "backports.zstd"])
def test_zstd_where_it_is_not_installed(monkeypatch: pytest.MonkeyPatch, missing: str) -> None:
    require("zstd")
    monkeypatch.setitem(sys.modules, missing, None)
    monkeypatch.setitem(sys.modules, "compression.zstd", None)
    with pytest.raises(UsageError, match=r"pip install 'mpifarm\[zstd\]'"):
        require("zstd")
    require("gzip")
