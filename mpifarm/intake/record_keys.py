"""Knows what the keys of JSON records mean: what a task needs, what others call it, what it waits for, and data. Pure.

- What `#MPIFARM` lines say of a task, a key says, too: `"cpus": 4`, `"time_limit": "10m"`; null is as `submit` says.
- A key that the command fills in is data, whatever it is called, and so is what the task finds in its entry alone; that
  is told once. What looks as if something should obey it, and nothing does, is refused.
"""

from __future__ import annotations

from mpifarm.core.needs import Needs
from mpifarm.errors import UsageError
from mpifarm.intake.replacement import Record
from mpifarm.intake.task_options import BY_KEY, OPTIONS, PER_JOB
from mpifarm.intake.told import Tell
from mpifarm.units import listed

WAITS = ("requires", "requires_any")
_JUDGED_MAX = 10_000

_OTHERS = {
    "cpus": "cores core ncores ncpus cpu threads nthreads ntasks cpus_per_task num_cpus",
    "time_limit": "walltime timeout time_min timelimit max_time",
    "mem": "memory mem_per_task mem_per_rank ram max_memory",
    "gpus": "gpu ngpus num_gpus gpus_per_task gpus_per_rank",
    "requires": "depends depends_on dependencies dependency deps after parents",
    "requires_any": "afterany after_any",
}
"""What others call it."""
_INSTEAD = {theirs: ours for ours, names in _OTHERS.items() for theirs in names.split()}
_NOT_OBEYED = (
    "nodes", "ranks", "cwd", "workdir", "env", "stdin", "stdout", "stderr", "shell",
)  # fmt: skip
_PER_JOB = {flag[2:].replace("-", "_"): flag for flag in PER_JOB if flag not in ("--name", "--job", "--tag")}
"""Those three are words of other things, too."""


class WrongKey(UsageError):
    """A key that cannot be obeyed, with its place to be added."""

    def __init__(self, key: str, reason: str) -> None:
        super().__init__(reason)
        self.key = key


class Keys:
    """Reads the keys of the records of one source, `path`. `filled`: those the command fills in."""

    def __init__(self, filled: frozenset[str], needs: Needs, path: str, tell: Tell) -> None:
        self._filled = filled
        self._needs = needs
        self._path, self._tell = path, tell
        self._plain = {"name", *WAITS, *filled} - BY_KEY.keys()
        """That say nothing of what a task needs, as far as keys were judged."""
        self._unfilled: list[str] = []

    def needs_of(self, record: Record) -> Needs:
        """Raises WrongKey."""
        if record.keys() <= self._plain:
            return self._needs
        needs = self._needs
        for key, value in record.items():
            if key in BY_KEY:
                if value is not None:
                    try:
                        needs = BY_KEY[key].put_value(needs, value)
                    except UsageError as error:
                        raise WrongKey(key, str(error)) from None
            elif key not in self._plain:
                self._judge(key)
        return needs

    def _judge(self, key: str) -> None:
        wrong = _wrong(key)
        if wrong is not None:
            raise WrongKey(key, f"{wrong} (as data for the command it is filled in: {{{key}}})")
        if len(self._plain) < _JUDGED_MAX:
            self._plain.add(key)
            self._unfilled.append(repr(key) if len(key) < 40 else f"{key[:40]!r}...")

    def end(self) -> None:
        """All records have been read: tell of what was only handed on."""
        if self._unfilled and self._filled:
            which = f"the key {self._unfilled[0]} is" if len(self._unfilled) == 1 else f"{listed(self._unfilled)} are"
            self._tell(f"{self._path}: {which} not filled in anywhere: tasks find the whole record in MPIFARM_ENTRY")


def _wrong(key: str) -> str | None:
    """What is said against a key that nothing obeys; None: it is data."""
    word = key.lower().replace("-", "_").lstrip("_")
    meant = word if word in BY_KEY or word in WAITS else _INSTEAD.get(word)
    if meant is None:
        from difflib import get_close_matches

        known = [*WAITS, *(option.key for option in OPTIONS)]
        meant = next(iter(get_close_matches(word, known, 1, 0.85)), None)
    if meant is not None:
        return f"nothing obeys {key!r}: did you mean {meant!r}?"
    if word in _PER_JOB:
        return f"{key!r} is for all tasks of a submit, not for one record: mpifarm submit {_PER_JOB[word]}"
    return f"nothing obeys {key!r}" if word in _NOT_OBEYED else None
