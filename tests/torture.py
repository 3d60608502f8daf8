"""Keeps the results of long campaigns: a JSON line each in tests/torture.jsonl, with date and commit."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

from benchmarks.figures import commit, now

KEPT = Path(__file__).with_suffix(".jsonl")


def keep(campaign: str, counts: Mapping[str, object]) -> None:
    """Append the result of a campaign that has ended well; one that fails leaves no line."""
    with open(KEPT, "a") as file:
        file.write(json.dumps({"campaign": campaign, **counts, "commit": commit(), "date": now()}) + "\n")
