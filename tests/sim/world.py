"""A whole farm under one seed: the machines of `mpifarm.core`, the in-memory queue, simulated processes, disks, wires.

Time is a heap of events. What is random (latencies, durations, faults) comes from one `random.Random(seed)`, so a
seed is a complete description of a history. Messages pass through encode/decode as on the wire, and keep their
order per pair of ranks as MPI promises. Faults: a run is killed, frozen beyond its lease and thawed, told to stop or
drained; a node falls silent; the disk is slow; people cancel and retry. Jobs differ in policies, tags and parents, runs
in the tags they take, their walltime and how many tasks they may begin.

What must hold is checked with every verb of the queue (each task in exactly one place) and with every task that begins:
see `World.may_begin`.
"""

from __future__ import annotations

import heapq
import random
from collections import defaultdict
from collections.abc import Callable
from math import inf
from typing import Any

from mpifarm.core.chunks import Cells
from mpifarm.core.dispatcher.dispatcher import Dispatcher
from mpifarm.core.dispatcher.ending import RunTerms
from mpifarm.core.job.policy import Policy, RetryRule
from mpifarm.core.launcher.launching import Launching, Running, Unbegun
from mpifarm.core.launcher.verdict import verdict
from mpifarm.core.leader.leader import Leader
from mpifarm.core.model import FailureClass, JobId, Limits, NodeShape, Parent, Part, RunId, State, TaskText
from mpifarm.core.needs import Needs
from mpifarm.core.protocol import actions as act
from mpifarm.core.protocol.messages import (
    Cancel,
    Closed,
    Drain,
    Ended,
    FileClosed,
    FileOpened,
    FileTrouble,
    Free,
    NotStarted,
    OpenFile,
    Pieces,
    Role,
    Setup,
    Start,
    StopAsked,
)
from mpifarm.core.protocol.verbs import RunInfo
from mpifarm.core.protocol.wire import decode, encode
from mpifarm.core.recorder.recorder import Recorder
from mpifarm.core.roles import assign
from mpifarm.core.row import EXTENT, STDOUT, AttemptRow, unpack_rows
from mpifarm.queue.memory import MemoryQueue
from tests.sim.sanity import sanity_check

LIMITS = Limits()
TICK_S = 0.25
FAULTS_END_S = 600.0
FAULTS = (
    *("kill", "freeze", "freeze", "freeze", "stop", "silence", "another", "another", "brief freeze"),
    *("drain", "cancel", "retry"),
)
PLAIN = Policy()
UNFINISHED = ("pending", "waiting", "running")


