"""The rules of the house, read from the source: who may import what, how big things may grow, which words are out."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PACKAGE = ROOT / "mpifarm"
MODULES = sorted(PACKAGE.rglob("*.py"))

DOORS = {
    "mpi4py": ["comm.py"],
    "psycopg": ["queue/"],
    "h5py": ["output/"],
    "click": ["cli"],
    "subprocess": ["process.py"],
}
"""An outside world and the only places that may import it."""

PURE_FORBIDDEN = {
    "os", "time", "random", "socket", "subprocess", "threading", "select", "selectors", "signal", "pathlib", "sys",
    "mpi4py", "psycopg", "h5py", "click", "numpy", "rich", "datetime", "tempfile", "multiprocessing", "asyncio",
}  # fmt: skip

LAYERS = [
    {"api", "cli", "farm", "__main__", "run", "local", "loop"},  # and cli_*
    {"reporting", "intake", "doors", "file_door", "pack_door", "progress", "advice"},
    {"queue", "comm", "launch", "output", "allocation", "process"},
    {"core"},
    {"errors"},
]

MODULE_LINES, FUNCTION_LINES, PARAMETERS = 350, 70, 8
"""Limits that are only ever lowered."""


def _name(path: Path) -> str:
    return path.relative_to(PACKAGE).as_posix()


@cache
def _tree(path: Path) -> ast.Module:
    return ast.parse(path.read_text())


@cache
def _imports(path: Path) -> tuple[str, ...]:
    names: list[str] = []
    for node in ast.walk(_tree(path)):
        if isinstance(node, ast.Import):
            names += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            names.append(node.module or "")
    return tuple(names)


@pytest.mark.parametrize("door", DOORS)
def test_one_door_per_outside_world(door: str) -> None:
    wrong = [
        _name(path)
        for path in MODULES
        if door in {name.split(".")[0] for name in _imports(path)}
        and not any(_name(path).startswith(allowed) for allowed in DOORS[door])
    ]
    assert not wrong, f"{door} may be imported only by {DOORS[door]}"


def _room(name: str) -> str:
    return "cli" if name.startswith("cli_") else name


def test_core_is_pure() -> None:
    for path in (PACKAGE / "core").glob("*.py"):
        for name in _imports(path):
            assert name.split(".")[0] not in PURE_FORBIDDEN, f"{_name(path)} imports {name}"
            assert not name.startswith("mpifarm") or name.startswith("mpifarm.core"), f"{_name(path)} imports {name}"


def test_imports_point_downwards() -> None:
    rank = {name: level for level, names in enumerate(LAYERS) for name in names}
    for path in MODULES:
        above = rank.get(_room(_name(path).split("/")[0].removesuffix(".py")))
        for name in _imports(path):
            parts = name.split(".")
            below = rank.get(_room(parts[1])) if parts[0] == "mpifarm" and len(parts) > 1 else None
            if above is not None and below is not None:
                assert above <= below, f"{_name(path)} imports {name}, which stands above it"


@pytest.mark.parametrize("path", MODULES, ids=_name)
def test_size(path: Path) -> None:
    text = path.read_text()
    assert text.count("\n") <= MODULE_LINES, "does it hold one thing?"
    for node in ast.walk(_tree(path)):
        if isinstance(node, ast.FunctionDef):
            lines = (node.end_lineno or node.lineno) - node.lineno + 1
            assert lines <= FUNCTION_LINES, f"{node.name}: {lines} lines"
            if not any("command" in ast.unparse(d) or "option" in ast.unparse(d) for d in node.decorator_list):
                count = len(node.args.args) + len(node.args.kwonlyargs)
                assert count <= PARAMETERS, f"{node.name}: {count} parameters"


def test_every_module_says_what_it_is_for() -> None:
    for path in MODULES:
        assert ast.get_docstring(_tree(path)), _name(path)


def test_words() -> None:
    banned = re.compile(r"\b(class|def)\s+\w*(manager|handler|helper|util)\w*|\b(TODO|FIXME|XXX)\b", re.IGNORECASE)
    for path in MODULES:
        assert not (found := banned.search(path.read_text())), f"{_name(path)}: {found.group()}"


@pytest.mark.parametrize(
    ("module", "never"),
    [
        ("mpifarm.cli", {"mpi4py", "numpy", "h5py", "psycopg", "rich"}),
        ("mpifarm.run", {"mpi4py", "numpy", "h5py", "psycopg", "click", "rich"}),
        ("mpifarm.comm", {"numpy", "h5py", "psycopg", "click", "rich"}),
        ("mpifarm.launch.launcher", {"mpi4py", "numpy", "h5py", "psycopg", "click", "rich"}),
    ],
)
def test_what_a_process_loads(module: str, never: set[str]) -> None:
    """On a login node importing MPI is a failure; workers must not load what only rank 0 needs."""
    code = f"import {module}, sys; print(*sorted({{name.split('.')[0] for name in sys.modules}}))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=30, check=True)
    assert not never & set(done.stdout.split())


def test_top_level_holds_the_agreed_names() -> None:
    listed = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=False)
    tops = {line.split("/")[0] for line in listed.stdout.splitlines()}
    allowed = {"pyproject.toml", "README.md", "LICENSE", "mpifarm", "jobscripts", "tests", "benchmarks"}
    assert {top for top in tops if not top.startswith(".")} <= allowed
