"""The queue in Python, by the examples in the docstrings and beyond, on a real one."""

from __future__ import annotations

import doctest
import itertools
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import mpifarm
from mpifarm import Command
from mpifarm.api import queue
from mpifarm.core.job.policy import Policy, RetryRule
from mpifarm.core.model import FailureClass, Parent, State
from mpifarm.core.needs import Needs
from mpifarm.queue import Batch
from mpifarm.server.dsn import Dsn
from tests.queue.worlds import HERE, PostgresWorld, all_ended, like_tasks, one

pytestmark = pytest.mark.postgres


@pytest.fixture
def world(pg_dsn: Dsn, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[PostgresWorld]:
    monkeypatch.setenv("MPIFARM_DSN", pg_dsn.text)
    monkeypatch.chdir(tmp_path)
    world = PostgresWorld(pg_dsn)
    yield world
    world.close()


@pytest.mark.parametrize("example", [queue.submit, queue.wait, queue.open_queue])
def test_examples(example: Any, world: PostgresWorld) -> None:
    world.submit(like_tasks(3), "scan")
    run = world.queue.open_run(HERE)
    for state in (State.SUCCEEDED, State.FAILED, State.SUCCEEDED):
        block = one(world.queue, run, 1)
        world.queue.record(run, Batch(all_ended(block, state), done=[block.lease]))
    runner = doctest.DocTestRunner()
    (found,) = doctest.DocTestFinder(recurse=False).find(example, globs={})
    said: list[str] = []
    runner.run(found, out=said.append)
    assert runner.summarize(verbose=False).failed == 0, "".join(said)
    assert found.examples


def test_everything_that_can_be_said(world: PostgresWorld, tmp_path: Path) -> None:
    mpifarm.submit(["x", "y"], name="prep")
    commands = [
        Command("a", cpus=4, time_limit="10m", name="first"),
        Command(b"b \xff", requires_any=["first", -1], time_limit=1.5),
        Command("c", requires="last"),
        "d",
        Command("e", name="last"),
    ]
    done = mpifarm.submit(
        iter(commands),
        name="scan",
        cpus=2,
        time_limit=60,
        hold=True,
        priority=-3,
        tags={"gpu": "", "owner": "ann"},
        retries=2,
        retry_on="exit:137;oom=3",
        crash_limit=0,
        max_fails=7,
        keep="tail:1K",
        capture="{task}*.log",
        after=["prep.1", "prep.2"],
        afterany="prep",
    )
    assert done.job is not None
    assert (done.tasks, done.skipped, done.before) == (5, 0, ())
    job = done.job
    rules = (RetryRule(FailureClass.EXIT, 137, 2), RetryRule(FailureClass.OOM, None, 3))
    assert job.policy == Policy(2, rules, 0, "tail:1024", ("{task}*.log",))
    assert (job.max_fails, job.held, job.priority, dict(job.tags)) == (7, True, -3, {"gpu": "", "owner": "ann"})
    assert job.cwd == str(tmp_path).encode()
    assert world.client.shapes(job.id) == [
        (1, 2, Needs(4, time_limit_s=600.0)),
        (2, 3, Needs(2, time_limit_s=1.5)),
        (3, 4, Needs(2, time_limit_s=60.0)),
        (4, 6, Needs(2, time_limit_s=60.0)),
    ]
    prep = world.client.find("prep").id
    needs = {lo: parents for lo, _, parents in world.client.needs(job.id)}
    assert set(needs[2]) - set(needs[4]) == {Parent(1, 2, True, job.id)}
    assert set(needs[3]) - set(needs[4]) == {Parent(5, 6, False, job.id)}
    assert set(needs[4]) == {Parent(1, 2, False, prep), Parent(2, 3, False, prep), Parent(1, 3, True, prep)}
    added = mpifarm.submit(["f"], job="scan")
    assert added.job is not None and added.job.total == 6
    assert mpifarm.wait("scan.1-2", timeout_s=0.0)["waiting"] == 2


def test_any_number_of_commands(world: PostgresWorld) -> None:
    done = mpifarm.submit((f"echo {number}" for number in range(25_000)), name="many")
    assert done.tasks == 25_000
    assert world.counts(world.client.find("many").id) == {"pending": 25_000}


REFUSED: list[tuple[Any, dict[str, Any], str]] = [
    ("echo", {}, "wants a list"),
    ([], {}, "no tasks"),
    (["a", ""], {}, "commands:2: the command is empty"),
    (["a", 3], {}, "commands:2: a command is str, bytes, mpifarm.Command or mpifarm.Call, not int"),
    (["a\0"], {}, "NUL"),
    (["a\ud800"], {}, "commands:1"),
    (["a 'b"], {}, "commands:1:3"),
    ([Command("a", requires=2)], {}, "there is no task 2 to wait for"),
    ([Command("a", requires="b")], {}, "commands:1: command 1 requires 'b', and no command is called so"),
    ([Command("a", requires=2), Command("b", requires=1)], {}, "wait for each other"),
    ([Command("a", cpus=0)], {}, "commands:1: cpus: '0' is not a whole number from 1"),
    ([Command("a", time_limit="10")], {}, "commands:1: time_limit: duration '10' has no unit"),
    (["a", "cd sub &&"], {}, "commands:2:8: the line is not complete"),
    (["a", b"cat <<END"], {}, "commands:2:5: a here-document cannot go on"),
    (["a", Command("./a &")], {}, "commands:2:5: the command ends here and what it left in the background is killed"),
    (["# first\nwhile read x; do"], {}, "commands:1:"),
    ([*["(./a 1)"] * 30_000, "(./a"], {}, "commands:30001:1: the line is not complete"),
    (["a"], {"time_limit": -1}, "time_limit: -1"),
    (["a"], {"time_limit": float("nan")}, "time_limit: nan"),
    (["a"], {"priority": 2**40}, "priority: 1099511627776 is not a whole number"),
    (["a"], {"retries": "many"}, "retries: 'many' is not a whole number"),
    (["a"], {"retry_on": "segv"}, "no failure class"),
    (["a"], {"keep": "some"}, "tail:SIZE"),
    (["a"], {"capture": "../x"}, "leads out"),
    (["a"], {"tags": {"a\n": ""}}, "cannot be shown"),
    (["a"], {"after": "nobody"}, "no job is called 'nobody'"),
    (["a"], {"name": "x" * 10_000}, "cannot be the name of a job"),
    (["a"], {"job": "nobody", "name": "x"}, "--job adds to a job"),
]


def test_what_is_refused_leaves_nothing(world: PostgresWorld) -> None:
    world.submit(like_tasks(1), "before")
    for commands, options, reason in REFUSED:
        with pytest.raises(mpifarm.FarmError) as caught:
            mpifarm.submit(commands, **options)
        assert reason in str(caught.value)
    assert [job.name for job in world.client.jobs()] == ["before"]


def test_a_command_of_several_lines(world: PostgresWorld) -> None:
    texts = ["cat <<END\nx\nEND", "# first\nwhile read x; do\necho $x\ndone < list", "a & b & wait"]
    done = mpifarm.submit(texts, name="scan")
    assert world.counts(done.job.id if done.job else 0) == {"pending": 3}


def test_what_is_told_is_a_warning(world: PostgresWorld) -> None:
    assert not world.client.jobs()
    with pytest.warns(UserWarning) as warned:
        mpifarm.submit(["true", "a\n./x $LAUNCHER_TSK_ID", "./y $HQ_TASK_ID"], capture="*.npy")
    first, second = [str(one.message) for one in warned]
    assert first.startswith("commands:2: nothing sets LAUNCHER_TSK_ID here")
    assert second.startswith("--capture '*.npy' holds nothing of the task's own")
    assert {one.filename for one in warned} == {__file__}
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        mpifarm.submit(["./x $MPIFARM_TASK", "./y"], capture="{task}.npy")


def test_an_option_that_is_none() -> None:
    with pytest.raises(TypeError, match="no option colour"):
        mpifarm.submit(["a"], colour="red")  # type: ignore[call-arg]


def test_an_interrupted_submit_leaves_nothing(world: PostgresWorld) -> None:
    def commands() -> Iterator[str]:
        yield from itertools.repeat("a", 30_000)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        mpifarm.submit(commands(), name="scan")
    assert world.client.jobs() == []
