"""The verbs of the command line on a real queue, without a run of their own: what they do, say, and refuse."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import mpifarm
from mpifarm.cli import main
from mpifarm.core.job.policy import Policy
from mpifarm.core.model import FailureClass, Parent, Part, RunId, State, TaskText
from mpifarm.core.needs import Needs
from mpifarm.core.protocol.facts import Terms
from mpifarm.core.protocol.verbs import RunInfo
from mpifarm.queue import Batch, Return
from mpifarm.server.dsn import Dsn
from tests.queue.worlds import HERE, LEASE_S, PostgresWorld, all_ended, ended, like_tasks, lower, one, span
from tests.reporting.conftest import Said

pytestmark = pytest.mark.postgres

Typed = Callable[..., Said]


@pytest.fixture
def world(pg_dsn: Dsn, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[PostgresWorld]:
    monkeypatch.setenv("MPIFARM_DSN", pg_dsn.text)
    monkeypatch.chdir(tmp_path)
    world = PostgresWorld(pg_dsn)
    yield world
    world.close()


@pytest.fixture
def say(world: PostgresWorld, capfd: pytest.CaptureFixture[str]) -> Typed:  # noqa: ARG001
    def run(*argv: str, code: int = 0) -> Said:
        found = main.main(argv)
        sys.stdout.flush()
        said = Said(found, *capfd.readouterr())
        assert said.code == code, said
        return said

    return run


@pytest.fixture
def say_json(say: Typed) -> Callable[..., Any]:
    return lambda *argv, code=0: json.loads(say(*argv, "--json", code=code).out)


def submitted(say: Typed, content: str, *options: str, name: str = "scan") -> None:
    Path(f"{name}.txt").write_bytes(content.encode())
    say("submit", f"{name}.txt", "--name", name, *options)


def a_run(world: PostgresWorld, **facts: Any) -> RunId:
    known = {name: getattr(HERE, name) for name in RunInfo.__dataclass_fields__}
    return world.queue.open_run(RunInfo(**(known | facts)))


def work(world: PostgresWorld, run: RunId, bad: frozenset[int] = frozenset()) -> None:
    """All that is ready now, and what that makes ready; tasks in `bad` fail."""
    while blocks := world.queue.lease(run, 1000, 1 << 20, Needs(64)).blocks:
        for block in blocks:
            rows = [
                ended(block, task, State.FAILED if task in bad else State.SUCCEEDED)
                for task in range(block.lo, block.hi)
            ]
            world.queue.record(run, Batch(rows, done=[block.lease]))


# --- submit ------------------------------------------------------------------------------------------------------


def test_a_file_with_needs(world: PostgresWorld, say: Typed, say_json: Callable[..., Any]) -> None:
    submitted(say, "a\nb\n[# 1-2 #] c\n#MPIFARM BARRIER\n[# any -1 #] d\n")
    job = world.client.find("scan")
    assert world.counts(job.id) == {"pending": 2, "waiting": 2}
    work(world, world.queue.open_run(HERE), bad=frozenset({2}))
    assert world.counts(job.id) == {"succeeded": 2, "failed": 1, "cancelled": 1}
    world.check()
    assert say_json("wait", "scan", code=1)["tasks"]["cancelled"] == 1


def test_records_with_needs(world: PostgresWorld, say: Typed) -> None:
    records = [{"name": "x"}, {"name": "y", "requires": "z"}, {"name": "z", "requires_any": 1}]
    Path("in.jsonl").write_text("\n".join(map(json.dumps, records)))
    say("submit", "--from-json", "in.jsonl", "--name", "scan", "--", "echo", "{name}")
    job = world.client.find("scan")
    assert list(world.client.needs(job.id)) == [
        (2, 3, ((3, 4, False, job.id),)),
        (3, 4, ((1, 2, True, job.id),)),
    ]


def test_added_tasks_count_their_needs_within_their_file(world: PostgresWorld, say: Typed) -> None:
    submitted(say, "a\nb\n")
    Path("more.txt").write_text("c\n[# 1 #] d\n")
    say("submit", "more.txt", "--job", "scan", "--after", "scan.2")
    job = world.client.find("scan").id
    needs = list(world.client.needs(job))
    assert needs == [(3, 4, ((2, 3, False, job),)), (4, 5, ((3, 4, False, job), (2, 3, False, job)))]


def test_jobs_after_jobs(world: PostgresWorld, say: Typed) -> None:
    submitted(say, "a\nb\n", name="prep")
    submitted(say, "c\n", "--after", "prep", "--afterany", "prep.2")
    assert world.counts(world.client.find("scan").id) == {"waiting": 1}
    assert "tasks of scan wait" in say("drop", "prep", "--yes", "prep", code=2).err
    work(world, world.queue.open_run(HERE))
    assert say("wait", "all").out == "3 succeeded\n"
    submitted(say, "d\n", "--after", "last", name="late")
    assert world.counts(world.client.find("late").id) == {"pending": 1}


def test_needs_that_cannot_be_met_leave_nothing(world: PostgresWorld, say: Typed) -> None:
    for needed in ("3", "2", "0", "1--9", "99999999999", "x", "1 #] [# 7"):
        Path("bad.txt").write_text(f"a\n[# {needed} #] b\n")
        assert say("submit", "bad.txt", code=2).err.startswith("mpifarm: bad.txt:2:")
    assert world.client.jobs() == []


def test_parents_that_are_skipped_count_as_met(world: PostgresWorld, say: Typed) -> None:
    submitted(say, "a\nb\n", name="first")
    work(world, world.queue.open_run(HERE))
    submitted(say, "x\na\n[# -1 #] y\n[# 1 #] z\n", "--dedupe")
    job = world.client.find("scan")
    assert job.total == 3
    assert world.counts(job.id) == {"pending": 2, "waiting": 1}
    lines = [(line.command, line.state) for line in world.client.tasks(job.id)]
    assert lines == [(b"x", "pending"), (b"y", "pending"), (b"z", "waiting")]
    world.check()


def test_the_policy_is_kept_with_the_job(world: PostgresWorld, say: Typed) -> None:
    submitted(say, "a\n", "--retries", "2", "--retry-on", "signal:KILL;lost=2", "--keep", "tail:1K", "--max-fails", "0")
    job = world.client.find("scan")
    assert job.policy == Policy.from_json(
        {"retries": 2, "rules": [["signal", 9, 2]], "crash_limit": 3, "keep": "tail:1024"}
    )
    assert job.max_fails == 0


# --- cancel, drain, runs -----------------------------------------------------------------------------------------


def test_cancel_says_what_was_asked(world: PostgresWorld, say: Typed, say_json: Callable[..., Any]) -> None:
    submitted(say, "a\nb\nc\n[# 3 #] d\n")
    run = a_run(world)
    one(world.queue, run, 1)
    assert say("cancel", "scan.2").out == "scan: 1 task cancelled\n"
    (said,) = say_json("cancel", "scan")
    assert (said["cancelled"], said["asked"], said["runs"]) == (2, 1, [run])
    assert said["now"] == {"waiting": 0, "pending": 0, "running": 1, "succeeded": 0, "failed": 0, "cancelled": 3}
    out = say("cancel", "all").out
    assert f"run {run} was asked to end 1 more: SIGTERM, then SIGKILL; it takes seconds (mpifarm wait all)" in out
    world.pass_time(LEASE_S + 1)
    assert f"dead: run {run} (mpifarm recover cancels what it holds)" in say("cancel", "scan", "--wait").out
    assert say_json("recover")[0]["tasks"] == 1
    assert say("cancel", "scan", "--wait").out == "scan: 0 tasks cancelled\n"
    assert world.counts(world.client.find("scan").id) == {"cancelled": 4}


def test_drain(world: PostgresWorld, say: Typed, say_json: Callable[..., Any]) -> None:
    assert say("drain", "all").out == "no run is live\n"
    assert "there is no run 'last'" in say("drain", "last", code=2).err
    first, second = a_run(world), a_run(world)
    assert f"there is no run '99': runs have numbers (live: {first}, {second};" in say("drain", "99", code=2).err
    assert say_json("drain", str(first)) == [{"run": first, "host": "a-host", "now": False, "claimed": 0}]
    assert "within its grace" in say("drain", "last", "--now").out
    assert len(world.queue.renew(first)) == 1
    world.queue.close_run(first)
    assert f"run {first} is not live" in say("drain", str(first), code=2).err
    assert [found["run"] for found in say_json("drain", "all")] == [second]


def test_runs_say_what_they_take_and_have_left(world: PostgresWorld, say: Typed, say_json: Callable[..., Any]) -> None:
    submitted(say, "a\nb\n")
    plain = a_run(world)
    one(world.queue, plain, 1)
    assert "takes" not in say("runs").out
    a_run(world, jobs=("scan", "grid"), tags=("gpu", "*"), seconds_left=3600.0)
    first, second = say_json("runs")
    assert (first["claimed"], first["seconds_left"], first["jobs"], first["tags"]) == (1, None, [], [])
    assert 3500 < second["seconds_left"] <= 3600
    assert (second["jobs"], second["tags"], second["claimed"]) == (["scan", "grid"], ["gpu", "*"], 0)
    assert {"host", "allocation", "nodes", "ranks", "tasks_per_s", "beat_age_s", "file"} <= second.keys()
    out = say("runs").out
    assert "--jobs scan,grid --tags gpu,*" in out
    assert "claimed" in out and "left" in out


# --- explain -----------------------------------------------------------------------------------------------------


def explained(say: Typed, selector: str = "scan") -> str:
    return say("explain", selector).out


def test_explain_who_waits_for_whom(world: PostgresWorld, say: Typed) -> None:
    submitted(say, "a\nb\n", name="prep")
    submitted(say, "c\n[# 1 #] d\n", "--after", "prep", "--hold")
    assert "2 wait for other tasks (such as mpifarm explain scan.1)" in explained(say)
    said = explained(say, "scan.2")
    assert "waits until prep.1-2 have succeeded: 2 pending (mpifarm explain prep.1)" in said
    assert "waits until scan.1 has succeeded: 1 waiting (mpifarm explain scan.1)" in said
    assert "the job is held, too" in said
    work(world, a_run(world))
    said = explained(say, "scan.1")
    assert said.startswith("scan.1: pending")
    said = explained(say, "scan.2")
    assert "prep.1-2 have succeeded: that is what it waited for" in said


def test_explain_what_was_cancelled(world: PostgresWorld, say: Typed) -> None:
    submitted(say, "a\nb\n[# 2 #] c\n[# 3 #] d\n", "--max-fails", "5")
    work(world, a_run(world), bad=frozenset({2}))
    assert "because scan.2 failed (exit 3) (mpifarm retry scan.2 revives both" in explained(say, "scan.3")
    assert "because scan.3 cancelled" in explained(say, "scan.4")
    submitted(say, "a\nb\n", "--max-fails", "0", name="strict")
    run = a_run(world)
    block = one(world.queue, run, 1)
    world.queue.record(run, Batch(all_ended(block, State.FAILED), done=[block.lease]))
    assert "stopped: 1 task has failed, more than --max-fails 0" in explained(say, "strict")
    assert "more tasks of its job had failed than --max-fails 0" in explained(say, "strict.2")


def test_explain_why_no_run_takes_it(world: PostgresWorld, say: Typed) -> None:
    submitted(say, "a\n", "--tag", "cpu", "--cpus", "8", "--time-limit", "2h")
    assert "no run is live" in explained(say)
    a_run(world, jobs=("grid",))
    a_run(world, tags=("gpu", "owner=ann"))
    a_run(world, slots=8, nodes=2)
    a_run(world, slots=64, seconds_left=600.0)
    said = explained(say)
    assert "no live run takes them:" in said
    assert "on a-host works on --jobs grid" in said
    assert "works on --tags gpu,owner=ann, and the job has cpu" in said
    assert "has too little in a node: wanted are 8 cores of 4 cores" in said
    assert "of walltime left, less than the time limit of 2h00m" in said
    able = a_run(world, tags=("cpu",), slots=64)
    assert f"nothing stands in the way: the next lease of run {able}" in explained(say, "scan.1")


def test_explain_attempt_by_attempt(world: PostgresWorld, say: Typed) -> None:
    submitted(say, "a\nb\n", "--retries", "1", "--crash-limit", "1")
    run = a_run(world)
    block = one(world.queue, run, 1)
    again = Return(span(block, 1, 2)._replace(fails=1), FailureClass.EXIT, State.FAILED, 7)
    world.queue.record(run, Batch(returned=[again], done=[block.lease]))
    assert f"attempt 1 failed (exit 7) in run {run}" in explained(say, "scan.1")
    block = one(world.queue, run, 1)
    world.queue.record(run, Batch(all_ended(block, State.FAILED), done=[block.lease]))
    said = explained(say, "scan.1")
    assert said.count("attempt") == 2
    assert "such failures of its job run again 1 time at most" in said
    block = one(world.queue, run, 1)
    row = ended(block, 2, State.FAILED)[0]._replace(failure=FailureClass.LOST, exit_code=0)
    world.queue.record(run, Batch([(row, None, None)], done=[block.lease]))
    assert "it was lost with 1 node, its crash limit" in explained(say, "scan.2")


def test_explain_names_the_entry(world: PostgresWorld, say: Typed, say_json: Callable[..., Any]) -> None:
    world.submit([(Needs(), [TaskText(b"./fit 7", b"seed\t7"), TaskText(b"true")])], "scan")
    assert explained(say, "scan.1").startswith("scan.1 (seed\\t7): pending\n")
    assert explained(say, "scan.2").startswith("scan.2: pending\n")
    assert say_json("explain", "scan.1")["entry"] == "seed\t7"
    with mpifarm.open_job("scan") as job:
        assert [task.entry for task in job.tasks()] == [b"seed\t7", None]


def test_explain_several(world: PostgresWorld, say: Typed, say_json: Callable[..., Any]) -> None:
    world.submit(like_tasks(200), "first")
    world.submit(like_tasks(1), "second")
    assert explained(say, "all").count("no run is live") == 2
    assert [found["name"] for found in say_json("explain", "all")] == ["first", "second"]
    assert [found["task"] for found in say_json("explain", "first.10-12")] == [10, 11, 12]
    assert say_json("explain", "last")["name"] == "second"
    assert "100 tasks at a time" in say("explain", "first.1-101", code=2).err


# --- tasks --as-taskfile -----------------------------------------------------------------------------------------


def test_a_job_as_a_task_file(world: PostgresWorld, say: Typed) -> None:
    content = "a\n#MPIFARM --cpus 2\nb\n[# 1-2,5 #] [# any 4 #] c\nd\ne\n#MPIFARM --cpus 1\n[# any 1-5 #] f\n"
    submitted(say, content)
    again = say("tasks", "scan", "--as-taskfile").out
    assert again == content
    submitted(say, again, name="again")
    first, second = (list(world.client.needs(world.client.find(name).id)) for name in ("scan", "again"))
    assert [(lo, hi, [parent[:3] for parent in parents]) for lo, hi, parents in first] == [
        (lo, hi, [parent[:3] for parent in parents]) for lo, hi, parents in second
    ]


def test_what_failed_as_a_task_file(world: PostgresWorld, say: Typed) -> None:
    submitted(say, "p\n", name="prep")
    submitted(say, "a\nb\nc\n[# 1-3 #] d\n[# 1-3 #] e\n[# 4 #] f\n", "--after", "prep")
    work(world, a_run(world), bad=frozenset({2}))
    said = say("tasks", "scan", "--state", "failed", "--state", "cancelled", "--as-taskfile").out
    assert said == (
        "# what follows waited for prep.1: not all of them are in this file\nb\n"
        "# what follows waited for scan.1-3, prep.1: not all of them are in this file\n[# 1 #] d\n[# 1 #] e\n"
        "# what follows waited for prep.1: not all of them are in this file\n[# 2 #] f\n"
    )
    submitted(say, said, name="again")
    assert world.counts(world.client.find("again").id) == {"pending": 1, "waiting": 3}


def test_needs_are_paged(world: PostgresWorld, monkeypatch: pytest.MonkeyPatch) -> None:
    lower(monkeypatch, needs=3)
    parts = [
        Part(Needs(), [TaskText(b"x")], tuple(Parent(n, n + 1) for n in range(1, task, 2))) for task in range(1, 9)
    ]
    job = world.client.submit_on(Terms("scan"), "f", b"/tmp", parts).job
    assert job is not None
    for first in (1, 3, 4, 8, 9):
        expected = [
            (lo, hi, tuple(Parent(n, n + 1, False, job.id) for n in range(1, lo, 2)))
            for lo, hi in ((2, 4), (4, 6), (6, 8), (8, 9))
            if hi > first
        ]
        assert list(world.client.needs(job.id, first)) == expected


# --- set, retry, wait --------------------------------------------------------------------------------------------


def test_selectors(world: PostgresWorld, say: Typed, say_json: Callable[..., Any]) -> None:
    world.submit(like_tasks(30), "first")
    world.submit(like_tasks(30), "second")
    run = a_run(world)
    for _ in range(2):
        block = one(world.queue, run, 30)
        world.queue.record(run, Batch(all_ended(block, State.FAILED), done=[block.lease]))
    assert [found["retried"] for found in say_json("retry", "first.10-20")] == [11]
    assert [found["retried"] for found in say_json("retry", "last")] == [30]
    assert [found["retried"] for found in say_json("retry", "all")] == [19, 0]
    assert [found["cancelled"] for found in say_json("cancel", "second.1,3-5")] == [4]
    assert say_json("wait", "first.10-20", "--timeout", "1ms", code=124)["tasks"]["pending"] == 11
    assert [found["tags"] for found in say_json("set", "all", "--tag", "gpu", "--tag", "a=b")] == [
        {"a": "b", "gpu": ""}
    ] * 2
    assert say("set", "first", "--priority", "2").out == "first: priority 2, not held, a=b, gpu\n"
    assert "those of a whole job" in say("set", "first.3", "--hold", code=2).err
    assert "no task 31" in say("cancel", "first.31", code=2).err
    assert say_json("recover", "--dry-run") == []


def test_wait_counts_what_waits(say: Typed, say_json: Callable[..., Any]) -> None:
    submitted(say, "a\n[# 1 #] b\n")
    said = say_json("wait", "scan.2", "--timeout", "1ms", code=124)
    assert said == {"exit_code": 124, "tasks": dict.fromkeys(said["tasks"], 0) | {"waiting": 1}}
    assert say("wait", "scan", "--timeout", "1ms", code=124).out == "1 waiting, 1 pending\n"
