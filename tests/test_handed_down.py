"""What tasks inherit of what only their run was told."""

from __future__ import annotations

from pathlib import Path

import pytest

from mpifarm.errors import UsageError
from mpifarm.server.dsn import find_dsn
from mpifarm.startup.handed_down import withhold


@pytest.mark.parametrize(
    ("argv", "environ", "left"),
    [
        ([], {}, {}),
        ([], {"MPIFARM_DSN": "password=x"}, {"MPIFARM_DSN_WITHHELD": "1"}),
        (["--dsn", "password=x"], {}, {"MPIFARM_DSN_WITHHELD": "1"}),
        (["--dsn=password=x"], {"MPIFARM_DSN": "host=y"}, {"MPIFARM_DSN_WITHHELD": "1"}),
        (["--pass-dsn"], {"MPIFARM_DSN": "host=y"}, {"MPIFARM_DSN": "host=y"}),
        (["--pass-dsn", "--dsn", "host=x"], {"MPIFARM_DSN": "host=y"}, {"MPIFARM_DSN": "host=x"}),
        (["--pass-dsn"], {"MPIFARM_DSN": "host=y", "MPIFARM_DSN_WITHHELD": "1"}, {"MPIFARM_DSN": "host=y"}),
        ([], {"MPIFARM_LOCAL_SETTINGS": "A,B", "A": "1", "B": "2", "C": "3"}, {"C": "3"}),
    ],
)
def test_a_dsn_is_not_handed_down_unless_asked(argv: list[str], environ: dict[str, str], left: dict[str, str]) -> None:
    withhold(argv, environ)
    assert environ == left


def test_an_mpifarm_in_a_task_takes_no_other_queue(tmp_path: Path) -> None:
    environ = {"HOME": str(tmp_path)}
    assert find_dsn(None, environ, tmp_path).embedded
    withhold(["--dsn", "host=db password=s3cret"], environ)
    with pytest.raises(UsageError, match="--pass-dsn"):
        find_dsn(None, environ, tmp_path)
    assert find_dsn("host=x", environ, tmp_path).text == "host=x"
