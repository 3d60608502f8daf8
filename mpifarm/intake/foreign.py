"""Knows what people have from elsewhere: batch scripts, other runners' lists, directives and variables. Opens no file.

What another runner would obey is never a mere comment here: it is refused by name, with what to write instead. So is a
slip of the hand in `#MPIFARM`. `# MPIFARM` with a blank, `# anything` and `#anything else` are comments.
"""

from __future__ import annotations

import os
import re
from functools import lru_cache

from mpifarm.intake.parents import Unclear
from mpifarm.intake.replacement import quote
from mpifarm.intake.told import Tell

_SCRIPT = re.compile(
    rb"(#!(?=[ \t]*/)|#(?:SBATCH|PBS|BSUB|COBALT|PJM|OAR|MSUB)(?=[ \t]|$)|#\$(?=[ \t]*-)"
    rb"|#[ \t]*(?:flux|FLUX):(?=[ \t]*-)|#(?:flux|FLUX)(?=:|[ \t]+-))"
)
_ARRAY = re.compile(rb"^#(?:SBATCH|HQ)[ \t]+(?:--array|-a)[= \t]*([0-9][-0-9,:]*)", re.MULTILINE)
_RUNNER = re.compile(rb"#(DISBATCH|HQ|METAQ)(?=[ \t:]|$)[ \t]*(\w*)")
_HYPERSHELL = re.compile(rb"#[ \t]*HYPERSHELL\b:?")
_NEAR = re.compile(rb"(#+)([A-Za-z][A-Za-z_-]*)")

_INSTEAD = {
    b"BARRIER": "write #MPIFARM BARRIER, or #MPIFARM BARRIER CHECK, which wants success",
    b"REPEAT": "write mpifarm submit --array 10-18:2 -- 'COMMAND {}'",
    b"PREFIX": "write it into every line",
    b"SUFFIX": "write it into every line",
}
_OWNER = {b"DISBATCH": "disBatch", b"HQ": "HyperQueue", b"METAQ": "METAQ"}

VARIABLES = {
    "MPIFARM_TASK": (
        b"LAUNCHER_TSK_ID", b"LAUNCHER_JID", b"DISBATCH_TASKID", b"DISBATCH_TASKID_ZP", b"HQ_TASK_ID", b"PARALLEL_SEQ",
        b"TASK_ID", b"SLURM_PROCID", b"METAQ_TASK_ID",
    ),
    "MPIFARM_ENTRY": (
        b"SLURM_ARRAY_TASK_ID", b"PBS_ARRAY_INDEX", b"PBS_ARRAYID", b"LSB_JOBINDEX", b"SGE_TASK_ID", b"HQ_ENTRY",
        b"COBALT_ARRAY_INDEX", b"DISBATCH_REPEAT_INDEX", b"AWS_BATCH_JOB_ARRAY_INDEX", b"FLUX_JOB_CC", b"TASK_ARGS",
    ),
}  # fmt: skip
"""Of other runners, by the one that says the same here."""
_VARIABLE = re.compile(
    rb"\$\{?(" + b"|".join(name for names in VARIABLES.values() for name in names) + rb")(?!\w|:?[-=])"
)


def check_comment(line: bytes, start: int, name: str, text: bytes) -> None:
    """Refuse what another runner would obey in a line whose `#` is at `start`. `text`: what else of the file is known.

    Raises Unclear."""
    script = _SCRIPT.match(line, start)
    if script is not None:
        mark = script[1].decode()
        raise Unclear(start, f"{mark} begins a script{_not_by_line(mark)}: {script_command(name, line, text)}")
    runner = _RUNNER.match(line, start)
    if runner is not None:
        instead = _INSTEAD.get(runner[2], "for #MPIFARM there are --cpus, --time-limit and BARRIER [CHECK]")
        raise Unclear(start, f"this is a directive of {_OWNER[runner[1]]}, which mpifarm does not obey: {instead}")
    near = _NEAR.match(line, start)
    if near is not None and _near(near[2]):
        raise Unclear(start, "did you mean #MPIFARM? (a comment that begins so needs a blank after the #)")
    check_hypershell(line)


def check_hypershell(line: bytes) -> None:
    """Raises Unclear for what a task needs in the manner of HyperShell, at the end of its line."""
    found = _HYPERSHELL.search(line)
    if found is not None:
        raise Unclear(found.start(), "this says what a task needs to HyperShell, and mpifarm does not obey it: write"
                      " #MPIFARM --cpus 4 --time-limit 10m in a line before")  # fmt: skip


