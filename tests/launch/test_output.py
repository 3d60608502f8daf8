"""The output of tasks that run for a while: in time, in order, whole, and never more than there is room for."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.launch.node import OneNode, until

pytestmark = pytest.mark.slow

Make = Callable[..., OneNode]


def resident_bytes(pid: int, field: str = "VmRSS") -> int:
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return next(int(line.split()[1]) << 10 for line in lines if line.startswith(field))


def test_output_is_forwarded_while_a_task_runs(node: OneNode) -> None:
    started = time.monotonic()
    task = node.start("echo first; echo oops >&2; read -t 1.5 < <(tail -f /dev/null); echo last")
    node.until(lambda: node.output(task) and node.output(task, 2), 5)
    assert node.output(task) == b"first\n" and node.output(task, 2) == b"oops\n"
    assert max(when for when, *_ in node.pieces) - started < 1.0
    assert task not in node.ended
    node.wait([task])
    assert node.ended[task].stdout == b"first\nlast\n"


def test_a_talkative_task_does_not_keep_us_busy(node: OneNode) -> None:
    """Thousands of writes a second become some twenty pieces."""
    line = "for i in {1..20000}; do echo line $i; done"
    attempt = node.run(line)
    assert attempt.stdout == b"".join(b"line %d\n" % n for n in range(1, 20001))
    assert len(node.pieces) < 20 + 40 * (attempt.ended - attempt.started)


def test_a_flood_with_a_slow_reader(make_node: Make) -> None:
    """Four tasks of 10 MB each; the rank does not listen at first. The tasks wait, the launcher does not grow."""
    node = make_node(slots=4)
    node.run("true")
    before = resident_bytes(node.launcher.pid)
    lines = [f"yes 'task {n}' | head -c 10000000" for n in range(4)]
    first = node.start(*lines, *["echo x | tee /dev/stderr"] * 50)
    tasks = range(first, first + 54)
    until(lambda: _quiet(node.launcher.pid), 10)
    assert resident_bytes(node.launcher.pid, "VmHWM") - before < 64 << 20
    assert not node.ended.keys() & set(tasks[:4])
    node.wait(tasks, 30)
    for n in range(4):
        expected = (b"task %d\n" % n) * (10_000_000 // 7 + 1)
        got = node.ended[first + n].stdout
        assert hashlib.sha1(got).digest() == hashlib.sha1(expected[:10_000_000]).digest(), len(got)
    assert all(node.ended[n].stdout == node.ended[n].stderr == b"x\n" for n in tasks[4:])
    assert resident_bytes(node.launcher.pid, "VmHWM") - before < 64 << 20


def _quiet(pid: int, look_s: float = 0.3) -> bool:
    """Whether a process used no processor for a moment."""

    def ticks() -> int:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        return int(fields[11]) + int(fields[12])

    end, before = time.monotonic() + look_s, ticks()
    until(lambda: time.monotonic() > end)
    return ticks() == before


def test_big_output_of_short_tasks_does_not_pile_up(make_node: Make) -> None:
    node = make_node(slots=2)
    before = resident_bytes(node.launcher.pid)
    first = node.start(*["head -c 900000 /dev/zero"] * 100)
    until(lambda: _quiet(node.launcher.pid), 10)
    assert resident_bytes(node.launcher.pid, "VmHWM") - before < 48 << 20
    node.wait(range(first, first + 100))
    assert all(len(attempt.stdout) == 900_000 for attempt in node.ended.values())


def test_memory_stays_flat_over_many_tasks(node: OneNode) -> None:
    first = node.start(*["/bin/true"] * 300)
    node.wait(range(first, first + 300))
    before = resident_bytes(node.launcher.pid)
    first = node.start(*["/bin/true"] * 1500)
    node.wait(range(first, first + 1500))
    assert resident_bytes(node.launcher.pid) - before < 2 << 20


def test_an_idle_launcher_uses_no_processor(node: OneNode) -> None:
    node.run("true")
    task = node.start("echo begun; read < <(tail -f /dev/null)")
    node.until(lambda: node.output(task))
    until(lambda: _quiet(node.launcher.pid, 1.0), 5)
