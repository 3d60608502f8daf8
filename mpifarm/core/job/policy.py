"""A job as those see it who run its tasks: where they start, and what it wants done with their attempts. Pure.

It is sent to each leader once; the queue keeps the policy as JSON.
"""

from __future__ import annotations

from typing import NamedTuple

from mpifarm.core.model import FailureClass, JobId

CRASH_LIMIT = 5
"""Nodes that one task may be lost with, unless its job says otherwise (HyperQueue's number)."""


class RetryRule(NamedTuple):
    """Failures of one class, or of one exit code or signal in it, run again so often."""

    failure: FailureClass
    code: int | None
    """Exit code (EXIT) or signal (SIGNAL); None: any."""
    retries: int


class Policy(NamedTuple):
    """The defaults retry nothing and keep everything."""

    retries: int = 0
    """How often a failed attempt of a task runs again. What walltime or a lost node ended is not counted."""
    rules: tuple[RetryRule, ...] = ()
    """The first that fits a failure says how often; with rules, a failure that fits none is not run again."""
    crash_limit: int = CRASH_LIMIT
    """A task that was lost with so many nodes has failed; 0: never."""
    keep: str = "all"
    """Of its outputs: all, failed, none, or tail:BYTES."""
    capture: tuple[str, ...] = ()
    """Patterns of files in the task's directory that go into the run file."""

    def to_json(self) -> dict[str, object]:
        """Only what differs from the defaults."""
        wishes = {name: value for name, value in self._asdict().items() if value != self._field_defaults[name]}
        if self.rules:
            wishes["rules"] = [[rule.failure.name.lower(), rule.code, rule.retries] for rule in self.rules]
        if self.capture:
            wishes["capture"] = list(self.capture)
        return wishes

    @classmethod
    def from_json(cls, wishes: dict[str, object]) -> Policy:
        """What `to_json` made; names that a newer mpifarm added are left out."""
        known = {name: value for name, value in wishes.items() if name in cls._fields}
        rules, capture = known.get("rules"), known.get("capture")
        if isinstance(rules, list):
            known["rules"] = tuple(RetryRule(FailureClass[name.upper()], code, times) for name, code, times in rules)
        if isinstance(capture, list):
            known["capture"] = tuple(capture)
        return cls(**known)  # type: ignore[arg-type]


class JobText(NamedTuple):
    """What all tasks of a job share. `cwd`: the directory they start in."""

    id: JobId
    name: str
    cwd: bytes
    policy: Policy = Policy()
