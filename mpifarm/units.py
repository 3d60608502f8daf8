"""Durations, counts and number ranges: as users type them, and as they are shown to users.

Every refusal is a UsageError that names the text and the forms that are accepted. Never imports anything of the farm
but `errors`.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from decimal import Decimal
from heapq import merge
from itertools import groupby

from mpifarm.core.ranges import disjoint
from mpifarm.errors import UsageError

_NUMBER = r"[0-9]+(?:_[0-9]+)*"
_AMOUNT = r"([0-9]+(?:\.[0-9]+)?|\.[0-9]+)"
_SPELLED = re.compile(
    rf"(?:{_AMOUNT}\s*(?:d|days?))?\s*"
    rf"(?:{_AMOUNT}\s*(?:h|hrs?|hours?))?\s*"
    rf"(?:{_AMOUNT}\s*(?:m|mins?|minutes?))?\s*"
    rf"(?:{_AMOUNT}\s*(?:s|secs?|seconds?))?\s*"
    rf"(?:{_AMOUNT}\s*ms)?"
)
_SPELLED_S = (86400.0, 3600.0, 60.0, 1.0, 0.001)
_CLOCK = re.compile(r"(?:([0-9]+)-)?([0-9]+):([0-5]?[0-9]):([0-5]?[0-9](?:\.[0-9]+)?)")
_CLOCK_S = (86400.0, 3600.0, 60.0, 1.0)
_DURATION_FORMS = "write 90s, 10m, 1h30m, 2days, HH:MM:SS or D-HH:MM:SS"

_SIZE = re.compile(r"([0-9]{1,20}(?:\.[0-9]{1,9})?)\s*(?:([kKmMgGtTpP])(?:i?[bB])?|([bB]|bytes))")

_PART = re.compile(rf"({_NUMBER})(?:-({_NUMBER})(?::({_NUMBER}))?)?")
_RANGE_FORMS = "write numbers and ranges such as 3,7-9,20-30:2"


def parse_duration(text: str) -> float:
    """Seconds. A bare number is refused, since people mean seconds by it in one tool and minutes in another."""
    plain = text.strip().lower()
    if re.fullmatch(rf"{_NUMBER}(?:\.[0-9]*)?", plain):
        raise UsageError(f"duration {text!r} has no unit: write {plain}s or {plain}m")
    for pattern, unit_s in ((_SPELLED, _SPELLED_S), (_CLOCK, _CLOCK_S)):
        match = pattern.fullmatch(plain)
        if match is not None and any(match.groups()):
            seconds = sum(float(amount) * s for amount, s in zip(match.groups(), unit_s) if amount)
            if seconds < float("inf"):
                return seconds
    raise UsageError(f"{text!r} is not a duration: {_DURATION_FORMS}")


def parse_bytes(text: str) -> int:
    """A size such as 4G, 500M, 1.5GiB: units are binary, as batch systems have them. A bare number is refused, since it
    is bytes in one tool and megabytes in another; 0 is 0."""
    found = _SIZE.fullmatch(text.strip())
    if found is None and text.strip() != "0":
        plain = text.strip()
        bare = plain.isascii() and plain.isdigit() and len(plain) < 20
        hint = f"has no unit: write {plain}M or {plain}G" if bare else "is not a size: write 4G or 500M"
        raise UsageError(f"{text[:40]!r} {hint}")
    return 0 if found is None else int(Decimal(found[1]) * (1 << 10 * " kmgtp".index((found[2] or " ").lower())))


def exact_bytes(size: int) -> str:
    """As `parse_bytes` reads it, without blanks: 4G, 1536M, 1000B."""
    for power, unit in ((40, "T"), (30, "G"), (20, "M"), (10, "K")):
        if size and size % (1 << power) == 0:
            return f"{size >> power}{unit}"
    return f"{size}B" if size else "0"


def parse_count(text: str, what: str, *, lowest: int = 1, highest: int = 2**31 - 1) -> int:
    """A whole number within the limits; `what` names it in the refusal (`--cpus`). 10_000 may be written so."""
    plain = text.strip()
    if re.fullmatch(_NUMBER, plain) and len(plain) < 40:  # int() of thousands of digits is slow or refused
        count = int(plain)
        if lowest <= count <= highest:
            return count
    raise UsageError(f"{what}: {text!r} is not a whole number from {lowest} to {highest}")


def parse_numbers(text: str, *, lowest: int = 0, highest: int = 2**62) -> list[range]:
    """`3,7-9,20-30:2` as ranges in the order written; ends are included in the text, steps follow a colon."""
    return [_parse_part(part.strip(), text, lowest, highest) for part in text.split(",")]


def _parse_part(part: str, text: str, lowest: int, highest: int) -> range:
    where = "" if part == text else f" in {text!r}"
    match = _PART.fullmatch(part)
    if match is None or len(part) > 100:
        raise UsageError(f"{part!r}{where} is not a number or a range: {_RANGE_FORMS}")
    first = int(match[1])
    last = first if match[2] is None else int(match[2])
    step = 1 if match[3] is None else int(match[3])
    if last < first:
        raise UsageError(f"{part!r}{where} ends before it begins: {_RANGE_FORMS}")
    if step == 0:
        raise UsageError(f"{part!r}{where} has the step 0: {_RANGE_FORMS}")
    if first < lowest or last > highest:
        raise UsageError(f"{part!r}{where} goes beyond {lowest} to {highest}")
    return range(first, last + 1, step)


def each_number(ranges: Iterable[range]) -> Iterator[int]:
    """Every number of the ranges once, in ascending order."""
    return (number for number, _ in groupby(merge(*ranges)))


def each_padded(text: str) -> Iterator[tuple[int, bytes]]:
    """`each_number` of the text, each beside its digits: where a range has zeros in front, all have as many digits."""
    ends = [end.split(":")[0].strip().replace("_", "") for part in text.split(",") for end in part.split("-")]
    width = max((len(end) for end in ends if len(end) > 1 and end[0] == "0"), default=0)
    return ((number, b"%0*d" % (width, number)) for number in each_number(parse_numbers(text)))


def parse_ranges(text: str) -> list[tuple[int, int]]:
    """Task numbers (from 1) as half-open `(lo, hi)`, sorted, merged where they touch."""
    parts: list[tuple[int, int]] = []
    for part in parse_numbers(text, lowest=1, highest=2**32 - 1):
        if part.step == 1:
            parts.append((part.start, part.stop))
        else:
            parts.extend((number, number + 1) for number in part)
    return disjoint(parts)


def listed(names: Sequence[str], most: int = 5) -> str:
    """Some of them, and how many more there are: `a, b, c, d, e and 12 more`."""
    more = f" and {len(names) - most:,} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more


def format_seconds(seconds: float) -> str:
    """Two or three digits that matter, such as 12ms, 3.2s, 1m15s, 1h02m, 2d03h; `parse_duration` reads it back."""
    if seconds < 0:
        return "-" + format_seconds(-seconds)
    if seconds == 0:
        return "0s"
    if seconds < 0.9995:
        if seconds >= 0.00995:
            return f"{seconds * 1000:.0f}ms"
        return f"{round(seconds * 1000, 1):g}ms" if seconds >= 0.00095 else f"{seconds * 1000:.2f}ms"
    if seconds < 9.95:
        return f"{seconds:.1f}s"
    whole = round(seconds)
    if whole < 60:
        return f"{whole}s"
    if whole < 3600:
        return f"{whole // 60}m{whole % 60:02d}s"
    minutes = round(seconds / 60)
    if minutes < 24 * 60:
        return f"{minutes // 60}h{minutes % 60:02d}m"
    hours = round(seconds / 3600)
    return f"{hours // 24}d{hours % 24:02d}h"


def format_count(count: int) -> str:
    """1,234,567."""
    return f"{count:,}"


def format_bytes(size: int) -> str:
    """Binary units with one decimal below ten: 512 B, 1.5 KiB, 64 MiB."""
    amount = float(size)
    for unit in ("B", "KiB", "MiB", "GiB", "TiB"):
        if amount < 1023.5:
            return f"{amount:.1f} {unit}" if unit != "B" and amount < 9.95 else f"{amount:.0f} {unit}"
        amount /= 1024
    return f"{amount:.1f} PiB" if amount < 9.95 else f"{amount:.0f} PiB"
