"""Names of extracted files: no template, however it is written, names anything outside of the directory."""

from __future__ import annotations

from pathlib import PurePosixPath

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mpifarm.errors import UsageError
from mpifarm.selection.template import Template

VALUES: dict[str, int | str] = {"job": "scan", "task": 17, "attempt": 2, "stream": "out", "state": "failed"}


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("{task}.{stream}", "17.out"),
        ("{job}/{task:06}.{stream}", "scan/000017.out"),
        ("{task:06d}{{x}}.{stream}", "000017{x}.out"),
        ("{state}/{task}.{attempt}.{stream}", "failed/17.2.out"),
        ("..{task}/...{stream}", "..17/...out"),
    ],
)
def test_names(text: str, name: str) -> None:
    template = Template(text)
    assert "/".join(template.components(VALUES)) == name
    match = template.matching().fullmatch(name)
    assert match is not None
    assert int(match["task"]) == 17


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("/tmp/{task}.{stream}", "outside"),
        ("../{task}.{stream}", "outside"),
        ("a/../../{task}.{stream}", "outside"),
        ("./{task}.{stream}", "outside"),
        ("{task}//{stream}", "outside"),
        ("{task}.{stream}/", "outside"),
        ("{task}.{stream}\0", "outside"),
        ("{task}", r"without \{stream\}"),
        ("out", r"without \{task\}"),
        ("{task}.{stream}.{user}", r"there are \{task\}, \{attempt\}, \{job\}, \{stream\}, \{state\}"),
        ("{task.__class__}.{stream}", "there are"),
        ("{task!r}.{stream}", "there are"),
        ("{}.{stream}{task}", "there are"),
        ("{task:{job}}.{stream}", "not understood"),
        ("{task:/>9}.{stream}", "not understood"),
        ("{task:999999}.{stream}", "not understood"),
        ("{stream:9}.{task}", "not understood"),
        ("{task.{stream}", "cannot name files"),
        ("{task}}.{stream}", "cannot name files"),
    ],
)
def test_refused(text: str, said: str) -> None:
    with pytest.raises(UsageError, match=said):
        Template(text)


PARTS = [
    "{task}",
    "{stream}",
    "{job}",
    "{task:06}",
    "{",
    "}",
    "/",
    ".",
    "..",
    "\0",
    "{job.x}",
    "{0}",
    "a",
    " ",
    "\n",
    "-",
]


@settings(deadline=None)
@given(st.lists(st.sampled_from(PARTS), max_size=8).map("".join) | st.text())
def test_whatever_is_written_nothing_leads_outside(text: str) -> None:
    try:
        template = Template(text)
        names = template.components(VALUES)
    except UsageError:
        return
    path = PurePosixPath(*names)
    assert not path.is_absolute()
    assert ".." not in path.parts
    assert path.parts == names
    found = template.matching().fullmatch("/".join(names))
    assert found is not None
