"""The row of an attempt that has ended, and what of its stderr is told. Imports nothing heavy."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from zlib import crc32

from mpifarm.core.launcher.launching import Running
from mpifarm.core.launcher.verdict import may_be_memory, unlaunched, verdict
from mpifarm.core.model import FailureClass, Limits, State
from mpifarm.core.row import LEFT_MAX, AttemptRow
from mpifarm.launch.judging import Concluded, EndedProcess
from mpifarm.launch.memory_killer import MemoryKiller
from mpifarm.launch.spawning import own_peak_kib

BLOCK_BYTES = 512
"""ru_inblock and ru_oublock count these."""


class Concluding:
    """Concludes the attempts of one node, whose memory killer it asks."""

    def __init__(self, node: int) -> None:
        """`node`: its number."""
        self._node = node
        self._memory_killer = MemoryKiller()

    def processes(self, ended: Sequence[EndedProcess]) -> Iterator[Concluded]:
        """Concludes attempts whose processes have ended, in order."""
        if ended:
            ours_kib = own_peak_kib()
            for process in ended:
                yield self._process(process, ours_kib)

    def _process(self, process: EndedProcess, ours_kib: int) -> Concluded:
        running, started, (ended, status, usage, left, flags, _), out, err = process
        block = running.block
        state, failure, exit_code, signal = result = verdict(status, running.killed_for)
        if failure and may_be_memory(result) and self._memory_killer.has_killed(ended):
            failure = int(FailureClass.OOM)
        peak_kib = usage.ru_maxrss if usage.ru_maxrss > ours_kib else 0
        row = AttemptRow(
            lease=block.lease, job=block.job, task=running.task, attempt=block.attempt,
            state=state, failure=failure, exit_code=exit_code, signal=signal,
            node=self._node, slot=running.slot, cpus=block.needs.cpus, started=started, ended=ended,
            user_s=usage.ru_utime, system_s=usage.ru_stime, max_rss_kib=peak_kib,
            read_bytes=usage.ru_inblock * BLOCK_BYTES, write_bytes=usage.ru_oublock * BLOCK_BYTES,
            stdout_bytes=out.length, stderr_bytes=err.length, stdout_crc32=out.crc32, stderr_crc32=err.crc32,
            left=min(left, LEFT_MAX), flags=flags,
        )  # fmt: skip
        return row, err.tail if state == State.FAILED else b""

    def never_begun(self, running: Running, stderr: bytes) -> Concluded:
        """Concludes an attempt that never became a process; `stderr` says why."""
        block, at = running.block, time.time()
        state, failure, exit_code, signal = unlaunched(running.killed_for)
        row = AttemptRow(
            lease=block.lease, job=block.job, task=running.task, attempt=block.attempt,
            state=state, failure=failure, exit_code=exit_code, signal=signal,
            node=self._node, slot=running.slot, cpus=block.needs.cpus, started=at, ended=at,
            stderr_bytes=len(stderr), stderr_crc32=crc32(stderr),
        )  # fmt: skip
        return row, stderr[-Limits().stderr_tail_bytes :] if state == State.FAILED else b""
