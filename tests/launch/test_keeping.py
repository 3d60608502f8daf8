"""What a job keeps of its outputs, decided where they are born."""

from __future__ import annotations

import os
import resource
import tempfile
from collections.abc import Callable
from pathlib import Path

import pytest

from mpifarm.core.job.keep import parse_keep
from mpifarm.core.job.policy import Policy
from mpifarm.core.row import STDERR_CUT, STDOUT_CUT
from mpifarm.launch import kept_output
from mpifarm.launch.kept_output import SPOOL_BYTES_MAX, SPOOL_MEMORY_BYTES, Spool
from tests.launch.node import OneNode, Whole

pytestmark = pytest.mark.slow

SLOW_FLOOD = "for i in 1 2 3 4; do head -c 100000 /dev/zero | tr '\\0' $i; sleep 0.1; done; echo note >&2"
"""Read as it comes, and more of it than is held in memory."""
FLOOD = b"".join(b"%d" % digit * 100_000 for digit in (1, 2, 3, 4))


def rss_kib(pid: int) -> int:
    text = Path(f"/proc/{pid}/status").read_text()
    return int(text.split("VmRSS:")[1].split()[0])


@pytest.mark.parametrize("command", ["printf 'some\\nlines'; printf oops >&2", SLOW_FLOOD])
@pytest.mark.parametrize("end", ["", "; exit 3"])
def test_keep(node: OneNode, command: str, end: str) -> None:
    tasks = {
        keep: node.start(f"{command}{end}", policy=Policy(keep=keep)) for keep in ("all", "none", "failed", "tail:64K")
    }
    node.wait(tasks.values())
    ended = {keep: node.ended[task] for keep, task in tasks.items()}
    whole = ended["all"]
    assert len(whole.stdout) in (10, 400_000) and whole.flags == 0 and whole.exit_code == (3 if end else 0)
    out, err = len(whole.stdout), len(whole.stderr)
    for keep in ("none",) if end else ("none", "failed"):
        assert (ended[keep].stdout, ended[keep].stderr) == (b"", b""), keep
        assert cut(ended[keep]) == (STDOUT_CUT | STDERR_CUT, out, err)
    if end:
        failed = ended["failed"]
        assert (failed.stdout, failed.stderr, failed.flags) == (whole.stdout, whole.stderr, 0)
    tail = ended["tail:64K"]
    assert tail.stdout == whole.stdout[-65536:] and tail.stderr == whole.stderr
    assert cut(tail) == ((STDOUT_CUT, out - 65536, 0) if out > 65536 else (0, 0, 0))


def cut(ended: Whole) -> tuple[int, int, int]:
    """Its flags, and how much of stdout and stderr it wrote and is not kept."""
    return ended.flags, ended.stdout_bytes - len(ended.stdout), ended.stderr_bytes - len(ended.stderr)


@pytest.mark.parametrize("keep", ["none", "failed", "tail:1M"])
def test_a_flood_grows_nobody(node: OneNode, keep: str) -> None:
    node.run("true")
    before = rss_kib(node.launcher.pid)
    [task] = tasks = [node.start("head -c 300000000 /dev/zero", policy=Policy(keep=keep))]
    peak = 0

    def over() -> bool:
        nonlocal peak
        peak = max(peak, rss_kib(node.launcher.pid))
        for piece in node.pieces:
            node_bytes[0] += len(piece[-1])
        node.pieces.clear()
        return tasks[0] in node.ended

    node_bytes = [0]
    node.until(over, 60)
    assert peak - before < 64 << 10, "KiB"
    ended = node.ended[task]
    assert ended.stdout_bytes == 300_000_000
    assert keep != "failed" or node_bytes[0] + len(ended.stdout) >= 300_000_000
    if keep == "failed":
        assert ended.flags == 0, "more than is spooled: kept whole, and not said to be cut"


def test_the_spool_gives_back_what_it_took() -> None:
    spool, expected = Spool(), b""
    for number in range(40):
        piece = os.urandom(number * 300)
        assert spool.add(piece)
        expected += piece
    assert len(expected) > 3 * SPOOL_MEMORY_BYTES
    assert b"".join(spool.pieces()) == expected and spool.size == len(expected)
    assert not spool.add(bytes(SPOOL_BYTES_MAX))
    assert b"".join(spool.pieces()) == expected
    spool.close()


def test_without_a_temporary_directory_all_is_sent_on(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "tempdir", "/nowhere")
    held, sent = kept_output.hold(parse_keep("failed")), [b""]

    def send(_stream: int, piece: bytes) -> None:
        sent[0] += piece

    for _ in range(3):
        held.add(1, b"x" * 40_000, send)
    assert held.end((b"last", b""), True, send) == ((b"last", b""), (0, 0))
    assert sent == [b"x" * 120_000]


def test_a_keep_that_a_newer_mpifarm_knows_loses_nothing(node: OneNode) -> None:
    task = node.start("echo kept", policy=Policy(keep="compressed"))
    node.wait([task])
    assert node.ended[task].stdout == b"kept\n"
    node.until(lambda: node.log)
    assert "'compressed': write all, failed" in node.log[0]


def test_every_slot_may_hold_a_spool(make_node: Callable[..., OneNode]) -> None:
    """More files than an ordinary limit allows; the tasks after them are started all the same."""
    node = make_node(250)
    node.until(lambda: resource.prlimit(node.launcher.pid, resource.RLIMIT_NOFILE)[0] >= 6 * 250)
    talk = "head -c 100000 /dev/zero; head -c 100000 /dev/zero >&2; sleep 1; exit 1"
    first = node.start(*[talk] * 250, policy=Policy(keep="failed"))
    node.wait(range(first, first + 250), 120)
    for task in range(first, first + 250):
        assert (len(node.ended[task].stdout), len(node.ended[task].stderr)) == (100_000, 100_000)
