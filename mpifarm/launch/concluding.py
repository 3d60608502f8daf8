"""What is told of an attempt that has ended: the fields of an EndedAttempt. Imports nothing heavy."""

from __future__ import annotations

import time
from zlib import crc32

from mpifarm.core.launcher.launching import Running
from mpifarm.core.launcher.verdict import may_be_memory, unlaunched, verdict
from mpifarm.core.model import FailureClass, Limits, State
from mpifarm.launch.judging import EndedProcess, Fields
from mpifarm.launch.memory_killer import MemoryKiller
from mpifarm.launch.seat import told
from mpifarm.launch.spawning import peak_kib

BLOCK_BYTES = 512
"""ru_inblock and ru_oublock count these."""


class Concluding:
    """Concludes the attempts of one node, whose memory killer it asks."""

    def __init__(self) -> None:
        self._memory_killer = MemoryKiller()

    def process(self, process: EndedProcess) -> Fields:
        """The fields of an attempt whose process has ended."""
        running, started, ended, status, usage, out, err = process
        block = running.block
        result = verdict(status, running.killed_for)
        if result[1] and may_be_memory(result) and self._memory_killer.has_killed(ended):
            result = result[0], int(FailureClass.OOM), result[2], result[3]
        return (
            block.lease, block.job, running.task, block.attempt, *result, running.slot, block.needs.cpus,
            started, ended, usage.ru_utime, usage.ru_stime, peak_kib(usage),
            usage.ru_inblock * BLOCK_BYTES, usage.ru_oublock * BLOCK_BYTES,
            *told(out, err, failed=result[0] == State.FAILED), None,
        )  # fmt: skip


def never_begun(running: Running, stderr: bytes) -> Fields:
    """The fields of an attempt that never became a process; `stderr` says why."""
    block, at = running.block, time.time()
    result = unlaunched(running.killed_for)
    tail = stderr[-Limits().stderr_tail_bytes :] if result[0] == State.FAILED else b""
    return (
        block.lease, block.job, running.task, block.attempt, *result, running.slot, block.needs.cpus,
        at, at, 0.0, 0.0, 0, 0, 0, 0, 0, len(stderr), crc32(stderr), tail, None,
    )  # fmt: skip
