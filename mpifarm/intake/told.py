"""How a submit says what it noticed and does not refuse: a sentence, once. Pure."""

from __future__ import annotations

from collections.abc import Callable

Tell = Callable[[str], None]


def silently(_sentence: str) -> None:
    """For who reads tasks and wants to hear nothing."""
