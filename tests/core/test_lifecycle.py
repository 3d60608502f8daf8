"""The table of a task's life: nothing in it is unreachable, and what is drawn and checked elsewhere says the same."""

from __future__ import annotations

import re
from pathlib import Path

from mpifarm.core.lifecycle import MOVES, OUTCOMES, TaskState, Verb
from mpifarm.core.model import FailureClass, State

PACKAGE = Path(__file__).parents[2] / "mpifarm"


def picture() -> str:
    """As ARCHITECTURE.md shows it."""
    rows = [["", *(verb.value for verb in Verb)]]
    for state in TaskState:
        reached = ([to.value for to in TaskState if to in MOVES.get((state, verb), ())] for verb in Verb)
        rows.append([state.value, *(" / ".join(names) or "-" for names in reached)])
    rows.insert(1, ["---"] * len(rows[0]))
    return "\n".join("| " + " | ".join(row) + " |" for row in rows) + "\n"


def test_architecture_shows_the_table() -> None:
    assert picture() in (PACKAGE / "ARCHITECTURE.md").read_text(), f"paste this:\n{picture()}"


def test_every_state_is_reached_and_left() -> None:
    assert {state for reached in MOVES.values() for state in reached} == set(TaskState) == {state for state, _ in MOVES}
    assert {verb for _, verb in MOVES} == set(Verb)
    assert all(state not in reached for (state, _), reached in MOVES.items())


def test_the_end_of_an_attempt_is_the_end_of_its_task_unless_it_is_returned() -> None:
    assert frozenset(OUTCOMES.values()) == MOVES[TaskState.RUNNING, Verb.RECORD]
    assert {state for state in State if state.final} == set(OUTCOMES)


def test_the_tables_refuse_what_there_is_not() -> None:
    """The CHECKs of the schema count states and failure classes as the model does."""
    text = (PACKAGE / "queue/sql/schema.sql").read_text()
    checks = {
        (table, column): (int(lo), int(hi))
        for table, body in re.findall(r"CREATE TABLE mpifarm\.(\w+) \((.*?)^\);", text, re.DOTALL | re.MULTILINE)
        for column, lo, hi in re.findall(r"CHECK \((\w+) BETWEEN (\d+) AND (\d+)\)", body)
    }
    failures = (min(FailureClass), max(FailureClass))
    assert checks == {
        ("outcome", "state"): (min(OUTCOMES), max(OUTCOMES)),
        ("outcome", "failure"): failures,
        ("past", "state"): (min(State), max(State)),
        ("past", "failure"): failures,
    }
