"""What every test can ask for. The fixtures live beside this file, one module per outside world."""

import os
import signal

import pytest
from hypothesis import settings

settings.register_profile("fast", max_examples=10, deadline=None)  # python -m tests fast

# Under nohup or in the background of a script SIGINT comes ignored, and programs started from here would keep that.
signal.signal(signal.SIGINT, signal.default_int_handler)

pytest_plugins = ["tests.fix_pg", "tests.fix_mpi", "tests.fix_farm"]


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    """Remember what failed, for `python -m tests`."""
    if report.failed and (path := os.environ.get("MPIFARM_TESTS_FAILED")):
        with open(path, "a") as file:
            file.write(f"{report.nodeid}\n")
