"""What people do to jobs between submit and report, as they type it."""

from __future__ import annotations

import json
import signal
from typing import Any

import pytest

from tests.fix_farm import Farm, wait_for

pytestmark = [pytest.mark.postgres, pytest.mark.mpi_outside]


def typed(farm: Farm, *arguments: str, code: int = 0) -> Any:
    return json.loads(farm.run(*arguments, "--json", code=code)[0])


def states(farm: Farm, job: str = "job") -> dict[str, int]:
    tasks: dict[str, int] = farm.report(job)["tasks"]
    return {name: count for name, count in tasks.items() if count and name != "total"}


def test_retry_until_all_succeed(farm: Farm) -> None:
    farm.submit(["true", "test -e flag", "test -e flag"])
    farm.run("run", ranks=1)
    assert farm.run("wait", "job", code=1)[0] == b"1 succeeded, 2 failed\n"
    assert b"attempt 1 failed (exit 1) in run 1" in farm.run("explain", "job.2")[0]
    assert typed(farm, "retry", "job", "--class", "oom,timeout")[0]["retried"] == 0
    assert typed(farm, "retry", "job.2")[0]["retried"] == 1
    assert farm.run("retry", "job")[0] == b"job: 1 task waits again; now 2 pending, 1 succeeded\n"
    (farm.cwd / "flag").touch()
    said = farm.run("explain", "job.3")[0].decode()
    assert "attempt 1 failed (exit 1) in run 1; taken back" in said
    assert "no run is live" in said
    farm.run("run", ranks=1)
    assert typed(farm, "wait", "all") == {
        "exit_code": 0,
        "tasks": {"waiting": 0, "pending": 0, "running": 0, "succeeded": 3, "failed": 0, "cancelled": 0},
    }
    accounts = {account["run"]: account for account in farm.report()["accounting"]}
    assert accounts[1]["lost"] > 0 and accounts[2]["lost"] == 0
    first, second = typed(farm, "runs", "--all")
    assert (first["succeeded"], first["failed"], first["returned"], second["succeeded"]) == (1, 0, 2, 2)
    assert "--force" in farm.run("rerun", "job", code=2)[1]
    assert typed(farm, "rerun", "job.1", "--force")[0]["retried"] == 1
    assert farm.run("wait", "job", "--timeout", "100ms", code=124)[0] == b"1 pending, 2 succeeded\n"
    farm.run("run", ranks=1)
    assert [task["attempts"] for task in farm.tasks()] == [2, 2, 2]


def test_add_hold_release_and_cancel(farm: Farm) -> None:
    farm.submit(["echo 1"], "job", "--hold", "--tag", "owner=ann", "--priority", "3")
    assert (farm.report()["held"], farm.report()["priority"], farm.report()["tags"]) == (True, 3, {"owner": "ann"})
    assert b"mpifarm set job --release" in farm.run("explain", "job")[0]
    (farm.cwd / "more.txt").write_text("#MPIFARM --cpus 2\necho 2\necho 3\n")
    assert b"2 tasks added" in farm.run("submit", "more.txt", "--job", "job")[0]
    assert "--priority" in farm.run("submit", "more.txt", "--job", "job", "--priority", "1", code=2)[1]
    (cancelled,) = typed(farm, "cancel", "job.3")
    assert cancelled.pop("now")["cancelled"] == 1
    assert cancelled == {"name": "job", "id": 1, "cancelled": 1, "asked": 0, "runs": []}
    assert farm.run("set", "job", "--release")[0] == b"job: priority 3, not held, owner=ann\n"
    farm.run("run", "--cpus", "2", ranks=1)
    assert states(farm) == {"succeeded": 2, "cancelled": 1}
    assert farm.run("wait", "job", code=2)[0] == b"2 succeeded, 1 cancelled\n"
    assert b"cancelled before it began" in farm.run("explain", "job.3")[0]
    assert farm.output("1-2") == b"1\n2\n"
    again = farm.run("tasks", "job", "--as-taskfile")[0]
    assert again == b"echo 1\n#MPIFARM --cpus 2\necho 2\necho 3\n"
    (farm.cwd / "again.txt").write_bytes(again)
    assert typed(farm, "submit", "again.txt", "--dedupe")["skipped"] == 2
    assert farm.run("tasks", "again", "--as-taskfile")[0] == b"#MPIFARM --cpus 2\necho 3\n"
    assert "was submitted before just as it is now, to again" in farm.run("submit", "again.txt")[1]


