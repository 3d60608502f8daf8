"""What both queues agree on before they touch their tables: limits of a lease, and the shape of a batch. Pure."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import groupby

from mpifarm.core.model import FailureClass, Limits, Span, State
from mpifarm.core.verbs import Batch

RANGES_MAX = 64
"""Ready ranges that one lease call may take from."""

SILENT_S = 3 * Limits().heartbeat_every_s
"""A run that has not renewed for so long may be dying; `Grant.silent` counts what it holds."""

Returned = tuple[Span, FailureClass]


def merged(returned: Iterable[Returned]) -> list[Returned]:
    """Neighbouring spans of one lease, attempt and failure as one. A lost node returns thousands of single tasks."""
    whole: list[Returned] = []
    for span, failure in sorted(returned):
        if whole:
            last, last_failure = whole[-1]
            if (last.lease, last.hi, last.attempt, last_failure) == (span.lease, span.lo, span.attempt, failure):
                whole[-1] = (last._replace(hi=span.hi), failure)
                continue
        whole.append((span, failure))
    return whole


def check_batch(batch: Batch) -> None:
    """Asserts what the dispatcher promises: final outcomes only, unstarted tasks only with a lease that is done."""
    done = set(batch.done)
    assert len(done) == len(batch.done)
    for row, _, _ in batch.outcomes:
        assert State(row.state).final
    for span, failure in batch.returned:
        assert span.lo < span.hi
        assert failure is not FailureClass.NONE or span.lease in done


def runs_of(numbers: Iterable[int]) -> list[tuple[int, int]]:
    """Sorted numbers as half-open ranges."""
    ranges = []
    for _, group in groupby(enumerate(numbers), key=lambda pair: pair[1] - pair[0]):
        members = [number for _, number in group]
        ranges.append((members[0], members[-1] + 1))
    return ranges
