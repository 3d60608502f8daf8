"""The other half of `benchmarks.dispatch --send`: what every rank of a real world does.

    mpiexec -n 16 python -m benchmarks.sending --tasks 100000

Rank 0 carries the project's dispatcher with a queue that answers at once, rank 1 its recorder with a file that writes
nothing; all others stand in for leaders: what they are dealt has ended at once, they tell the recorder and want more.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from collections import deque
from collections.abc import Iterator
from typing import Any

from benchmarks.figures import ROOT
from mpifarm.core.dispatcher.dispatcher import Dispatcher
from mpifarm.core.dispatcher.ending import RunTerms
from mpifarm.core.job.policy import JobText
from mpifarm.core.model import Block, JobId, LeaseId, Limits, RunId, TaskText
from mpifarm.core.needs import Needs
from mpifarm.core.protocol import actions as act
from mpifarm.core.protocol.messages import Deal, Exit, FileClosed, FileOpened, OpenFile, Output, Role, Want
from mpifarm.core.protocol.verbs import Grant
from mpifarm.core.recorder.recorder import Recorder
from mpifarm.core.row import ROW, AttemptRow
from mpifarm.rank.comm import World
from mpifarm.rank.local import find_mpiexec

RANKS = (2, 4, 8, 16, 32, 64)
SLOTS = 64
"""Of the node that a rank stands in for; it asks when a quarter of them are free."""
JOB = JobText(JobId(1), "pretended", b"/work")


def send_table() -> Iterator[dict[str, object]]:
    """A line for each number of ranks."""
    mpiexec = find_mpiexec() or "mpiexec"
    environ = dict(os.environ)  # as `mpifarm.rank.local` does: more ranks than cores
    environ.setdefault("OMPI_MCA_rmaps_base_oversubscribe", "1")
    environ.setdefault("PRTE_MCA_rmaps_default_mapping_policy", "slot:oversubscribe")
    for ranks in RANKS:
        command = [mpiexec, "-n", str(ranks), sys.executable, "-m", "benchmarks.sending"]
        done = subprocess.run(command, cwd=ROOT, env=environ, capture_output=True, text=True, timeout=300, check=False)
        if done.returncode:
            sys.exit(f"{' '.join(command)} ended with {done.returncode}:\n{done.stderr}")
        yield json.loads(done.stdout.splitlines()[-1])


class Sender:
    """Stands in for a leader."""

    def __init__(self, rank: int, recorder: int) -> None:
        self.rank = rank
        self.recorder = recorder
        self.received = 0
        self._wanted = SLOTS

    def start(self) -> list[act.Send]:
        return [act.Send(0, Want(self.rank, SLOTS, 0))]

    def handle(self, event: Any, now: float) -> list[act.Send]:
        if not isinstance(event, Deal):
            return []
        rows = [
            AttemptRow(
                lease=b.lease,
                job=b.job,
                task=task,
                attempt=b.attempt,
                state=0,
                failure=0,
                exit_code=0,
                signal=0,
                node=0,
                slot=0,
                cpus=1,
                started=now - 1.0,
                ended=now,
            ).packed()
            for b in event.blocks
            for task in range(b.lo, b.hi)
        ]
        self.received += len(rows)
        self._wanted -= len(rows)
        actions = [act.Send(self.recorder, Output(self.rank, b"".join(rows), b"", (), {}))]
        if self._wanted < SLOTS // 2:
            self._wanted = SLOTS
            actions.append(act.Send(0, Want(self.rank, SLOTS, self.received)))
        return actions


class Rank:
    """A loop without doors: what they would answer is answered at once."""

    def __init__(self, world: World, tasks: int) -> None:
        self.world = world
        self.roles: dict[Any, Any] = {}
        self.events: deque[Any] = deque()
        self.left = tasks
        self.leased = self.rows = 0
        self.over = False

    def run(self) -> None:
        rest_s = 0.0
        ticked = 0.0
        while not self.over:
            messages = self.world.poll(bulk=True)
            for message in messages:
                self.deliver(message)
            now = time.time()
            if now > ticked + 0.05:
                ticked = now
                for machine in self.roles.values():
                    self.perform(machine.handle(act.Tick(), now))
            while self.events:
                role, event = self.events.popleft()
                self.perform(self.roles[role].handle(event, now))
            busy = messages or self.world.sending
            rest_s = 0.0 if messages else min(max(2 * rest_s, 5e-5), 1e-3 if busy else 5e-3)
            if rest_s:
                time.sleep(rest_s)

    def deliver(self, message: Any) -> None:
        if isinstance(message, Exit):
            self.over = True
        else:
            self.events.append((message.TO, message))

    def perform(self, actions: list[Any]) -> None:
        for action in actions:
            match action:
                case act.Send(to, message) if to != self.world.rank:
                    self.world.send(to, message)
                case act.Send(_, message):
                    self.deliver(message)
                case act.AskLease(tasks_max):
                    self.events.append((Role.DISPATCHER, act.Granted(self.grant(min(tasks_max, self.left)))))
                case act.AskRecord(batch):
                    self.events.append((Role.DISPATCHER, act.Recorded(batch, frozenset())))
                case act.AskExpire():
                    self.events.append((Role.DISPATCHER, act.Expired(0)))
                case act.AskClose():
                    self.events.append((Role.DISPATCHER, act.RunClosed()))
                case act.OpenRunFile():
                    self.events.append((Role.RECORDER, FileOpened("file")))
                case act.CloseRunFile():
                    self.events.append((Role.RECORDER, FileClosed()))
                case act.Append(output):
                    self.events.append((Role.RECORDER, act.Appended(output.rank, 0)))
                    self.events.append((Role.RECORDER, act.Stored(output.rank, output.rows, self.rows, output.tails)))
                    self.rows += len(output.rows) // ROW.size
                case act.Finished():
                    self.over = True
                case _:
                    pass

    def grant(self, tasks: int) -> Grant:
        if not tasks:
            return Grant()
        self.leased += 1
        self.left -= tasks
        texts = [TaskText(b"./task --number %d" % number) for number in range(tasks)]
        return Grant((Block(LeaseId(self.leased), JOB.id, 1, Needs(), 1, texts),), (JOB,), self.left)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--tasks", type=int, default=100_000)
    options = parser.parse_args()
    world = World()
    rank = Rank(world, options.tasks)
    # With two ranks, rank 1 stands in for the leader besides.
    leaders = list(range(min(2, world.size - 1), world.size))
    if world.rank == 0:
        slots = [(leader, SLOTS) for leader in leaders]
        rank.roles[Role.DISPATCHER] = Dispatcher(slots, 1, RunTerms(), Limits(), time.time())
        rank.events.append((Role.DISPATCHER, act.RunOpened(RunId(1), OpenFile("file", {}, ()))))
    if world.rank == 1:
        rank.roles[Role.RECORDER] = Recorder(Limits())
    if world.rank in leaders:
        rank.roles[Role.LEADER] = Sender(world.rank, 1)
        rank.perform(rank.roles[Role.LEADER].start())
    world.everywhere(0)
    began, cpu = time.perf_counter(), time.process_time()
    rank.run()
    seconds, cpu_s = time.perf_counter() - began, time.process_time() - cpu
    if world.rank == 0:
        for other in range(1, world.size):
            world.send(other, Exit())
    used = world.gather(cpu_s)
    if used is not None:
        line = {
            "figure": "really sent",
            "ranks": world.size,
            "tasks": options.tasks,
            "tasks_per_s": round(options.tasks / seconds),
            "dispatcher_us_per_task": round(1e6 * used[0] / options.tasks, 2),
            "recorder_us_per_task": round(1e6 * used[1] / options.tasks, 2),
            "mpi": world.library.split(" (")[0][:60],
            "simulated": False,
        }
        print(json.dumps(line), flush=True)
    world.finish()


if __name__ == "__main__":
    main()