class Launcher:
    """The launcher's loop with processes that only take time."""

    def __init__(self, run: Run, rank: int, slots: int) -> None:
        self.run = run
        self.rank = rank
        self.slots = slots
        self.machine = Launching(slots, LIMITS.term_to_kill_s)
        self.started: dict[Running, float] = {}
        self.said: dict[Running, int] = {}
        """Bytes of output of attempts that run."""
        self.cells = Cells(60, LIMITS.chunk_bytes, 10)
        self.closing = False
        self.cancelled: list[tuple[int, int, int]] = []
        self.begun: list[tuple[int, int]] = []
        self.dead = False

    def die(self) -> None:
        """With all that runs; the leader sees it and reads the marks of what had begun."""
        running = tuple((attempt.block.lease, attempt.task) for attempt in self.machine.running.values())
        self._say(act.LauncherGone("killed", running, len(self.begun), tuple(self.begun[-64:])))
        self.dead = True

    def take(self, message: Any) -> None:
        if self.dead:
            return
        world = self.run.world
        match decode(encode(message)):
            case Setup(must_end_by=must_end_by):
                self.machine = Launching(self.slots, LIMITS.term_to_kill_s, must_end_by)
            case Start(_, blocks):
                for refused in self.machine.add(blocks):
                    self._print(refused, 7)
                    self._say_ended(refused, 256)
            case Free(cells):
                assert len({*cells, *self.cells._free}) == len(cells) + len(self.cells._free), "freed twice"
                self.cells.give_back(cells)
            case Drain(grace_s):
                self._say(NotStarted(*self.machine.drain(grace_s, world.now)))
            case Cancel(ranges):
                self.cancelled += ranges
                self._say_unbegun(self.machine.cancel(ranges, world.now))
        self._start()
        self._look()

    def _start(self) -> None:
        world = self.run.world
        while (attempt := self.machine.take(world.now)) is not None:
            self.started[attempt] = world.now
            self.begun.append((attempt.block.lease, attempt.task))
            world.may_begin(self.run, attempt)
            lease, task = attempt.block.lease, attempt.task
            assert not any(lease == its and lo <= task < hi for its, lo, hi in self.cancelled), "cancelled, yet begun"
            duration_s, status = world.behaviour_on(self.rank, attempt)
            if world.random.random() < 0.1:
                self.run.later(duration_s / 2, lambda a=attempt: self._print(a, 6))
            self.run.later(duration_s, lambda a=attempt, s=status: self._end(a, s))
        self._say_unbegun(self.machine.late())

    def _say_unbegun(self, unbegun: Unbegun) -> None:
        if unbegun.spans:
            self._say(NotStarted(*unbegun))

    def _look(self) -> None:
        """Send the signals that are due; every third simulated process ignores SIGTERM."""
        if self.machine.next_due < float("inf"):
            self.run.later(max(0.0, self.machine.next_due - self.run.world.now), self._signal)

    def _signal(self) -> None:
        for attempt, kill in self.machine.due(self.run.world.now):
            if kill or attempt.task % 3:
                self.run.later(0.01, lambda a=attempt, k=kill: self._end(a, 9 if k else 15))
        self._look()

    def _end(self, attempt: Running, status: int) -> None:
        if self.dead or self.machine.running.get(attempt.slot) is not attempt:
            return  # it has ended before, by a signal
        self.machine.free(attempt.slot)
        self._print(attempt, self.run.world.random.choice((0, 0, 5, 100)))
        self._say_ended(attempt, status)
        self._start()

    def _print(self, attempt: Running, size: int) -> None:
        """Output of an attempt, unless it has ended."""
        if not size or (attempt not in self.started and not attempt.refusal):
            return
        self.said[attempt] = self.said.get(attempt, 0) + size
        self.cells.open()
        place = self.cells.cell * LIMITS.chunk_bytes + self.cells.filled
        self._say(Pieces(EXTENT.pack(*attempt.key, STDOUT, size, place)))
        self.cells.fill(size)
        if not self.closing:
            self.closing = True
            self.run.later(LIMITS.output_every_s, self._close)

    def _close(self) -> None:
        self.closing = False
        self.cells.close()
        self._say(Closed())

    def _say_ended(self, attempt: Running, status: int) -> None:
        now = self.run.world.now
        state, failure, code, signal = verdict(status, attempt.killed_for)
        block = attempt.block
        row = AttemptRow(
            lease=block.lease, job=block.job, task=attempt.task, attempt=block.attempt,
            state=state, failure=failure, exit_code=code, signal=signal,
            node=0, slot=attempt.slot, cpus=block.needs.cpus, started=self.started.pop(attempt, now), ended=now,
            stdout_bytes=self.said.pop(attempt, 0),
        )  # fmt: skip
        self._say(Ended(row.packed(), {}))

    def _say(self, message: Any) -> None:
        if not self.dead:
            said = message if isinstance(message, act.LauncherGone) else decode(encode(message))
            self.run.arrive(self.rank, self.rank, Role.LEADER, said)


