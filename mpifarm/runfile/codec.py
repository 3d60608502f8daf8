"""How chunks of the byte pool are compressed: what `mpifarm run --compress` names. Never imports h5py.

Deflate is written by Intel's ISA-L where there is a wheel of it: the same format at three times the speed of zlib.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable

from mpifarm.errors import UsageError

Compress = Callable[[memoryview], bytes]

LEVEL = 1
CODECS = ("none", "gzip", "zstd")
_ZSTD_MAGIC = b"\x28\xb5\x2f\xfd"  # no deflated chunk begins so


def compressor(name: str) -> Compress | None:
    """What compresses a chunk for a file made with `--compress NAME`; None: nothing does."""
    if name == "none":
        return None
    return _zstd() if name == "zstd" else _deflate()


def require(name: str) -> None:
    """Raises UsageError when chunks cannot be compressed so, or not be read again, with what is installed."""
    if name != "zstd":
        return
    try:
        _zstd()
        import hdf5plugin  # noqa: F401
    except ImportError as error:
        raise UsageError(
            f"--compress zstd needs packages that are not installed ({error.name}): pip install 'mpifarm[zstd]', "
            "on the nodes too, or use gzip"
        ) from None


def _deflate() -> Compress:
    try:
        from isal.isal_zlib import compress
    except ImportError:  # no wheel for this processor
        from zlib import compress as deflate

        return lambda chunk: deflate(chunk, LEVEL)
    return lambda chunk: compress(chunk, LEVEL)


def _zstd() -> Compress:
    try:
        from compression.zstd import compress  # type: ignore[import-not-found,unused-ignore] # Python 3.14
    except ImportError:
        from backports.zstd import compress
    return lambda chunk: compress(chunk, LEVEL)


def expand(stored: bytes) -> tuple[bytes, bool]:
    """The content of a compressed chunk, and whether deflate was used. Raises zlib.error when it is damaged,
    UsageError when it takes a package that is not installed."""
    if not stored.startswith(_ZSTD_MAGIC):
        return zlib.decompress(stored), True
    try:
        try:
            from compression.zstd import ZstdError, decompress  # type: ignore[import-not-found,unused-ignore]
        except ImportError:
            from backports.zstd import ZstdError, decompress
    except ImportError:
        raise UsageError("this run file is compressed with zstd: pip install 'mpifarm[zstd]' to read it") from None
    try:
        return decompress(stored), False
    except ZstdError as error:
        raise zlib.error(str(error)) from error
