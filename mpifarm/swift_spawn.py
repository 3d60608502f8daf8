"""posix_spawn with everything prepared that stays the same from task to task.

os.posix_spawn builds environment, attributes and file actions anew at each call; for 60 variables that is a tenth of
what the launcher spends on a short task (measured: 11 of 75 us of a call, 3 % of the wall time of 10,000 /bin/true). So
this calls the C library itself. What it is given: bytes that live as long as the object, in arrays that end with NULL.
"""

from __future__ import annotations

import ctypes
import os
from collections.abc import Mapping, Sequence

# Sizes of opaque structs, generous: glibc and musl need at most 336.
_STRUCT_BYTES = 1024
_SIGSET_BYTES = 128
# Of <spawn.h>, the same in glibc and musl.
_SETPGROUP, _SETSIGDEF, _SETSIGMASK = 0x02, 0x04, 0x08

_libc = ctypes.PyDLL(None)
_posix_spawn = _libc.posix_spawn
_posix_spawn.argtypes = [ctypes.c_void_p, ctypes.c_char_p, *[ctypes.c_void_p] * 4]
_add_dup2 = _libc.posix_spawn_file_actions_adddup2
_add_dup2.argtypes = [ctypes.c_void_p, ctypes.c_int, ctypes.c_int]
_Array = ctypes.Array[ctypes.c_char_p]


class FileActions:
    """Descriptors of the new process: {its number: ours}."""

    def __init__(self, descriptors: Mapping[int, int]) -> None:
        self.struct = ctypes.create_string_buffer(_STRUCT_BYTES)
        _check(_libc.posix_spawn_file_actions_init(self.struct))
        for new, ours in descriptors.items():
            _check(_add_dup2(self.struct, ours, new))

    def __del__(self) -> None:
        _libc.posix_spawn_file_actions_destroy(self.struct)


class Environment:
    """Variables of a new process: `fixed` ones, and as many at `places` as are set before each spawn."""

    def __init__(self, fixed: Mapping[bytes, bytes], places: int) -> None:
        lines = [b"%b=%b" % item for item in fixed.items()]
        self.array: _Array = (ctypes.c_char_p * (places + len(lines) + 1))(*lines[:0], *[b"_=" for _ in range(places)])
