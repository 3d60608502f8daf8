"""TEMPFAIL: a program that ended with EX_TEMPFAIL (75) asks to be run again later."""

from mpifarm.core.model import FailureClass
from mpifarm.queue.statements import migrations

_VERSION = len(migrations())
_LAST = max(FailureClass)
_MIGRATION = f"mpifarm/queue/sql/migrations/{_VERSION + 1:04}_tempfail.sql"

NEW = {
    _MIGRATION: f"""\
ALTER TABLE mpifarm.outcome DROP CONSTRAINT outcome_failure_check;
ALTER TABLE mpifarm.outcome ADD CHECK (failure BETWEEN 0 AND {_LAST + 1});
ALTER TABLE mpifarm.past DROP CONSTRAINT past_failure_check;
ALTER TABLE mpifarm.past ADD CHECK (failure BETWEEN 0 AND {_LAST + 1});
"""
}

EDITS = [
    (
        "mpifarm/core/model.py",
        f"    {_LAST.name} = {_LAST.value}\n",
        f"    {_LAST.name} = {_LAST.value}\n    TEMPFAIL = {_LAST + 1}\n",
    ),
    ("mpifarm/queue/sql/schema.sql", f"(failure BETWEEN 0 AND {_LAST})", f"(failure BETWEEN 0 AND {_LAST + 1})"),
    ("mpifarm/queue/sql/schema.sql", f"meta (version) VALUES ({_VERSION})", f"meta (version) VALUES ({_VERSION + 1})"),
    (
        "mpifarm/core/launcher/verdict.py",
        "(FailureClass.SIGNAL if signal else FailureClass.EXIT)",
        "(FailureClass.SIGNAL if signal else FailureClass.TEMPFAIL if exit_code == 75 else FailureClass.EXIT)",
    ),
]

CALLED = {_MIGRATION: "mpifarm/queue/sql/migrations/NNNN_NAME.sql"}
FILES_MAX = 4
TESTS = [
    "tests/core/test_lifecycle.py",
    "tests/core/test_launching.py",
    "tests/queue/test_schema.py::test_schema_equals_migrations",
]
SAYS = (["retry", "last", "--class", "nothing"], "tempfail")
