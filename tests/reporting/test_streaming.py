"""Many outputs at once: the quick way gives what the careful one gives, also where tasks need more care."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from mpifarm.core.needs import Needs
from mpifarm.outputs import bulk
from tests.reporting.test_export import Typed, job, runs, typed  # noqa: F401 - fixtures
from tests.reporting.test_verify import set_field
from tests.reporting.test_whole import PlayedRun

pytestmark = pytest.mark.postgres

RANGES = ["1-40", "7", "3-5,29-33", "12-13,40"]


@pytest.mark.parametrize("streams", [(), ("--stderr",), ("--both",)], ids=["stdout", "stderr", "both"])
def test_as_the_careful_way(
    typed: Typed,  # noqa: F811
    job: str,  # noqa: F811
    streams: tuple[str, ...],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """--where makes it careful; with one that always holds, both say the same, to the byte."""
    monkeypatch.setattr(bulk, "WINDOW_TASKS", 7)
    assert typed("cancel", "scan.35-36").code == 0
    for ranges in RANGES:
        quick = typed("report", job, "--tasks", ranges, *streams)
        assert quick == typed("report", job, "--tasks", ranges, *streams, "--where", "task > 0")
        assert quick.out or streams == ("--stderr",)
    for pattern in ("out [12]*$", "bad", "nothing"):
        quick = typed("report", job, "--grep", pattern, *streams)
        assert quick == typed("report", job, "--grep", pattern, *streams, "--where", "task > 0")


def test_damage_in_the_middle(typed: Typed, job: str, runs: list[PlayedRun], tmp_path: Path) -> None:  # noqa: F811
    for run in runs:
        run.close()
    set_field(tmp_path / "run-1.h5", 11, stdout_crc32=7)  # task 2
    set_field(tmp_path / "run-1.h5", 13, task=77)  # task 4
    set_field(tmp_path / "run-1.h5", 15, extent_lo=-(2**62), extent_hi=2**62)  # task 6
    (tmp_path / "run-2.h5").write_bytes(b"no run file")
    said = typed("report", job, "--tasks", "1-22")
    assert said.code == 5
    assert said.out == b"".join(b"out %d\n\xff" % task for task in (1, 3, *range(5, 13), 21, 22))
    assert [line.split(":")[1] for line in said.err.splitlines()] == [" task 2", " task 4", " task 13-20"]
    assert said == typed("report", job, "--tasks", "1-22", "--where", "task > 0")


def test_every_length_comes_back(typed: Typed, pg_dsn: object, tmp_path: Path) -> None:  # noqa: F811
    """Nothing, a byte, a chunk and one more, on both streams."""
    from mpifarm.core.protocol.verbs import Batch, RunInfo
    from mpifarm.queue.run_verbs import PostgresQueue
    from tests.reporting.run_files import Scribe

    chance = random.Random(4)
    sizes = [0, 1, 100, 65_535, 65_536, 65_537, 200_000]
    outputs = {task: (chance.randbytes(chance.choice(sizes)), b"x" * chance.choice(sizes)) for task in range(1, 61)}
    (tmp_path / "many.txt").write_text("true\n" * 60)
    assert typed("submit", "many.txt").code == 0
    queue = PostgresQueue.connect(pg_dsn)  # type: ignore[arg-type]
    run = queue.open_run(RunInfo("host", 1, "boot", "", "mpifarm run", "0", 1, 1, 1, node_names=("node1",)))
    (block,) = queue.lease(run, 60, 1 << 20, Needs(64)).blocks
    scribe = Scribe(tmp_path / "run-1.h5", lease=block.lease, job=block.job)
    queue.name_file(run, str(scribe.path))
    order = list(outputs)
    chance.shuffle(order)
    rows = scribe.write({task: outputs[task] for task in order})
    queue.record(run, Batch(outcomes=[(row, number, None) for row, number in rows], done=[block.lease]))
    queue.close()
    for streams, wanted in (((), [0]), (("--stderr",), [1]), (("--both",), [0, 1])):
        said = typed("report", "many", "--tasks", "1-60", *streams)
        assert (said.code, said.err) == (0, "")
        assert said.out == b"".join(outputs[task][stream] for task in range(1, 61) for stream in wanted)
    assert typed("verify", "many").code == 0
    assert typed("export", "many", "many.h5").code == 0
    assert typed("report", "many.h5", "--tasks", "1-60", "--both").out == said.out
    scribe.close()
