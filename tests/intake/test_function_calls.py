"""`submit --function`: what becomes of values, numbers, lines and JSON."""

from __future__ import annotations

import io
from pathlib import Path

import pytest

from mpifarm.core.model import Kind
from mpifarm.core.needs import Needs
from mpifarm.errors import UsageError
from mpifarm.intake.expand import Expansion
from mpifarm.intake.function_calls import expand_calls

NEEDS = Needs(cpus=2)


def bodies(asked: Expansion, function: str = "pkg.mod:f", stdin: bytes = b"") -> list[str]:
    parts = list(expand_calls(function, asked, NEEDS, io.BytesIO(stdin), lambda _: None))
    assert all(part.kind is Kind.FUNCTION and part.needs == NEEDS for part in parts)
    return [task.body.decode() for part in parts for task in part.tasks]


@pytest.mark.parametrize(
    ("asked", "stdin", "calls"),
    [
        (Expansion(()), b"", ["pkg.mod:f"]),
        (Expansion((":::", "a", "1")), b"", ['pkg.mod:f ["a"]', 'pkg.mod:f ["1"]']),
        (Expansion((":::", "a", ":::", "x", "y")), b"", ['pkg.mod:f ["a", "x"]', 'pkg.mod:f ["a", "y"]']),
        (Expansion((), array="1-5:2"), b"", ["pkg.mod:f [1]", "pkg.mod:f [3]", "pkg.mod:f [5]"]),
        (Expansion((), each_line="-"), "é b\nc\n".encode(), ['pkg.mod:f ["é b"]', 'pkg.mod:f ["c"]']),
        (Expansion((), from_json="-"), b'{"x": 1}\n7\nnull\n',
            ['pkg.mod:f {"x": 1}', "pkg.mod:f [7]", "pkg.mod:f [null]"]),
        (Expansion((), from_json="-"), b'[[1, "a"], {"x": {}}, []]',
            ['pkg.mod:f [1, "a"]', 'pkg.mod:f {"x": {}}', "pkg.mod:f"]),
    ],
)  # fmt: skip
def test_each_is_a_call(asked: Expansion, stdin: bytes, calls: list[str]) -> None:
    assert bodies(asked, stdin=stdin) == calls


@pytest.mark.parametrize(
    ("asked", "function", "stdin", "says"),
    [
        (Expansion(("python", "x.py")), "m:f", b"", "values stand after :::"),
        (Expansion((":::", "a"), array="1-3"), "m:f", b"", "only one of"),
        (Expansion(()), "pkg.mod.f", b"", "perhaps pkg.mod:f"),
        (Expansion(()), "f()", b"", "import path"),
        (Expansion((), from_json="-"), "m:f", b"", "no value in it"),
        (Expansion((), from_json="-"), "m:f", b"{", "stdin|-:1"),
        (Expansion((), each_line="-"), "m:f", b"\xff\n", "no text"),
        (Expansion((), array="1-99999999999"), "m:f", b"", "a job holds"),
    ],
)
def test_what_cannot_be_called_is_refused(asked: Expansion, function: str, stdin: bytes, says: str) -> None:
    with pytest.raises(UsageError, match=says):
        bodies(asked, function, stdin)


def test_values_from_files(tmp_path: Path) -> None:
    (tmp_path / "list").write_text("a\nb\n")
    assert bodies(Expansion(("::::", str(tmp_path / "list")))) == ['pkg.mod:f ["a"]', 'pkg.mod:f ["b"]']
