from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mpifarm.errors import UsageError
from mpifarm.units import (
    each_number,
    format_bytes,
    format_count,
    format_seconds,
    parse_count,
    parse_duration,
    parse_numbers,
    parse_ranges,
)


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("90s", 90),
        ("0s", 0),
        ("10m", 600),
        ("1h30m", 5400),
        ("1h 30m", 5400),
        ("1.5h", 5400),
        (".5s", 0.5),
        ("250ms", 0.25),
        ("2days", 172800),
        ("1day 2hours 3minutes 4seconds", 93784),
        ("2D", 172800),
        (" 5min ", 300),
        ("00:10:00", 600),
        ("100:00:01", 360001),
        ("1:2:3.5", 3723.5),
        ("2-03:04:05", 183845),
    ],
)
def test_durations(text: str, seconds: float) -> None:
    assert parse_duration(text) == pytest.approx(seconds)


@pytest.mark.parametrize("text", ["10", "1_000", "1.5", "7."])
def test_a_duration_without_a_unit_is_refused_with_both_readings(text: str) -> None:
    with pytest.raises(UsageError, match=rf"'{text}' has no unit: write {text}s or {text}m"):
        parse_duration(text)


@pytest.mark.parametrize(
    "text",
    ["", " ", "s", "10:00", "1:60:00", "1:00:60", "-5s", "5s5s", "30m1h", "1e3s", "5 weeks", "1-2", "nan", "inf", "٣s"],
)
def test_what_is_no_duration(text: str) -> None:
    with pytest.raises(UsageError, match="is not a duration: write 90s, 10m, 1h30m"):
        parse_duration(text)


def test_a_duration_without_end_is_refused() -> None:
    with pytest.raises(UsageError):
        parse_duration("9" * 400 + "s")


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0, "0s"),
        (0.00042, "0.42ms"),
        (0.00096, "1ms"),
        (0.0123, "12ms"),
        (0.25, "250ms"),
        (0.9996, "1.0s"),
        (3.21, "3.2s"),
        (9.96, "10s"),
        (59.6, "1m00s"),
        (75, "1m15s"),
        (3599.7, "1h00m"),
        (3725, "1h02m"),
        (86399, "1d00h"),
        (183600, "2d03h"),
        (-3.2, "-3.2s"),
    ],
)
def test_seconds_for_people(seconds: float, text: str) -> None:
    assert format_seconds(seconds) == text


@settings(deadline=None)
@given(st.floats(min_value=0.001, max_value=1e8))
def test_seconds_for_people_can_be_read_back(seconds: float) -> None:
    assert parse_duration(format_seconds(seconds)) == pytest.approx(seconds, rel=0.051)


@pytest.mark.parametrize(("text", "count"), [("1", 1), (" 16 ", 16), ("10_000", 10000)])
def test_counts(text: str, count: int) -> None:
    assert parse_count(text, "--cpus") == count


@pytest.mark.parametrize("text", ["", "0", "-1", "1.5", "1e3", "65", "1__0", "_1", "9" * 5000, "²"])
def test_what_is_no_count(text: str) -> None:
    with pytest.raises(UsageError, match=r"--cpus: .* is not a whole number from 1 to 64"):
        parse_count(text, "--cpus", highest=64)


@pytest.mark.parametrize(
    ("text", "ranges"),
    [
        ("3", [(3, 4)]),
        ("3,7-9,20-30:2", [(3, 4), (7, 10), (20, 21), (22, 23), (24, 25), (26, 27), (28, 29), (30, 31)]),
        ("9, 1-3 ,4", [(1, 5), (9, 10)]),
        ("1-10,5,3-20", [(1, 21)]),
        ("1-1_000_000_000", [(1, 1_000_000_001)]),
        ("1-3:1", [(1, 4)]),
        ("1-3:5", [(1, 2)]),
    ],
)
def test_ranges(text: str, ranges: list[tuple[int, int]]) -> None:
    assert parse_ranges(text) == ranges


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "'' is not a number or a range: write numbers and ranges such as 3,7-9,20-30:2"),
        ("1,,2", "'' in '1,,2' is not a number"),
        ("a", "'a' is not a number"),
        ("1-", "'1-' is not a number"),
        ("1:2", "'1:2' is not a number"),
        ("-1", "'-1' is not a number"),
        ("4,9-7", "'9-7' in '4,9-7' ends before it begins"),
        ("1-3:0", "has the step 0"),
        ("0-3", "goes beyond 1 to"),
        ("1-4294967296", "goes beyond 1 to"),
        ("9" * 5000, "is not a number"),
    ],
)
def test_what_is_no_range(text: str, reason: str) -> None:
    with pytest.raises(UsageError) as caught:
        parse_ranges(text)
    assert reason in str(caught.value)


@settings(deadline=None)
@given(st.lists(st.tuples(st.integers(1, 60), st.integers(0, 30), st.integers(1, 5)), min_size=1, max_size=6))
def test_ranges_hold_exactly_the_numbers_written(parts: list[tuple[int, int, int]]) -> None:
    text = ",".join(f"{first}-{first + more}:{step}" for first, more, step in parts)
    numbers = {n for first, more, step in parts for n in range(first, first + more + 1, step)}
    merged = parse_ranges(text)
    assert [n for lo, hi in merged for n in range(lo, hi)] == sorted(numbers)
    assert all(hi < next_lo for (_, hi), (next_lo, _) in pairwise(merged))
    assert list(each_number(parse_numbers(text))) == sorted(numbers)


@pytest.mark.parametrize(("count", "text"), [(0, "0"), (999, "999"), (1234567, "1,234,567")])
def test_counts_for_people(count: int, text: str) -> None:
    assert format_count(count) == text


@pytest.mark.parametrize(
    ("size", "text"),
    [
        (0, "0 B"),
        (1023, "1023 B"),
        (1024, "1.0 KiB"),
        (1536, "1.5 KiB"),
        (10 << 10, "10 KiB"),
        ((1 << 20) - 1, "1.0 MiB"),
        (64 << 20, "64 MiB"),
        (5 << 50, "5.0 PiB"),
        (5000 << 50, "5000 PiB"),
    ],
)
def test_sizes_for_people(size: int, text: str) -> None:
    assert format_bytes(size) == text
