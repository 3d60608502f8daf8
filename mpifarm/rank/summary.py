"""The last line of a run: what became of its tasks, and how busy its slots were."""

from __future__ import annotations

from mpifarm.core.dispatcher.ledger import Ledger
from mpifarm.core.model import State
from mpifarm.core.plural import counted


def summary(ledger: Ledger, slots: int, wall_s: float, path: str) -> str:
    """One sentence. `path`: of the run file, if there is one."""
    ended = ledger.ended
    counts = [f"{ended[State.SUCCEEDED]:,} succeeded", f"{ended[State.FAILED]:,} failed"]
    if ended[State.CANCELLED]:
        counts.append(f"{ended[State.CANCELLED]:,} cancelled")
    if ended[State.RETURNED]:
        counts.append(f"{ended[State.RETURNED]:,} cut short and returned to the queue")
    if ledger.retried:
        counts.append(f"{counted(ledger.retried, 'failed attempt')} to run again")
    used = 100 * ledger.busy_s / (slots * wall_s) if wall_s > 0 else 0.0
    return f"{', '.join(counts)}; slots used {used:.0f} % of {wall_s:.1f} s; outputs in {path or 'no file'}"
