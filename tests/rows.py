"""Rows of ended attempts for tests, of which only what matters is said."""

from __future__ import annotations

from typing import Any

from mpifarm.core.model import AttemptKey, JobId, LeaseId
from mpifarm.core.row import AttemptRow


def a_row(lease: int = 1, task: int = 1, attempt: int = 1, **changes: Any) -> AttemptRow:
    """An attempt of job 1 that succeeded after two seconds and said nothing."""
    row = AttemptRow(
        lease=LeaseId(lease), job=JobId(1), task=task, attempt=attempt, state=0, failure=0, exit_code=0, signal=0,
        node=1, slot=3, cpus=1, started=1e9, ended=1e9 + 2, user_s=0.5, system_s=0.25, max_rss_kib=1024,
    )  # fmt: skip
    return row._replace(**changes)


def key_of(lease: int, task: int, attempt: int) -> AttemptKey:
    return AttemptKey(LeaseId(lease), task, attempt)