@lru_cache(maxsize=4096)
def _near(word: bytes) -> bool:
    letters = word.upper().replace(b"_", b"").replace(b"-", b"")
    if letters.startswith(b"MPIFARM"):
        return True
    if not 5 <= len(letters) <= 9 or len(set(letters) & set(b"MPIFAR")) < 5:
        return False
    from difflib import SequenceMatcher

    return SequenceMatcher(None, letters.decode(), "MPIFARM").ratio() > 0.8


def _not_by_line(mark: str) -> str:
    return ", and line by line it would do something else" if mark == "#!" else "; here it is the directive of nobody"


def script_command(name: str, line: bytes, text: bytes) -> str:
    """How the script is submitted as one task, or as the array that it is."""
    if name == "stdin":
        return "write it to a file and submit that: mpifarm submit -- ./script.sh"
    path = name if "/" in name else f"./{name}"
    shebang = re.match(rb"#![ \t]*(\S+)(?:[ \t]+(\S+))?", text if text.startswith(b"#!") else line)
    program = "" if os.access(path, os.X_OK) else "bash "
    if program and shebang is not None:
        interpreter = shebang[2] if shebang[1].endswith(b"/env") and shebang[2] else shebang[1].rpartition(b"/")[2]
        program = f"{interpreter.decode('utf-8', 'replace')} "
    array = _ARRAY.search(text)
    repeated = f"--array {array[1].decode()} " if array else ""
    shown = quote(os.fsencode(path)).decode("utf-8", "replace")
    number = " (its number is in MPIFARM_ENTRY)" if array else ""
    return f"mpifarm submit {repeated}-- {program}{shown}{number}"


# What stands first in files of other kinds.

_FIRST: tuple[tuple[re.Pattern[bytes], str], ...] = (
    (
        re.compile(rb"[0-9]+,(?=\S)"),
        "the number before the comma is PyLauncher's count of cores: write #MPIFARM --cpus N in a line before",
    ),
    (
        re.compile(rb'"?[A-Za-z_]\w*"?(?:,"?[\w.%-]*"?)+$'),
        "this looks like the header of a table, not like a command: mpifarm submit --each-line FILE -- COMMAND {} takes"
        " its lines, --from-json FILE -- COMMAND {name} takes JSON lines made from it",
    ),
    (
        re.compile(rb'\{[ \t]*"|\[[ \t]*(?:\{|\[|"|$)'),
        "this looks like JSON and not like a command: mpifarm submit --from-json FILE -- COMMAND {name}",
    ),
    (
        re.compile(rb"[\w./%-]+[ \t]*:(?:[ \t]|$)"),
        "this looks like a rule of a makefile, not like a command: write one command a line, [# 1-2 #] before one that"
        " waits for tasks 1 and 2",
    ),
)


def check_first(command: bytes) -> None:
    """Refuse the first command of a file that begins as another kind of file does. Raises Unclear."""
    text = command.lstrip(b" \t")
    for pattern, reason in _FIRST:
        if pattern.match(text):
            raise Unclear(len(command) - len(text), reason)


def foreign_variable(text: bytes) -> tuple[int, str] | None:
    """The first variable of another runner that is used in the text but in its comment lines: where, and a warning."""
    for match in _VARIABLE.finditer(text):
        start = text.rfind(b"\n", 0, match.start()) + 1
        line = text[start : match.end()]
        if not line.lstrip(b" \t").startswith(b"#") and match[1] + b"=" not in line:
            ours = next(ours for ours, names in VARIABLES.items() if match[1] in names)
            what = "the number of a task" if ours == "MPIFARM_TASK" else "the value a task was made from (--array 1-9)"
            return match.start(), f"nothing sets {match[1].decode()} here: {what} is in {ours}"
    return None


class ForeignVariables:
    """Tells of the first variable of another runner in the commands of one source. `name`: of the source."""

    def __init__(self, name: str, tell: Tell) -> None:
        self._name, self._tell = name, tell
        self._told = False

    def look(self, text: bytes, number: int, *, lines: bool = False) -> None:
        """At the command of this number; or (`lines`) at a text that begins with the line of this number."""
        found = None if self._told or b"$" not in text else foreign_variable(text)
        if found is not None:
            self._told = True
            if lines:
                number += text.count(b"\n", 0, found[0])
            self._tell(f"warning: {self._name}:{number}: {found[1]}")