def test_while_a_run_is_at_work(farm: Farm) -> None:
    farm.submit(["sleep 600"] + ["true"] * 3, "slow", "--cpus", "2")
    run = farm.start("run", "--cpus", "2", "--wait-for-work", "60s", ranks=1)
    wait_for(lambda: typed(farm, "runs") and states(farm, "slow").get("running"), "the run to lease")
    assert "is with run 1 on" in farm.run("explain", "slow.1")[0].decode()
    assert "stop the run first" in farm.run("drop", "slow", "--yes", "slow", code=2)[1]
    assert "run 1 was asked to end" in farm.run("cancel", "slow", "--wait")[0].decode()
    assert states(farm, "slow") == {"cancelled": 4}
    (farm.cwd / "more.txt").write_text("echo more\n")
    farm.run("submit", "more.txt", "--job", "slow")
    assert farm.run("wait", "slow.5")[0] == b"1 succeeded\n"
    assert "asked to begin nothing more and to end with the" in farm.run("drain", "last")[0].decode()
    farm.finish(run)
    assert "not live" in farm.run("drain", "1", code=2)[1]
    assert farm.output("5", "slow") == b"more\n"
    assert "not other" in farm.run("drop", "slow", "--yes", "other", code=2)[1]
    farm.run("drop", "slow", "--yes", "slow")
    assert farm.run("wait", "slow", code=3)[1].startswith("mpifarm: no job")


def test_tasks_that_wait_and_tasks_that_run_again(farm: Farm) -> None:
    file = b"""#MPIFARM --cpus 2
test "$MPIFARM_ATTEMPT" -gt 1 && echo prepared >> made || exit 75
[# 1 #] cat made
false
#MPIFARM BARRIER
[# any 2 #] cat made; echo after all
#MPIFARM BARRIER CHECK
echo the end
[# 3 #] echo never
"""
    farm.submit(file, "job", "--retries", "2", "--retry-on", "exit:75")
    farm.run("run", "--cpus", "4", ranks=1)
    assert states(farm) == {"succeeded": 4, "failed": 1, "cancelled": 1}
    assert [task["attempts"] for task in farm.tasks()] == [2, 1, 1, 1, 1, 0]
    assert farm.output("2,4-5") == b"prepared\nprepared\nafter all\nthe end\n"
    assert b"attempt 1 failed (exit 75) in run 1" in farm.run("explain", "job.1")[0]
    assert b"do not run again (submit --retry-on)" in farm.run("explain", "job.3")[0]
    assert b"because job.3 failed (exit 1)" in farm.run("explain", "job.6")[0]
    again = farm.run("tasks", "job", "--state", "failed", "--state", "cancelled", "--as-taskfile")[0]
    assert again.splitlines()[1:] == [
        b"false",
        b"# what follows waited for job.3-4: not all of them are in this file",
        b"[# 1 #] echo never",
    ]


def test_recover_takes_back_what_a_killed_run_held(farm: Farm) -> None:
    farm.submit(["while ! test -e flag; do sleep 0.05; done", "true"])
    run = farm.start("run", ranks=1)
    wait_for(lambda: states(farm).get("running"), "the run to lease")
    assert farm.run("recover")[0] == b"no dead run holds anything\n"
    run.send_signal(signal.SIGKILL)
    farm.finish(run, code=None)
    (farm.cwd / "flag").touch()

    def pending() -> int:
        return states(farm).get("pending", 0)

    (found,) = wait_for(lambda: typed(farm, "recover", "--dry-run"), "the run's process to be gone")
    before = pending()
    (taken,) = typed(farm, "recover")
    assert taken["tasks"] == found["tasks"] > 0
    assert pending() == before + taken["tasks"]


def test_the_database_of_the_queue(farm: Farm) -> None:
    status = typed(farm, "db", "status")
    assert status["version"] == status["wanted"]
    assert b"nothing to do" in farm.run("db", "upgrade")[0]
    assert b"nothing to do" in farm.run("db", "init")[0]
