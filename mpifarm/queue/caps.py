"""Where the statements of the queue stop before the end, by name, and who goes on from there. Pure.

A cap is never taken for the whole: whoever meets one asks again until less comes, or says that it stopped there. In
sql/queries.sql a LIMIT is 1 (a look at the nearest), or one of these: `:name`, whose number is filled in since a plan
is only good when it knows that; `%(name)s`, where a caller may want fewer. tests/queue/test_caps.py holds that rule,
and goes past every one of them on both queues.
"""

from __future__ import annotations

from typing import NamedTuple


class Cap(NamedTuple):
    most: int
    then: str
    """Who asks again, or how it is said."""


CAPS = {
    # Of ranges, in `lease`:
    "leased": Cap(64, "the dispatcher leases again as long as anything is ready"),
    "counted": Cap(1000, "`Grant.at_least` names the counts that stopped"),
    "counted_ready": Cap(200, "`Grant.at_least`; counted with every lease, so fewer"),
    "hopped": Cap(2000, "where more ranges are ready their jobs are found by hopping along the index"),
    "listed": Cap(100, "further shapes of a job are looked up for each range"),
    # A statement must not take as long as a silent connection is believed:
    "judged": Cap(10_000, "settling.judge goes on with the next waiting ranges"),
    "doomed": Cap(10_000, "the statement releases nothing, and settling.judge asks again, until fewer are cancelled"),
    "retried": Cap(100_000, "changes.retry goes on behind the last; leases of the job wait about a second for each"),
    # Pages of what may be large:
    "needs": Cap(5000, "changes.needs asks for what lies behind the last"),
    "places": Cap(1 << 14, "places.places asks for what lies behind the last, until nothing comes"),
    "lines": Cap(2000, "a cursor of client.tasks fetches until nothing comes"),
    "piece": Cap(8192, "loading.Loading sends piece after piece of tasks"),
    "ranges": Cap(20_000, "loading.Loading ends its COPY, writes the ranges, begins another"),
}


def cap(name: str) -> int:
    """Looked up when it is needed, so that a test can lower it."""
    return CAPS[name].most
