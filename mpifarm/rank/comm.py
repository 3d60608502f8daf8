"""The only door to MPI: the world, the nodes, messages between ranks. Nothing else may import mpi4py.

Everything after start-up is point to point and non-blocking: no collective, no busy waiting. Two measured traps shape
the receive path: a blocking receive from ANY_SOURCE hangs in the MPICH 4.3 and 5.0 wheels as soon as two senders sit on
other nodes, while matched probe + receive is safe everywhere; and the first Iprobe after an arrival often only makes
progress and the second reports it, so `poll` asks twice before it says "nothing".
"""

from __future__ import annotations

import ctypes
import os
import time
import warnings
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from mpifarm.core.protocol.messages import Message, Output
from mpifarm.core.protocol.wire import decode, encode
from mpifarm.errors import SiteError
from mpifarm.startup.launched import promised, speaks_in_vain

if TYPE_CHECKING:
    from mpi4py import MPI

_T = TypeVar("_T")
_TAG = 1
_BULK_TAG = 2
"""Of outputs: who cannot take more leaves them with their senders, and still hears everything else."""
FINISH_POLL_S = 1e-3
EXPLAIN_S = 1.0
"""A launcher may end all copies with the first that leaves: that is the one that has explained."""

NO_MPI = """no MPI library could be loaded: {reason}
  on a cluster: load the site's MPI module and build mpi4py against it: pip install --no-binary mpi4py mpi4py
  elsewhere: pip install 'mpifarm[local]' brings MPICH with mpiexec"""

SINGLETONS = """{count} separate copies of one rank were started instead of one world of {count} ranks: the launcher and
mpi4py's MPI library ({library}) do not speak the same start-up protocol. Nothing was run. What helps:
  under srun: look at `srun --mpi=list`; MPICH or Intel MPI: srun --mpi=pmi2 ...   Open MPI: srun --mpi=pmix ...
  or use the mpiexec of that same MPI inside the allocation: mpiexec -n {count} mpifarm run"""


M_MMAP_THRESHOLD = -3
_SHARED_MEMORY = "/dev/shm/mpich_shm_"


