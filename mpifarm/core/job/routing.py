"""Which jobs a run takes, by the words of its --tags. The lease statement says the same in SQL. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence


def route(words: Sequence[str], tags: Mapping[str, str]) -> int | None:
    """The place of the first word that fits a job with these tags: NAME, NAME=VALUE or *. None: none does."""
    if not words:
        return 0
    return next((nth for nth, word in enumerate(words) if _fits(word, tags)), None)


def _fits(word: str, tags: Mapping[str, str]) -> bool:
    name, equals, value = word.partition("=")
    return word in ("*", *tags) or (bool(equals) and tags.get(name) == value)