class Run:
    """One simulated `mpifarm run`: ranks, launchers, doors, a file."""

    def __init__(self, world: World, ranks_per_node: list[int], terms: RunTerms, tags: tuple[str, ...] = ()) -> None:
        self.world = world
        self.terms = terms
        self.begun: set[tuple[int, int, int]] = set()
        self.alive = True
        self.thaws_at = 0.0
        self._due: list[Callable[[], None]] = []
        """What came while it was frozen, in that order."""
        self.silent: set[int] = set()
        self.said: list[str] = []
        self.finished: act.Finished | None = None
        self.durable: dict[int, tuple[int, int, int]] = {}
        self._order: dict[tuple[int, int], float] = defaultdict(float)
        self._appended_at = self._stored_at = 0.0
        leaders: list[int] = []
        for count in ranks_per_node:
            leaders += [len(leaders)] * count
        self.roles = assign(leaders)
        slots = [world.random.randint(1, 4) if world.faults else world.slots for _ in ranks_per_node]
        left_s = None if terms.must_end_by == inf else terms.must_end_by - world.now
        size = len(slots), len(leaders), sum(slots)
        self.id: RunId = world.queue.open_run(
            RunInfo("sim", len(world.runs) + 1, "boot", "", "", "", *size, tags=tags, seconds_left=left_s)
        )
        pairs = list(zip(self.roles.leaders, slots))
        self.dispatcher = Dispatcher(pairs, self.roles.recorder, terms, LIMITS, world.now)
        self.machines: dict[tuple[int, Role], Any] = {
            (0, Role.DISPATCHER): self.dispatcher,
            (self.roles.recorder, Role.RECORDER): Recorder(LIMITS),
        }
        self.launchers = {}
        for number, (rank, count) in enumerate(pairs):
            node = NodeShape(f"n{number}", tuple(range(count)), count)
            leader = Leader(rank, node, number, self.roles.recorder, LIMITS)
            self.machines[rank, Role.LEADER] = leader
            self.launchers[rank] = Launcher(self, rank, count)
            self.perform(rank, leader.start(world.now, terms.must_end_by))
        self.arrive(0, 0, Role.DISPATCHER, act.RunOpened(self.id, OpenFile("file", {}, ())))
        self.later(TICK_S, self._tick)
        self.later(LIMITS.heartbeat_every_s, self._beat)

    # --- time ---

    def later(self, delay_s: float, step: Callable[[], None]) -> None:
        """Do `step` then, if this run is alive; a frozen run does it when it thaws."""

        def guarded() -> None:
            if not self.alive:
                return
            if self.thaws_at > self.world.now or self._due:
                if not self._due:
                    self.world.at(self.thaws_at, self._thaw)
                self._due.append(step)
                return
            step()

        self.world.at(self.world.now + delay_s, guarded)

    def freeze(self, seconds: float) -> None:
        """Do nothing for so long; a freeze within a longer one ends with it."""
        self.thaws_at = max(self.thaws_at, self.world.now + seconds)

    def _thaw(self) -> None:
        """All that came meanwhile, in its order: a message overtakes no other because its receiver was frozen twice."""
        if self.thaws_at > self.world.now:
            self.world.at(self.thaws_at, self._thaw)
            return
        while self._due and self.alive:
            self._due.pop(0)()

    def _tick(self) -> None:
        for rank, role in self.machines:
            self.handle(rank, role, act.Tick())
        self.later(TICK_S, self._tick)

    def _beat(self) -> None:
        orders = self.world.queue.renew(self.id)
        if orders:
            self.arrive(0, 0, Role.DISPATCHER, act.Ordered(orders))
            if self.world.random.random() < 0.2:  # the answer was lost
                self.arrive(0, 0, Role.DISPATCHER, act.Ordered(orders))
        self.later(LIMITS.heartbeat_every_s, self._beat)

    # --- wires ---

    def arrive(self, source: int, rank: int, role: Role, event: Any) -> None:
        """Deliver an event after a latency, in order per pair of ranks."""
        at = max(self.world.now + self.world.latency_s(), self._order[source, rank])
        self._order[source, rank] = at
        self.later(at - self.world.now, lambda: self.handle(rank, role, event))

    def handle(self, rank: int, role: Role, event: Any) -> None:
        if rank in self.silent or self.finished:
            return
        self.perform(rank, self.machines[rank, role].handle(event, self.world.now))
        if role is Role.DISPATCHER:
            sanity_check(self.dispatcher)

    def perform(self, rank: int, actions: list[act.Action]) -> None:
        for action in actions:
            match action:
                case act.Send(to, message):
                    self.arrive(rank, to, message.TO, decode(encode(message)))
                case act.ToLauncher(message):
                    self.later(1e-4, lambda m=message, r=rank: self._to_launcher(r, m))
                case act.Say(text):
                    self.said.append(text)
                case act.HoldLauncher():
                    pass
                case act.OpenRunFile():
                    self.arrive(rank, rank, Role.RECORDER, FileOpened("file"))
                case act.CloseRunFile():
                    self.arrive(rank, rank, Role.RECORDER, FileClosed())
                case act.Pack(output, _):
                    self.arrive(-rank - 1, rank, Role.LEADER, act.Packed(output))
                case act.Append(output):
                    self._append(rank, output)
                case act.Finished():
                    self.finished = action
                    self.world.closed += 1
                case _:
                    self.later(self.world.latency_s() + self.world.link_s / 2, lambda a=action: self._ask_queue(a))

    def _to_launcher(self, rank: int, message: Any) -> None:
        if rank not in self.silent:
            self.launchers[rank].take(message)

    # --- doors ---

    def stop_writing(self, seconds: float) -> None:
        """The file system answers nothing for so long."""
        self._appended_at = self._stored_at = self.world.now + seconds

    def break_file(self) -> None:
        """It can be written no more, and no other can be made."""
        self.arrive(self.roles.recorder, self.roles.recorder, Role.RECORDER, FileTrouble("broken", fatal=True))

    def _append(self, rank: int, output: Any) -> None:
        """In the file after a while and durable after another, in order."""
        now = self.world.now
        self._appended_at = max(self._appended_at, now + self.world.disk_s())
        self._stored_at = max(self._stored_at, self._appended_at + self.world.disk_s())
        appended = act.Appended(output.rank, 0)
        self.later(self._appended_at - now, lambda: self.arrive(rank, rank, Role.RECORDER, appended))
        self.later(self._stored_at - now, lambda: self._store(rank, output))

    def _store(self, rank: int, output: Any) -> None:
        first = len(self.durable)
        for number, row in enumerate(unpack_rows(output.rows), first):
            self.durable[number] = (row.lease, row.task, row.attempt)
        self.arrive(rank, rank, Role.RECORDER, act.Stored(output.rank, output.rows, first, output.tails))

    def _ask_queue(self, ask: Any) -> None:
        queue, reply = self.world.queue, None
        match ask:
            case act.AskLease(tasks_max, room):
                reply = act.Granted(queue.lease(self.id, tasks_max, LIMITS.block_bytes_max, room))
            case act.AskRecord(batch):
                for row, file_row, _ in batch.outcomes:
                    assert file_row is not None or row.failure in (FailureClass.LOST, FailureClass.CANCELLED)
                    assert file_row is None or self.durable[file_row] == (row.lease, row.task, row.attempt), (
                        "recorded before flushed"
                    )
                reply = act.Recorded(batch, queue.record(self.id, batch))
            case act.AskExpire():
                reply = act.Expired(queue.expire(LIMITS.lease_s))
            case act.AskName(path):
                queue.name_file(self.id, path)
            case act.AskClose():
                queue.close_run(self.id)
                reply = act.RunClosed()
        if not isinstance(ask, act.AskName | act.AskLease) or (isinstance(reply, act.Granted) and reply.grant.blocks):
            self.world.changed = True
            queue.check()
        if reply is not None:
            self.later(self.world.link_s / 2, lambda: self.arrive(0, 0, Role.DISPATCHER, reply))


