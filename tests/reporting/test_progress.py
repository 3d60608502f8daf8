"""Progress: a line every 30 s in a log, a bar on a terminal, nothing for what is over at once."""

from __future__ import annotations

import io

import pytest

from mpifarm.show.progress import Progress, progress_text, rate_text


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize(("per_s", "text"), [(2400.4, "2,400/s"), (3.14, "3.1/s"), (0.01, "36/h")])
def test_rates(per_s: float, text: str) -> None:
    assert rate_text(per_s) == text


def test_text() -> None:
    assert progress_text(12_000, 100_000, "tasks", 2400, "3 failed") == (
        "12,000 of 100,000 tasks (12 %), 2,400/s, done in 37s, 3 failed"
    )
    assert progress_text(99_999, 100_000, "tasks", 0) == "99,999 of 100,000 tasks (99 %)"
    assert progress_text(5, None, "tasks", 10) == "5 tasks, 10/s"


def test_a_log_gets_a_line_every_30_s() -> None:
    clock, log = Clock(), io.StringIO()
    with Progress(stream=log, clock=clock) as progress:
        for second in range(1, 91):
            clock.now = second
            progress.show(100 * second, 10_000)
    assert log.getvalue().splitlines() == [
        "mpifarm: 3,000 of 10,000 tasks (30 %), 100/s, done in 1m10s",
        "mpifarm: 6,000 of 10,000 tasks (60 %), 100/s, done in 40s",
        "mpifarm: 9,000 of 10,000 tasks (90 %), 100/s, done in 10s",
    ]


def test_the_rate_follows_the_last_half_minute() -> None:
    clock, log = Clock(), io.StringIO()
    progress = Progress(stream=log, clock=clock)
    for at, done in ((30, 30_000), (60, 30_300)):
        clock.now = at
        progress.show(done, 40_000)
    assert log.getvalue().splitlines()[-1].endswith("10/s, done in 16m10s")


def test_what_is_over_within_a_second_shows_nothing() -> None:
    for stream in (io.StringIO(), Terminal()):
        with Progress(stream=stream, clock=Clock()) as progress:
            progress.show(10, 10)
        assert stream.getvalue() == ""


def test_a_terminal_gets_a_bar_that_goes_away() -> None:
    clock, terminal = Clock(), Terminal()
    with Progress(stream=terminal, clock=clock) as progress:
        clock.now = 2.0
        progress.show(500, 1000)
    assert "500 of 1,000 tasks (50 %), 250/s, done in 2.0s" in terminal.getvalue()
    assert terminal.getvalue().count("500 of") < 5
