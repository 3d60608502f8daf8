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
    "mpi4py": ["rank/comm.py"],
    "psycopg": ["queue/"],
    "h5py": ["runfile/"],
    "click": ["cli/"],
    "subprocess": ["process.py"],
}
"""An outside world and the only places that may import it."""

PURE_FORBIDDEN = {
    "os", "time", "random", "socket", "subprocess", "threading", "select", "selectors", "signal", "pathlib", "sys",
    "mpi4py", "psycopg", "h5py", "click", "numpy", "rich", "datetime", "tempfile", "multiprocessing", "asyncio",
}  # fmt: skip

ROOMS = [
    "__main__", "cli", "api", "commands", "page", "outputs", "selection", "rank", "show", "intake",
    "queue", "server", "runfile.repairing", "runfile", "launch", "calls",
    "units", "core.dispatcher", "core.leader", "core.launcher", "core.recorder", "core.protocol", "core.job", "core",
    "startup", "process", "errors",
]  # fmt: skip
"""Every room of the package; each may import what stands behind it here, and nothing before."""

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


def _module(path: Path) -> str:
    """What it is imported as, below `mpifarm`."""
    return ".".join(path.relative_to(PACKAGE).with_suffix("").parts).removesuffix("__init__").removesuffix(".")


def _room(module: str) -> str:
    """The longest name of a room that `module` stands in; "" for the package itself, which imports only when asked."""
    parts = module.split(".")
    while parts and ".".join(parts) not in ROOMS:
        parts.pop()
    return ".".join(parts)


@cache
def _arrows(path: Path) -> frozenset[str]:
    """Modules of the package that this one imports, also inside of functions and for types alone."""
    modules = {_module(each) for each in MODULES}
    found = set()
    for node in ast.walk(_tree(path)):
        if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "mpifarm":
            above = (node.module or "").removeprefix("mpifarm").lstrip(".")
            for alias in node.names:
                inside = f"{above}.{alias.name}".lstrip(".")
                found.add(inside if inside in modules else above)
        elif isinstance(node, ast.Import):
            found |= {a.name.removeprefix("mpifarm.") for a in node.names if a.name.startswith("mpifarm.")}
    return frozenset(found - {_module(path), ""})


def test_core_is_pure() -> None:
    for path in (PACKAGE / "core").rglob("*.py"):
        for name in _imports(path):
            assert name.split(".")[0] not in PURE_FORBIDDEN, f"{_name(path)} imports {name}"
            assert not name.startswith("mpifarm") or name.startswith("mpifarm.core"), f"{_name(path)} imports {name}"


def test_every_module_stands_in_a_room() -> None:
    lost = [_name(path) for path in MODULES if path != PACKAGE / "__init__.py" and not _room(_module(path))]
    assert not lost


def test_arrows_between_rooms_point_downwards() -> None:
    rank = {room: level for level, room in enumerate(ROOMS)}
    wrong = [
        f"{_name(path)} imports {arrow}"
        for path in MODULES
        if path != PACKAGE / "__init__.py"
        for arrow in _arrows(path)
        if rank[_room(_module(path))] > rank[_room(arrow)]
    ]
    assert not wrong, "imports of what stands above"


def test_no_circle_of_modules() -> None:
    left = {_module(path): set(_arrows(path)) for path in MODULES if path != PACKAGE / "__init__.py"}
    while ends := {module for module, arrows in left.items() if not arrows & left.keys()}:
        for module in ends:
            del left[module]
    assert not left, "these import each other in a ring, or what does"


def test_module_names_are_unique() -> None:
    names = [path.stem for path in MODULES if path.stem not in {"__init__", "__main__"}]
    assert sorted(names) == sorted(set(names))


