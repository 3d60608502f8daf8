"""The page of a job: its numbers, its manners, and how a real browser shows it."""

from __future__ import annotations

import random
import shlex
import sys
import tracemalloc
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mpifarm.core.model import State
from mpifarm.core.protocol.messages import Output
from mpifarm.errors import UsageError
from mpifarm.outputs.history import accounts, accounts_text
from mpifarm.page.binning import TIME_BINS, Batch, Cover, Histogram, Lanes, TimeAxis
from mpifarm.page.html import BARS_MAX, write_page
from mpifarm.runfile.format import ROW_TYPE
from mpifarm.runfile.writer import Writer
from mpifarm.show.text import JobReport
from tests.fix_farm import Farm
from tests.reporting import browser
from tests.reporting.rows import NOW, FakeClient, a_failure, a_job, a_run, a_task

pytestmark = pytest.mark.slow

WICKED = b"</script></code><b>bold</b><img src=http://example.org/x onerror=alert(1)> \x1b[31m \xff & 'x' \"y\""
needs_browser = pytest.mark.skipif(
    browser.CHROMIUM is None, reason=f"none of {', '.join(browser.NAMES)} found: apt-get install chromium"
)


def attempts(count: int, slots: int, seed: int = 1, nodes: int = 1) -> np.ndarray[Any, Any]:
    """Rows of a run that began 1000 s before NOW, in the order of their ends."""
    choice = np.random.default_rng(seed)
    lanes = nodes * slots
    seconds = choice.lognormal(0, 1, (lanes, count // lanes))
    ended = np.cumsum(seconds + 0.01, axis=1) + NOW - 999
    rows = np.zeros(seconds.size, ROW_TYPE)
    rows["ended"], rows["started"] = ended.ravel(), (ended - seconds).ravel()
    rows["node"], rows["slot"] = np.divmod(np.repeat(np.arange(lanes), count // lanes), slots)
    rows = rows[np.argsort(rows["ended"])]
    rows["lease"], rows["job"], rows["attempt"], rows["cpus"] = 5, 12, 1, 1
    rows["task"] = np.arange(1, len(rows) + 1)
    rows["max_rss_kib"] = 20_000
    rows["state"][::7], rows["failure"][::7], rows["exit_code"][::7] = State.FAILED, 1, 3
    return rows


def a_farm(path: Path, rows: np.ndarray[Any, Any], slots: int, nodes: int = 1) -> tuple[FakeClient, JobReport]:
    """A job of one run with these attempts, told by a client that knows it."""
    names = [("node<1>" if number == 0 else f"node{number + 1}", slots, slots) for number in range(nodes)]
    writer = Writer(path, {}, names)
    for lo in range(0, len(rows), 5000):
        writer.append(Output(0, rows[lo : lo + 5000].tobytes(), b"", (), {}))
    writer.sync()
    writer.close()
    failed = int((rows["state"] == State.FAILED).sum())
    end = float(rows["ended"].max()) + 1 if len(rows) else NOW
    good = int((rows["state"] == State.SUCCEEDED).sum())
    facts = {"nodes": nodes, "slots": nodes * slots, "started": NOW - 1000, "ended": end, "live": False}
    run = a_run(succeeded=good, failed=failed, file=str(path), **facts)
    job = a_job(total=len(rows), succeeded=good, failed=failed, state="failed", cwd=WICKED)
    client = FakeClient(job)
    client.all_runs, client.lines = [run], [a_task(1, state="failed", command=b"./x " + WICKED)]
    failures = [a_failure("exit", failed, 1, exit_code=3, stderr_tail=WICKED)] if failed else []
    return client, JobReport(job, failures, (0.5, 2.0, 9.0), [run], "mpifarm report scan")


def page(tmp_path: Path, rows: np.ndarray[Any, Any], slots: int, nodes: int = 1) -> str:
    client, report = a_farm(tmp_path / "run.h5", rows, slots, nodes)
    write_page(client, report, tmp_path / "page.html", NOW, force=False)  # type: ignore[arg-type]
    return (tmp_path / "page.html").read_text()


def test_time_between_runs_takes_no_room() -> None:
    axis = TimeAxis([(100.0, 110.0), (500.0, 520.0), (105.0, 115.0)])
    assert axis.length_s == 35
    assert axis.parts == [(0.0, 100.0), (15.0, 500.0)]
    assert axis.place(np.array([0.0, 100, 112, 300, 505, 999])).tolist() == [0, 0, 12, 15, 20, 35]


@pytest.mark.parametrize("seed", range(20))
def test_cover_is_exact(seed: int) -> None:
    choice = random.Random(seed)
    cover, expected = Cover(3, 10, 50.0), np.zeros((3, 10))
    for _ in range(40):
        row, cores = choice.randrange(3), choice.randint(1, 4)
        start, end = sorted(choice.choice([choice.uniform(0, 50), float(choice.randrange(0, 51, 5))]) for _ in "12")
        cover.add(np.array([row]), np.array([start]), np.array([end]), np.array([cores]))
        for at in range(10):
            expected[row, at] += cores * max(0.0, min(end, 5.0 * at + 5) - max(start, 5.0 * at))
    assert cover.seconds() == pytest.approx(expected, abs=1e-9)


def test_histogram() -> None:
    counts = Histogram(np.array([1.0, 10.0, 100.0]))
    values, bad = np.array([0.0, 0.5, 1, 9.9, 10, 5000]), np.array([True, False, False, True, False, True])
    counts.add(values, bad)
    assert counts.counts.tolist() == [[2, 1], [1, 1]]


def test_rows_of_the_chart() -> None:
    few = Lanes({"a": 2, "b": 3})
    assert (few.by_slot, few.first, few.names) == (True, {"a": 0, "b": 2}, ["a", "", "b", "", ""])
    assert Lanes({"a": 2, "b": 3}, wide=True).slots == [2, 3]
    many = Lanes({f"n{number}": 64 for number in range(200)})
    assert (many.by_slot, many.nodes_each, len(many), many.slots[0], many.slots[-1]) == (False, 3, 67, 192, 128)


def test_which_slots_a_wide_task_held() -> None:
    """Slots 1 and 2 were taken when it started: it got 0, 3 and 4."""
    told = [(1, 1, 0.0, 9.0), (2, 1, 0.0, 8.0), (0, 3, 1.0, 5.0), (0, 1, 5.0, 6.0)]
    slot, cpus, started, ended = (np.array(column) for column in zip(*told))
    zero = np.zeros(4, np.int64)
    batch = Batch(zero, zero, slot, cpus, started, ended, zero, zero, ended - started, zero)
    assert batch.held([6]) == [[(1, 1)], [(2, 1)], [(0, 1), (3, 2)], [(0, 1)]]


def test_whatever_users_wrote_stays_text(tmp_path: Path) -> None:
    text = page(tmp_path, attempts(30, 3), 3)
    assert "default-src 'none'" in text
    for wicked in ("<script", "<b>", "<img", "\x1b", "node<1>"):
        assert wicked not in text
    assert "./x &lt;/script&gt;&lt;/code&gt;&lt;b&gt;bold" in text
    assert "node&lt;1&gt;" in text
    assert "http" not in text.replace("http-equiv", "").replace("src=http://example.org/x", "")


def test_each_attempt_has_its_bar(tmp_path: Path) -> None:
    rows = attempts(60, 3)
    rows["state"][-1] = State.RETURNED
    text = page(tmp_path, rows, 4)
    gantt = text[text.index('<svg id="gantt"') :].partition("</svg>")[0]
    assert gantt.count("<rect") == 60
    assert "task 8 failed" in gantt
    assert "task 60 lost" in gantt


def test_no_attempt_that_counts(tmp_path: Path) -> None:
    rows = attempts(9, 3)
    rows["state"] = State.RETURNED
    text = page(tmp_path, rows, 3)
    assert text.count("</span>lost</li>") == 2
    assert "</span>succeeded" not in text


def test_no_attempt_at_all(tmp_path: Path) -> None:
    assert "<svg" not in page(tmp_path, attempts(0, 3), 3)


def test_too_many_attempts_for_bars_are_summed_up_and_it_says_so(tmp_path: Path) -> None:
    text = page(tmp_path, attempts(BARS_MAX + 100, 4), 4)
    assert f"{BARS_MAX + 100:,} attempts on 4 slots are too many for a bar each" in text
    assert len(text) < 300_000
    gantt = text[text.index('<svg id="gantt"') :].partition("</svg>")[0]
    assert "shade5" in gantt
    assert gantt.count("<rect") < 4 * 2 * TIME_BINS


def test_memory_does_not_grow_with_the_attempts(tmp_path: Path) -> None:
    peaks = []
    for count in (40_000, 160_000):
        client, report = a_farm(tmp_path / f"{count}.h5", attempts(count, 64, nodes=4), 64, 4)
        tracemalloc.start()
        write_page(client, report, tmp_path / f"{count}.html", NOW, force=False)  # type: ignore[arg-type]
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert peaks[1] < peaks[0] * 1.15 + 1_000_000
    assert peaks[1] < 40_000_000


def test_a_file_is_not_replaced_unless_forced(tmp_path: Path) -> None:
    client, report = a_farm(tmp_path / "run.h5", attempts(30, 3), 3)
    target = tmp_path / "page.html"
    target.write_text("precious")
    with pytest.raises(UsageError, match="exists already: --force"):
        write_page(client, report, target, NOW, force=False)  # type: ignore[arg-type]
    assert target.read_text() == "precious"
    write_page(client, report, target, NOW, force=True)  # type: ignore[arg-type]
    assert target.read_text().endswith("</html>\n")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["page.html", "run.h5"]


def test_its_directory_is_made(tmp_path: Path) -> None:
    client, report = a_farm(tmp_path / "run.h5", attempts(30, 3), 3)
    write_page(client, report, tmp_path / "new" / "dir" / "page.html", NOW, force=False)  # type: ignore[arg-type]
    assert (tmp_path / "new" / "dir" / "page.html").is_file()
    with pytest.raises(UsageError, match="cannot make the directory of"):
        write_page(client, report, tmp_path / "run.h5" / "page.html", NOW, force=False)  # type: ignore[arg-type]


def test_what_fails_leaves_nothing(tmp_path: Path) -> None:
    client, report = a_farm(tmp_path / "run.h5", attempts(30, 3), 3)

    def broken(*_: object, **__: object) -> Iterator[Any]:
        raise UsageError("gone")

    client.tasks = broken  # type: ignore[method-assign]
    with pytest.raises(UsageError, match="gone"):
        write_page(client, report, tmp_path / "page.html", NOW, force=False)  # type: ignore[arg-type]
    assert [path.name for path in tmp_path.iterdir()] == ["run.h5"]


def test_a_run_whose_file_is_elsewhere_is_told(tmp_path: Path) -> None:
    client, report = a_farm(tmp_path / "run.h5", attempts(30, 3), 3)
    (tmp_path / "run.h5").unlink()
    write_page(client, report, tmp_path / "page.html", NOW, force=False)  # type: ignore[arg-type]
    text = (tmp_path / "page.html").read_text()
    assert "know nothing of run 3" in text
    assert "<svg" not in text
    assert "exit 3" in text
    assert accounts(client, [run.id for run in report.runs]) == {}  # type: ignore[arg-type]


def test_attempts_whose_record_was_refused_are_lost(tmp_path: Path) -> None:
    """The queue counts one outcome less than the file has: it is asked which."""
    rows = attempts(30, 3)
    rows["state"], rows["failure"] = State.SUCCEEDED, 0
    client, report = a_farm(tmp_path / "run.h5", rows, 3)
    run = report.runs[0]
    client.lines = [a_task(n + 1, state="succeeded", run=run.id, file_row=n) for n in range(30) if n != 4]
    client.all_runs = [run._replace(succeeded=29)]
    (account,) = accounts(client, [run.id]).values()  # type: ignore[arg-type]
    assert account.lost == pytest.approx(rows["ended"][4] - rows["started"][4], abs=1e-5)
    assert account.total == pytest.approx(3 * (rows["ended"].max() + 1 - (NOW - 1000)))
    head, line = accounts_text({run.id: account})
    assert head.split()[:3] == ["run", "core", "time"]
    assert sum(round(10 * float(share)) for share in line.replace("%", "").split()[2:]) == 1000


def test_a_live_run_has_no_account_yet(tmp_path: Path) -> None:
    client, report = a_farm(tmp_path / "run.h5", attempts(30, 3), 3)
    run = report.runs[0]._replace(live=True, ended=None)
    client.all_runs = [run]
    assert accounts(client, [run.id]) == {}  # type: ignore[arg-type]
    write_page(client, report._replace(runs=[run]), tmp_path / "page.html", NOW, force=False)  # type: ignore[arg-type]
    text = (tmp_path / "page.html").read_text()
    assert "A run was going on" in text
    assert 'id="gantt"' in text
    assert 'id="time"' not in text


@needs_browser
def test_the_browser_tells_what_it_would_have_to(tmp_path: Path) -> None:
    """The checks below see a page that misbehaves."""
    bad = tmp_path / "bad.html"
    bad.write_text('<body><img src="http://127.0.0.1:9/x.png"><script>console.error("boom")</script></body>')
    shown = browser.show(bad, tmp_path)
    assert [line for line in shown.console if "boom" in line]
    assert "http://127.0.0.1:9/x.png" in shown.requests


@pytest.mark.postgres
@pytest.mark.mpi_outside
@needs_browser
def test_a_real_run_in_a_real_browser(farm: Farm, tmp_path: Path) -> None:
    lines = [f"sleep 0.0{number % 10}; echo {number}" for number in range(150)]
    # More memory than the launcher has, or it is not told from the launcher's.
    large = f"{shlex.quote(sys.executable)} -c 'import sys; x = bytearray(80_000_000); sys.exit({{}})'"
    lines += ["echo '</script><b>bold</b>' >&2; exit 3", "kill -SEGV $$"]
    lines += [*(large.format(code) for code in (0, 0, 0, 1, 1)), "#MPIFARM --cpus 2"]
    lines += [f"sleep 0.0{number % 10}" for number in range(20)]
    farm.submit(lines)
    farm.run("run", "--cpus", "4", ranks=2)
    said, _ = farm.run("report", "job")
    text = said.decode().splitlines()
    at = next(i for i, line in enumerate(text) if line.split()[:3] == ["run", "core", "time"])
    assert sum(round(10 * float(share)) for share in text[at + 1].replace("%", "").split()[2:]) == 1000
    seen = farm.report()
    (account,), (run,) = seen["accounting"], seen["runs"]
    shares = {name: seconds for name, seconds in account.items() if name not in ("run", "core_s")}
    assert min(shares.values()) >= 0
    assert sum(shares.values()) == pytest.approx(account["core_s"])
    assert account["core_s"] == pytest.approx(4 * run["seconds"], rel=0.01)
    assert account["task"] == pytest.approx(run["utilisation"] * account["core_s"], rel=0.01)

    farm.run("report", "job", "--html", "job.html")
    assert "exists already" in farm.run("report", "job", "--html", "job.html", code=2)[1]
    made = farm.cwd / "job.html"
    shown = browser.show(made, tmp_path)
    assert shown.console == []
    assert shown.requests == set()
    assert "&lt;/script&gt;&lt;b&gt;bold&lt;/b&gt;" in shown.dom

    blue, red = "rgb(0, 114, 178)", "rgb(213, 94, 0)"
    light = browser.measure(made, tmp_path, "--window-size=1100,2800")
    assert light["paper"] == "rgb(255, 255, 255)"
    assert (light["wide"], light["bold"], light["scripts"]) == (0, 0, 0)
    assert set(light["charts"]) == {"utilisation", "throughput", "gantt", "durations", "memory"}
    assert light["charts"]["gantt"]["bars"] >= 172
    for name, chart in light["charts"].items():
        assert chart["width"] > 300, name
        assert chart["outside"] == [], name
        assert set(chart["painted"]) == {blue, red}, name
        assert chart["painted"][blue] > 1000, name
    for scheme, width in (("0", 1100), ("1", 500)):
        other = browser.measure(
            made, tmp_path, f"--window-size={width},2800", f"--blink-settings=preferredColorScheme={scheme}"
        )
        assert other["wide"] == 0
        assert (other["paper"] == light["paper"]) is (scheme == "1")
    assert browser.screenshot(made, tmp_path).startswith(b"\x89PNG")
