"""What both queues agree on before they touch their tables: when a run is silent, which kinds there are, the shape of a
batch. Pure."""

from __future__ import annotations

from collections.abc import Iterable

from mpifarm.core.model import FailureClass, Kind, Limits, State
from mpifarm.core.protocol.verbs import Batch, Return
from mpifarm.errors import UsageError

SILENT_S = Limits().silent_s
"""`Grant.silent` counts what runs hold that have not renewed for so long."""


def check_kind(kind: Kind) -> None:
    """Raises UsageError for one that no run of this mpifarm can run."""
    if not kind.known:
        raise UsageError(f"there are no tasks of kind {kind.word}; there are {', '.join(k.word for k in Kind)}")


def merged(returned: Iterable[Return]) -> list[Return]:
    """Neighbouring spans of one lease that are alike as one. A lost node returns thousands of single tasks."""
    whole: list[Return] = []
    for part in sorted(returned):
        if whole:
            grown = whole[-1]._replace(span=whole[-1].span._replace(hi=part.span.hi))
            if whole[-1].span.hi == part.span.lo and grown == part._replace(span=part.span._replace(lo=grown.span.lo)):
                whole[-1] = grown
                continue
        whole.append(part)
    return whole


def check_batch(batch: Batch) -> None:
    """Asserts what the dispatcher promises: final outcomes only, unstarted tasks only with a lease that is done."""
    done = set(batch.done)
    assert len(done) == len(batch.done)
    returned = State.RETURNED.value
    for row, _, _ in batch.outcomes:
        assert row.state != returned
    for part in batch.returned:
        assert part.span.lo < part.span.hi
        assert part.failure is not FailureClass.NONE or part.span.lease in done
        assert part.state is State.RETURNED or (part.state is State.FAILED and part.failure is not FailureClass.NONE)