class World:
    """The seed's history: one queue, runs that come and go."""

    def __init__(
        self,
        seed: int,
        faults: bool = True,
        nodes: list[int] | None = None,
        queue: type[MemoryQueue] = MemoryQueue,
        link_s: float = 0.0,
    ) -> None:
        """nodes: ranks on each node of every run, else drawn for each. link_s: round trip to the queue, besides."""
        self.random = random.Random(seed)
        self.now = 1000.0
        self.closed = 0
        self.runs: list[Run] = []
        self.queue = queue(lambda: self.now)
        self._heap: list[tuple[float, int, Callable[[], None]]] = []
        self._sequence = 0
        self.changed = True
        self.faults = faults
        self.slots = 4
        self.link_s = link_s
        self._nodes = nodes
        self._scale_s = self.random.choice((0.05, 1.0, 30.0))
        self._needs: dict[tuple[JobId, int], list[int]] = {}
        self._cancelled: dict[tuple[JobId, int], int] = {}
        """Leases given when it was cancelled."""
        self._policies: dict[JobId, Policy] = {}
        for _ in range(self.random.randint(1, 3)):
            self._submit()

    def _submit(self) -> None:
        """A job; with faults also one of parents and children, and with a policy."""
        chance = self.random
        parts: list[Part] = []
        count = 0
        for _ in range(chance.randint(1, 4)):
            needs = Needs(chance.choice((1, 1, 1, 2, 4)), time_limit_s=chance.choice((0.0, 0.0, 50.0)))
            tasks = chance.choice((1, 7, 60))
            parents: tuple[Parent, ...] = ()
            if self.faults and count and chance.random() < 0.3:
                lo = chance.randint(1, count)
                parents = (Parent(lo, chance.randint(lo, count) + 1, any=chance.random() < 0.5),)
            parts.append(Part(needs, [TaskText(b"true")] * tasks, parents))
            count += tasks
        policy = Policy()
        if self.faults:
            rules = chance.choice(
                ((), (), (RetryRule(FailureClass.SIGNAL, 9, 1), RetryRule(FailureClass.LOST, None, 2)))
            )
            policy = Policy(chance.choice((0, 0, 1, 3)), rules, chance.choice((0, 2, 5)))
        tags = {chance.choice("ab"): "x"} if self.faults else {}
        limit = chance.choice((None, None, None, 5)) if self.faults else None
        self.add(parts, policy, tags, limit)

    def add(
        self,
        parts: list[Part],
        policy: Policy = PLAIN,
        tags: dict[str, str] | None = None,
        limit: int | None = None,
    ) -> None:
        job = self.queue.add_job(f"job{len(self._policies)}", parts, policy=policy, tags=tags, max_fails=limit)
        self._policies[job] = policy
        lo = 1
        for part in parts:
            hi = lo + len(part.tasks)
            needed = [task for need in part.parents if not need.any for task in range(need.lo, need.hi)]
            self._needs.update(((job, task), needed) for task in range(lo, hi))
            lo = hi

    def at(self, when: float, step: Callable[[], None]) -> None:
        self._sequence += 1
        heapq.heappush(self._heap, (when, self._sequence, step))

    def latency_s(self) -> float:
        return self.random.expovariate(1 / 0.002)

    def disk_s(self) -> float:
        return self.random.expovariate(1 / 0.05)

    def behaviour(self, attempt: Running) -> tuple[float, int]:
        """(seconds, wait status) of a process, the same for a task whenever it runs."""
        chance = random.Random(attempt.task * 7919 + attempt.block.job)
        return chance.expovariate(1 / self._scale_s), chance.choice((0, 0, 0, 256, 9))

    def behaviour_on(self, rank: int, attempt: Running) -> tuple[float, int]:  # noqa: ARG002
        """The same on the node of the leader on that rank."""
        return self.behaviour(attempt)

    def may_begin(self, run: Run, attempt: Running) -> None:
        """Asserts that it may: its parents have succeeded, it has retries left, nobody has cancelled it before it was
        leased, it can end in time, and its run may begin so many."""
        block = attempt.block
        for parent in self._needs[block.job, attempt.task]:
            outcome = self.queue.outcomes.get((block.job, parent))
            assert outcome is not None and outcome[0].state == State.SUCCEEDED, "begun before its parents had succeeded"
        policy = self._policies[block.job]
        budget = max([rule.retries for rule in policy.rules], default=policy.retries)
        assert block.fails <= budget, "begun with all retries used"
        assert not policy.crash_limit or block.crashes < policy.crash_limit, "begun although it takes its nodes down"
        assert block.lease <= self._cancelled.get((block.job, attempt.task), block.lease), "leased after its cancel"
        assert self.now + block.needs.time_limit_s <= run.terms.must_end_by, "begun too late to end"
        run.begun.add((block.lease, attempt.task, block.attempt))
        assert run.terms.tasks_max is None or len(run.begun) <= run.terms.tasks_max, "begun more than it may"

    def run(self) -> None:
        """Until every task has an outcome; a history that takes too long is a bug."""
        self._start_run()
        if self.faults:
            self.at(self.now + self.random.uniform(0.0, 20.0), self._fault)
        self.at(self.now + 5.0, self._keep_going)
        while self._heap and not self.over:
            self.step()
        self.queue.check()
        files = [run.durable for run in self.runs]
        for row, file_row, _ in self.queue.outcomes.values():
            assert file_row is None or any(
                durable.get(file_row) == (row.lease, row.task, row.attempt) for durable in files
            )

    def step(self) -> None:
        """The next event."""
        self.now, _, step = heapq.heappop(self._heap)
        step()
        assert self.now < 50_000, "nothing moves any more"

    @property
    def over(self) -> bool:
        if not self.changed:
            return False
        self.changed = False
        return not any(self.queue.counts(job)[state] for job in self._policies for state in UNFINISHED)

    def _start_run(self) -> None:
        nodes = self._nodes or [self.random.randint(1, 3) for _ in range(self.random.randint(1, 4))]
        terms, tags = RunTerms(20.0), ()
        if self.faults and len(self.runs) % 3 == 0:  # others take whatever there is
            ends = self.now + self.random.choice((inf, inf, 60.0, 300.0))
            terms = RunTerms(20.0, self.random.choice((None, None, 5, 40)), must_end_by=ends)
            tags = self.random.choice(((), ("*",), ("a", "*"), ("b=x",)))
        run = Run.__new__(Run)
        self.runs.append(run)
        run.__init__(self, nodes, terms, tags)  # type: ignore[misc]

    def _keep_going(self) -> None:
        """A user who starts the next run when the last one is over."""
        if not any(run.alive and not run.finished for run in self.runs):
            self._start_run()
        self.at(self.now + 5.0, self._keep_going)

    def _fault(self) -> None:
        living = [run for run in self.runs if run.alive and not run.finished]
        if living:
            run = self.random.choice(living)
            match self.random.choice(FAULTS):
                case "drain":
                    self.queue.drain(run.id, now=self.random.random() < 0.5)
                case "cancel" | "retry" as verb:
                    self._change(verb)
                case "kill":
                    run.alive = False
                case "freeze":
                    run.freeze(self.random.uniform(1.0, 3.0) * LIMITS.lease_s)
                case "brief freeze":
                    run.freeze(self.random.uniform(0.1, 5.0))
                case "stop":
                    run.arrive(0, 0, Role.DISPATCHER, StopAsked(15, 0))
                case "silence":
                    run.silent.add(self.random.choice(run.roles.leaders))
                    if 0 in run.silent:
                        run.alive = False
                case "another":
                    self._start_run()
        if self.now < 1000.0 + FAULTS_END_S:
            self.at(self.now + self.random.expovariate(1 / (self._scale_s * 10)), self._fault)

    def _change(self, verb: str) -> None:
        """What people do to some tasks of a job."""
        job = self.random.choice(list(self._policies))
        lo = self.random.randint(1, 60)
        hi = lo + self.random.choice((1, 10, 1000))
        tasks = [task for of, task in self._needs if of == job and lo <= task < hi]
        if verb == "cancel":
            self.queue.cancel(job, lo, hi)
            self._cancelled.update(((job, task), self.queue.leases_given) for task in tasks)
            by_s = LIMITS.heartbeat_every_s + LIMITS.term_to_kill_s + 2.0
            self.at(self.now + by_s, lambda last=self.queue.leases_given: self._must_have_ended(job, lo, hi, last))
        else:
            self.queue.retry(job, lo, hi)
            self._cancelled = {key: lease for key, lease in self._cancelled.items() if key[0] != job}  # and dependants
        self.changed = True
        self.queue.check()

    def _must_have_ended(self, job: JobId, lo: int, hi: int, last_lease: int) -> None:
        """Asserts that no run that could hear runs a task that was cancelled a while ago."""
        for run in self.runs:
            if not run.alive or run.thaws_at or run.silent:
                continue
            for launcher in run.launchers.values():
                for attempt in launcher.machine.running.values():
                    block = attempt.block
                    hit = block.job == job and lo <= attempt.task < hi and block.lease <= last_lease
                    assert not hit, "a cancelled task runs on"