def test_every_verb_has_its_file() -> None:
    """What `mpifarm VERB` does stands in `commands/VERB.py`; `run` is a rank's start-up."""
    from mpifarm.cli.main import mpifarm

    files = {verb: PACKAGE / "commands" / f"{verb}.py" for verb in mpifarm.commands}
    files["run"] = PACKAGE / "rank" / "run.py"
    assert not [verb for verb, file in files.items() if not file.is_file()]
    shared = {path.stem for path in (PACKAGE / "commands").glob("*.py")} - set(files) - {"__init__"}
    assert shared == {"answer", "meant", "as_taskfile", "why_pending"}, "neither a verb nor what verbs share"


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


SAID = {"CREATE ROLE "}
"""SQL that is no statement of ours: somebody else is asked to type it."""


def test_sql_stands_in_sql() -> None:
    """No text of Python is a statement, or a piece of one by which another is edited."""
    statement = re.compile(
        r"\A\s*(SELECT|INSERT|UPDATE|DELETE|WITH|COPY|SET|CREATE|ALTER|DROP|GRANT|TRUNCATE|LOCK|DO)\b"
        r"|\b(SKIP LOCKED|ON CONFLICT|FOR UPDATE|FROM mpifarm\.|INTO mpifarm\.)"
    )
    for path in MODULES:
        if not re.search(r"\b[A-Z]{2,} ", path.read_text()):
            continue
        spoken = {id(node.value) for node in ast.walk(_tree(path)) if isinstance(node, ast.Expr)}
        for node in ast.walk(_tree(path)):
            if isinstance(node, ast.Constant) and id(node) not in spoken and isinstance(node.value, (str, bytes)):
                text = node.value if isinstance(node.value, str) else node.value.decode("latin-1")
                assert text in SAID or not statement.search(text), f"{_name(path)}:{node.lineno}: {text[:60]}"


def test_words() -> None:
    banned = re.compile(r"\b(class|def)\s+\w*(manager|handler|helper|util)\w*|\b(TODO|FIXME|XXX)\b", re.IGNORECASE)
    for path in MODULES:
        assert not (found := banned.search(path.read_text())), f"{_name(path)}: {found.group()}"


@pytest.mark.parametrize(
    ("module", "never"),
    [
        ("mpifarm.cli.main", {"mpi4py", "numpy", "h5py", "psycopg", "rich"}),
        ("mpifarm.rank.run", {"mpi4py", "numpy", "h5py", "psycopg", "click", "rich"}),
        ("mpifarm.rank.comm", {"numpy", "h5py", "psycopg", "click", "rich"}),
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


# A count in a sentence agrees with its noun: whatever counts for people goes through `core.plural.counted`.

_NOUNS = (
    "tasks jobs runs nodes files outputs attempts ranks slots rows lines records commands connections times ranges keys"
    " names cores launchers copies processes seconds minutes"
)
_COUNTED = re.compile(rf" (?:[a-z]+ )?(?:{_NOUNS.replace(' ', '|')})\b")


def _miscounted(path: Path) -> list[str]:
    """Numbers that are put right before a plural, but constants: those are never 1."""
    found = []
    for text in ast.walk(_tree(path)):
        if isinstance(text, ast.JoinedStr):
            for value, after in zip(text.values, text.values[1:]):
                if isinstance(value, ast.FormattedValue) and isinstance(after, ast.Constant) and _counts(value):
                    said = _COUNTED.match(str(after.value))
                    if said:
                        found.append(f"{_name(path)}:{value.lineno}: {ast.unparse(value)}{said[0]}")
    return found


def _counts(value: ast.FormattedValue) -> bool:
    """Whether it is a number, as far as the text of the program tells; one with a `,` is."""
    name = ast.unparse(value.value)
    grouped = value.format_spec is not None and "," in ast.unparse(value.format_spec)
    plain = isinstance(value.value, ast.Name | ast.Attribute) or name.startswith(("len(", "sum("))
    shown = grouped or (plain and value.format_spec is None and value.conversion < 0)
    return shown and not name.strip("_").isupper() and name != "per_s"


def test_one_task_is_not_1_tasks() -> None:
    assert [wrong for path in MODULES for wrong in _miscounted(path)] == []
