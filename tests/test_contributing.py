"""CONTRIBUTING.md cannot rot: each of its recipes is followed on a copy of the repository, whose fast tests then pass,
and the files that answer its questions are there."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest

from mpifarm.core.lifecycle import STATES
from tests.recipes import failure_class, submit_option, verb

ROOT = Path(__file__).resolve().parent.parent
TEXT = (ROOT / "mpifarm" / "CONTRIBUTING.md").read_text()
RECIPES = {"a verb": verb, "a submit option": submit_option, "a failure class": failure_class}


def _followed(recipe: ModuleType, copy: Path) -> set[str]:
    """Apply it to the copy. Returns the files it touched."""
    for name, text in recipe.NEW.items():
        assert not (copy / name).exists()
        (copy / name).write_text(text)
    for name, anchor, instead in recipe.EDITS:
        text = (copy / name).read_text()
        assert anchor in text, f"{name} has no {anchor!r} any more: bring the recipe up to date"
        (copy / name).write_text(text.replace(anchor, instead))
    return {*recipe.NEW, *(name for name, _, _ in recipe.EDITS)}


@pytest.mark.slow
@pytest.mark.postgres
@pytest.mark.parametrize("name", RECIPES)
def test_recipe(name: str, tmp_path: Path) -> None:
    recipe, copy = RECIPES[name], tmp_path / "copy"
    shutil.copytree(ROOT, copy, ignore=shutil.ignore_patterns(".*", "*.egg-info", "__pycache__", "benchmarks"))
    touched = _followed(recipe, copy)
    assert len(touched) <= recipe.FILES_MAX
    (told,) = re.findall(rf"^## To add {name}\n(.*?)(?=^## |\Z)", TEXT, re.DOTALL | re.MULTILINE)
    named = re.findall(r"^\d\. `([\w/.]+)`", told, re.MULTILINE)
    assert [recipe.CALLED.get(file, file) for file in sorted(touched)] == sorted(f"mpifarm/{file}" for file in named)
    environ = {**os.environ, "PYTHONPATH": str(copy)}

    def run(*words: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", *words],
            cwd=copy,
            env=environ,
            capture_output=True,
            text=True,
            timeout=240,
            check=False,
        )

    words, expected = recipe.SAYS
    said = run("mpifarm", *words)
    assert expected in said.stdout + said.stderr
    done = run("pytest", "-q", "-x", "-p", "no:cacheprovider", "-k", "not top_level", *recipe.TESTS)
    assert done.returncode == 0, done.stdout[-3000:]


def test_the_answers_are_there() -> None:
    answers = re.findall(r"^\| (.+\?) \| (.+) \|$", TEXT, re.MULTILINE)
    assert len(answers) == 10
    for question, files in answers:
        for file in re.findall(r"`([\w/.]+)`", files):
            assert (ROOT / "mpifarm" / file).is_file(), f"{question} {file}"


def test_one_screen_of_concepts() -> None:
    text = (ROOT / "mpifarm" / "CONCEPTS.md").read_text()
    assert text.count("\n") <= 60
    assert all(state in text for state in STATES)
    for file in re.findall(r"\]\(([^)]+)\)", text):
        assert (ROOT / "mpifarm" / file).is_file()