@contextmanager
def _clean_buffers() -> Iterator[None]:
    """Let every larger malloc come fresh from the kernel, as zeros, while MPI starts.

    MPICH (seen with 5.0.2 over UCX) publishes a 4 KiB buffer of which it has filled the beginning. What the heap
    had left in the rest goes along, and where that is text and not zeros, which MPICH folds, a line to Slurm's pmi2
    server gets longer than the 1 KiB it reads: MPI_Init fails with "value not properly terminated in client
    request".
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)  # glibc only
    if mallopt is not None:
        mallopt(M_MMAP_THRESHOLD, 2048)
    try:
        yield
    finally:
        if mallopt is not None:
            mallopt(M_MMAP_THRESHOLD, 128 << 10)  # its default


def _libraries() -> list[ctypes.CDLL]:
    """Those of MPI in this process."""
    with open("/proc/self/maps", "rb") as maps:
        files = {line.split()[-1] for line in maps if b"/libmpi" in line}
    return [ctypes.CDLL(os.fsdecode(file)) for file in sorted(files)]


def _unname_shared_memory() -> None:
    """Once all ranks have it, nobody needs its name, by which it would outlive a kill -9: 1 to 3 MB for each run."""
    with open("/proc/self/maps") as maps:
        files = {line.split(maxsplit=5)[-1].strip() for line in maps if _SHARED_MEMORY in line}
    for file in files:
        try:
            Path(file).unlink()
        except OSError:
            pass  # another rank of the node was faster


class World:
    """The MPI world of this run, seen from one rank. One thread only may use it."""

    def __init__(self) -> None:
        """Initialises MPI. SiteError when there is no MPI, or when this is one of N singletons."""
        import mpi4py

        mpi4py.rc.initialize, mpi4py.rc.finalize = False, True
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", RuntimeWarning)  # of a foreign launcher: told below, in our words
                from mpi4py import MPI
        except (ImportError, RuntimeError) as error:
            raise SiteError(NO_MPI.format(reason=str(error).strip().splitlines()[0])) from None
        self._mpi = MPI
        if speaks_in_vain(
            os.environ, MPI.Get_library_version(), any(hasattr(library, "PMIx_Init") for library in _libraries())
        ):
            mpi4py.rc.finalize = False
            raise self._singletons()
        if not MPI.Is_initialized():  # a site's Python, or a test's, may have done so
            with _clean_buffers():
                MPI.Init_thread(MPI.THREAD_FUNNELED)  # the doors' threads never call MPI
        self._comm: MPI.Intracomm = MPI.COMM_WORLD.Dup()
        _unname_shared_memory()
        self.rank: int = self._comm.Get_rank()
        self.size: int = self._comm.Get_size()
        self._sending: deque[tuple[MPI.Request, bytes]] = deque()
        self._status = MPI.Status()
        if self.size == 1 and promised(os.environ).ranks > 1:
            raise self._singletons()

    def _singletons(self) -> SiteError:
        """Only one of the copies explains; all of them end with the same error."""
        told = promised(os.environ)
        library = self._mpi.Get_library_version().strip().splitlines()[0][:60]
        if not told.explains:
            time.sleep(EXPLAIN_S)
        return SiteError(SINGLETONS.format(count=told.ranks, library=library) if told.explains else "")

    @property
    def library(self) -> str:
        """Name and version of the MPI library, and of the standard it follows."""
        name = self._mpi.Get_library_version().replace("\0", "").strip().splitlines()[0]
        return f"{' '.join(name.split())[:200]} (MPI {'.'.join(map(str, self._mpi.Get_version()))})"

    def leader_of_ranks(self) -> list[int]:
        """For every rank, the lowest rank it shares memory with. Collective; at start-up only."""
        node = self._comm.Split_type(self._mpi.COMM_TYPE_SHARED, key=self.rank)
        leader = node.bcast(self.rank)
        node.Free()
        return self._comm.allgather(leader)

    def gather(self, value: _T) -> list[_T] | None:
        """Every rank's value, on rank 0. Collective; at start-up only."""
        return self._comm.gather(value)

    def everywhere(self, value: _T | None, root: int = 0) -> _T:
        """The value of rank `root`. Collective; at start-up only."""
        return self._comm.bcast(value, root)  # type: ignore[no-any-return]

    def send(self, to: int, message: Message) -> None:
        """Hand over a message; the transport keeps the buffer until MPI is done with it."""
        data = encode(message)
        tag = _BULK_TAG if isinstance(message, Output) else _TAG
        self._sending.append((self._comm.Isend([data, self._mpi.BYTE], to, tag), data))

    @property
    def sending(self) -> bool:
        """Messages are still on their way: MPI wants to be called soon again."""
        while self._sending and self._sending[0][0].Test():
            self._sending.popleft()
        return bool(self._sending)

    def poll(self, bulk: bool, most: int = 64) -> list[Message]:
        """Messages that have arrived, at most `most`; outputs only if `bulk`, and then one at a time."""
        messages: list[Any] = []
        while len(messages) < most:
            matched = self._probe(_TAG) or self._probe(_TAG)
            if matched is None and bulk:
                matched, bulk = self._probe(_BULK_TAG), False
            if matched is None:
                break
            buffer = bytearray(self._status.Get_count(self._mpi.BYTE))
            matched.Recv([buffer, self._mpi.BYTE])
            messages.append(decode(buffer))
        return messages

    def _probe(self, tag: int) -> MPI.Message | None:
        return self._comm.Improbe(self._mpi.ANY_SOURCE, tag, self._status)

    def finish(self) -> None:
        """Leave in order; what still arrives is received and forgotten. Every rank must call it."""
        while self.sending:
            self._forget()
        everyone = self._comm.Ibarrier()
        while not everyone.Test():
            self._forget()
        self._mpi.Finalize()

    def _forget(self) -> None:
        if not self.poll(bulk=True):
            time.sleep(FINISH_POLL_S)

    def abort(self, code: int) -> None:
        """End every rank now: for bugs and lost worlds, never for a task's sake."""
        self._mpi.COMM_WORLD.Abort(code)
