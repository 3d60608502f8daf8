"""Leases of runs that are dead, and how what they still own goes back to `ready`. Imports no psycopg of its own.

Part of `queue.run_verbs` (any run does this) and of `queue.people_verbs` (`mpifarm recover`).
"""

from __future__ import annotations

from mpifarm.core.model import RunId
from mpifarm.queue.arrays import Int4s, Int8s
from mpifarm.queue.connection import Connection
from mpifarm.queue.dependants import cancel_unleased
from mpifarm.queue.statements import queries
from mpifarm.server.liveness import surely_gone

SQL = queries()


def dead_runs(connection: Connection, lease_s: float) -> list[RunId]:
    """Those that hold leases and ended, were not heard of for `lease_s` seconds, or are processes of this host that
    are gone."""
    holders = connection.execute(SQL["holders"], {"lease_s": lease_s}).fetchall()
    return [run for run, *process, dead in holders if dead or surely_gone(*process)]


def put_back(connection: Connection, runs: list[RunId], *, waiting: bool = False) -> int:
    """Return what the leases of these runs still own; the number of tasks. Inside a transaction. Leases at which
    others are at work are left alone, or `waiting` for."""
    lock = SQL["lock_leases_waiting" if waiting else "lock_leases"]
    leases = [lease for (lease,) in connection.execute(lock, {"runs": Int4s(runs)})]
    if not leases:
        return 0
    left = connection.execute(SQL["put_back"], {"leases": Int8s(leases)}).fetchall()
    # What people had asked these runs to end must not begin again.
    for run, job, lo, hi in connection.execute(SQL["requests"], {"runs": Int4s(runs)}).fetchall():
        for of_run, of_job, first, end in left:
            if (of_run, of_job) == (run, job) and first < hi and lo < end:
                cancel_unleased(connection, job, (max(lo, first), min(hi, end)))
    return sum(end - first for _, _, first, end in left)
