"""Screens as they are shown, from rows to the last blank."""

from __future__ import annotations

import pytest

from mpifarm.show.text import (
    JobReport,
    Look,
    busy_share,
    ending,
    job_text,
    jobs_text,
    lasted_s,
    printable,
    ranges_text,
    run_state,
    task_head,
    task_text,
    telling_line,
)
from tests.reporting.rows import NOW, a_failure, a_job, a_run, a_task

PLAIN = Look()


def test_all_jobs() -> None:
    jobs = [
        a_job("scan", total=120_000, pending=60_000, running=128, succeeded=59_872, state="running"),
        a_job("docking-2", id=7, total=5, succeeded=4, failed=1, state="failed"),
        a_job("later", id=13, total=10, pending=10, held=True),
    ]
    assert (
        jobs_text(jobs, PLAIN)
        == """\
id  job        state             tasks  pending  running  succeeded  failed  submitted
12  scan       running         120,000   60,000      128     59,872       0  2027-01-15 07:00
 7  docking-2  failed                5        0        0          4       1  2027-01-15 07:00
13  later      pending (held)       10       10        0          0       0  2027-01-15 07:00"""
    )


def test_one_job() -> None:
    job = a_job(state="running", total=1000, pending=700, running=60, succeeded=230, failed=10)
    failures = [
        a_failure("exit", 8, 17, exit_code=3, stderr_tail=b"bad input\nmore\n", entry=b"x\t7"),
        a_failure("signal", 2, 33, signal=11),
    ]
    runs = [
        a_run(3, succeeded=200, failed=10),
        a_run(2, live=False, ended=NOW - 900, started=NOW - 1000, file="/tmp/run-2.h5", returned=5, busy_s=6400.0),
    ]
    report = JobReport(job, failures, (0.012, 0.5, 75.0), runs, "mpifarm tasks scan --state failed")
    assert (
        job_text(report, NOW, PLAIN)
        == """\
job scan (id 12): running
submitted 2027-01-15 07:00 from scan.txt in /home/ann

tasks     1,000: 700 pending, 60 running, 230 succeeded, 10 failed
duration  p50 12ms, p95 500ms, max 1m15s

failure  tasks  example         ended    stderr
exit         8  scan.17 (x\\t7)  exit 3   bad input
signal       2  scan.33         SIGSEGV

run  state  on               nodes  slots  started           lasted  succeeded  failed  returned   busy  file
  3  live   node17 slurm 99      4     64  2027-01-15 07:50  10m00s        200      10         0   50 %  /tmp/run-3.h5
  2  ended  node17 slurm 99      4     64  2027-01-15 07:43   1m40s          0       0         5  100 %  /tmp/run-2.h5

next: mpifarm tasks scan --state failed"""
    )


def test_a_job_nobody_has_touched_is_short() -> None:
    report = JobReport(a_job(pending=100), [], None, [], "mpifarm run --local 4")
    assert job_text(report, NOW, PLAIN).splitlines() == [
        "job scan (id 12): pending",
        "submitted 2027-01-15 07:00 from scan.txt in /home/ann",
        "",
        "tasks     100: 100 pending",
        "",
        "next: mpifarm run --local 4",
    ]


def test_colour_is_for_states_and_only_when_asked() -> None:
    jobs = [a_job(state="failed", failed=100)]
    assert "\x1b" not in jobs_text(jobs, PLAIN)
    assert "\x1b[31mfailed\x1b[0m" in jobs_text(jobs, Look(80, colour=True))


def test_tasks_on_a_terminal_are_aligned_and_cut() -> None:
    look = Look(74)
    lines = [
        a_task(3, state="succeeded", seconds=1.25, node="n1", attempts=1),
        a_task(12, state="failed", failure="exit", exit_code=3, seconds=0.5, node="n1", attempts=2, command=b"x" * 90),
        a_task(13),
    ]
    assert [task_head(4), *(task_text(line, 4, look) for line in lines)] == [
        "task  state      ended        seconds  node        attempts  command",
        "   3  succeeded                 1.250  n1                 1  ./simulate 3",
        "  12  failed     exit 3         0.500  n1                 2  xxxxxxxxxxxx…",
        "  13  pending                                             0  ./simulate 13",
    ]


def test_tasks_in_a_pipe_are_whole_and_one_line_each() -> None:
    line = a_task(5, state="failed", failure="timeout", seconds=2.0, node="n2", attempts=1, command=b"a\tb\nc \xff")
    assert task_text(line, 4, PLAIN) == "5\tfailed\ttimeout\t2.000\tn2\t1\ta\\tb\\nc \\xff"


@pytest.mark.parametrize(
    ("failure", "code", "number", "text"),
    [
        ("exit", 3, None, "exit 3"),
        ("signal", None, 9, "SIGKILL"),
        ("signal", None, 50, "signal 50"),
        ("timeout", None, 15, "timeout"),
        ("launch", 127, None, "launch"),
        ("", None, None, ""),
        ("none", 0, None, ""),
    ],
)
def test_how_an_attempt_ended(failure: str, code: int | None, number: int | None, text: str) -> None:
    assert ending(failure, code, number) == text


@pytest.mark.parametrize(
    ("tail", "line"),
    [
        (None, ""),
        (b"\n \n", ""),
        (b"  first\nsecond\n", "first"),
        (b'Traceback (most recent call last):\n  File "x", line 1\nValueError: bad\n', "ValueError: bad"),
        (b"\x1b[31mred\x1b[0m\n", r"\x1b[31mred\x1b[0m"),
    ],
)
def test_the_telling_line_of_stderr(tail: bytes | None, line: str) -> None:
    assert telling_line(tail) == line


def test_nothing_a_task_wrote_reaches_the_terminal_unescaped() -> None:
    every_byte = bytes(range(256))
    assert printable(every_byte).isprintable()
    assert printable("größe".encode()) == "größe"


def test_a_run_is_live_ended_or_lost() -> None:
    live = a_run(started=NOW - 100)
    ended = a_run(live=False, started=NOW - 100, ended=NOW - 40)
    lost = a_run(live=False, started=NOW - 100, beat=NOW - 70)
    assert [run_state(run) for run in (live, ended, lost)] == ["live", "ended", "lost"]
    assert [lasted_s(run, NOW) for run in (live, ended, lost)] == [100, 60, 30]


def test_utilisation_is_a_share_of_what_was_offered() -> None:
    assert busy_share(a_run(slots=10, started=NOW - 100, busy_s=250.0), NOW) == 0.25
    assert busy_share(a_run(slots=10, started=NOW, busy_s=0.0), NOW) == 0.0


def test_ranges() -> None:
    assert ranges_text([(3, 4), (7, 10)]) == "3,7-9"
