"""Counts in sentences: 1 task, 2,000 tasks. Pure; whoever counts something for people says it through here."""

from __future__ import annotations


def counted(count: int, noun: str, plural: str = "") -> str:
    """1 task, 2,000 tasks. `plural`: where it is not the noun with an s, as for "task has", "tasks have"."""
    return f"{count:,} {noun if count == 1 else plural or f'{noun}s'}"
