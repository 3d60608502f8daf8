"""`mpifarm run`, the composition root: brings one MPI world up, gives each rank its roles, and ends it in order.

Start-up order matters. The launcher is forked first, while the process is small and knows no MPI (a fork after
MPI_Init is undefined on most fabrics). Then MPI. Only rank 0 reads the command line (click) and opens the database
(psycopg), only the recorder's rank imports h5py: a hundred thousand ranks must not load what one of them needs.
"""

from __future__ import annotations

import os
import shlex
import socket
import sys
import time
import traceback
from collections import Counter
from dataclasses import dataclass
from functools import partial
from math import inf
from pathlib import Path
from typing import TYPE_CHECKING

from mpifarm import __version__
from mpifarm.core.dispatcher.dispatcher import Dispatcher
from mpifarm.core.dispatcher.ending import duration
from mpifarm.core.leader.leader import Leader
from mpifarm.core.model import Limits, NodeShape, RunId, State
from mpifarm.core.plural import counted
from mpifarm.core.protocol.actions import Finished, RunOpened
from mpifarm.core.protocol.messages import VERSION, Exit, OpenFile, Role
from mpifarm.core.protocol.verbs import RunInfo
from mpifarm.core.recorder.recorder import Recorder
from mpifarm.core.roles import Roles, assign
from mpifarm.errors import FarmError, NothingToDo, SiteError
from mpifarm.launch import arena
from mpifarm.launch.launcher import Launcher, fork_launcher
from mpifarm.rank.allocation import Allocation, find_allocation
from mpifarm.rank.file_door import FileDoor
from mpifarm.rank.loop import Loop, Silent
from mpifarm.rank.nodes import RankHello, files_allowed, node_shapes, room_of_all
from mpifarm.rank.offers import Offer, find_offer
from mpifarm.rank.pack_door import PackDoor
from mpifarm.rank.queue_door import Inbox, QueueDoor
from mpifarm.rank.striping import Made, make_striped
from mpifarm.rank.summary import summary
from mpifarm.runfile.parts import unused
from mpifarm.startup.handed_down import withhold
from mpifarm.startup.launched import by_hydra, has_parent, promised
from mpifarm.startup.own_process import INTERRUPTED, Interrupts, interruptible, live_with
from mpifarm.units import listed

if TYPE_CHECKING:
    from mpifarm.queue import Queue
    from mpifarm.queue.run_verbs import PostgresQueue
    from mpifarm.rank.comm import World
    from mpifarm.rank.options import CommandLine
    from mpifarm.show.progress import Progress

BUG = 70
"""Exit code when mpifarm itself is wrong (EX_SOFTWARE)."""


@dataclass(frozen=True, slots=True)
class Plan:
    """What rank 0 tells everybody before the loop; `error`: nothing will run, leave with `code`."""

    roles: Roles
    nodes: tuple[NodeShape, ...]
    must_end_by: float = inf
    """Unix seconds, for tasks."""
    arena: str = ""
    """That of the leader on the recorder's node."""
    compress: str = "gzip"
    error: str = ""
    code: int = 0


def main(words: CommandLine, interrupts: Interrupts) -> int:
    """One rank of `mpifarm run`. Returns the exit code."""
    told, parent = promised(os.environ), os.getppid() if has_parent(os.environ) else None
    launcher = fork_launcher(partial(withhold, words.argv), parent=parent)
    live_with(parent, proxy=by_hydra(os.environ))
    try:
        from mpifarm.rank.comm import World

        # Only the first rank may need a command to know when the allocation ends, and only here may it run one.
        first = told.rank == 0 and not any(word.startswith("--walltime") for word in words.argv)
        allocation = find_allocation(os.environ, ask=first)
        offer = find_offer(os.environ)
        world = World()
        interrupts.remember()
    except FarmError as error:
        launcher.close()
        if str(error):
            print(f"mpifarm: {error}", file=sys.stderr)
        return error.exit_code
    try:
        return _main_in_world(world, launcher, interrupts, words, (allocation, offer))
    except BaseException:
        # A rank that dies alone would leave the others waiting for ever: the world ends with it, and the queue takes
        # back what it held.
        print(f"mpifarm: rank {world.rank} of {world.size} on {socket.gethostname()}:", file=sys.stderr)
        traceback.print_exc()
        sys.stderr.flush()
        world.abort(BUG)
        return BUG


def _main_in_world(
    world: World, launcher: Launcher, interrupts: Interrupts, words: CommandLine, found: tuple[Allocation, Offer]
) -> int:
    allocation, offer = found
    session: Session | None = None
    roles = assign(world.leader_of_ranks())
    cpus = tuple(sorted(os.sched_getaffinity(0)))
    hello = RankHello(
        socket.gethostname(), cpus, (__version__, VERSION), launcher.arena.path, interrupts.seen, files_allowed(), offer
    )
    hellos = world.gather(hello)
    plan: Plan | None = None
    if world.rank == roles.recorder:
        import mpifarm.runfile.writer  # noqa: F401 - while rank 0 opens the queue, not between that and the first task
    if hellos is not None:
        try:
            with interruptible():
                if any(hello.interrupted for hello in hellos):
                    raise KeyboardInterrupt
                session = Session(words, roles, hellos, allocation)
            arena_path = hellos[roles.leader_of(roles.recorder)].arena
            plan = Plan(roles, session.nodes, session.must_end_by, arena_path, session.options.compress)
        except SystemExit as error:  # click has said what is wrong
            plan = Plan(roles, (), error="usage", code=error.code if isinstance(error.code, int) else 2)
        except KeyboardInterrupt:
            plan = Plan(roles, (), error="interrupted", code=INTERRUPTED)
        except FarmError as error:
            print(f"mpifarm: {error}", file=sys.stderr)
            plan = Plan(roles, (), error="stopped", code=error.exit_code)
    plan = world.everywhere(plan)
    if plan.error:
        launcher.close()
        world.finish()
        return plan.code
    return _work(world, launcher, interrupts, plan, session)


def _work(world: World, launcher: Launcher, interrupts: Interrupts, plan: Plan, session: Session | None) -> int:
    """Carry this rank's roles until the run is over."""
    limits = Limits(queue_timeout_s=session.options.queue_timeout_s) if session else Limits()
    rank, roles = world.rank, plan.roles
    leads = roles.leader_of(rank) == rank
    if not leads and rank != roles.recorder:  # whose guardian sees whether HDF5 comes back
        launcher.close()
    seen = None
    if rank == roles.recorder:
        seen = launcher.arena if leads else arena.attach(plan.arena)
    shared = world.everywhere(seen is not None, roles.recorder) and roles.leader_of(roles.recorder) == rank
    inbox = Inbox()

    def on_bug(error: BaseException) -> None:
        traceback.print_exception(error)
        sys.stderr.flush()
        world.abort(BUG)

    queue_door = QueueDoor(session.queue, session.run, limits, inbox, on_bug) if session else None
    pack_door = PackDoor(launcher.arena, shared, plan.compress, inbox, on_bug) if leads else None
    file_door = FileDoor(limits, seen, inbox, on_bug) if rank == roles.recorder else None
    loop = Loop(world, inbox, launcher if leads else None, queue_door, pack_door, file_door, session or Silent())
    loop.listen(launcher.stops)
    if interrupts.seen:
        loop.stop_soon()
    if file_door is not None:
        loop.carry(Role.RECORDER, Recorder(limits))
        file_door.start()
    if pack_door is not None:
        pack_door.start()
        number = roles.node_of[rank]
        leader = Leader(rank, plan.nodes[number], number, roles.recorder, limits)
        loop.carry(Role.LEADER, leader)
    if session is not None and queue_door is not None:
        slots = [(r, node.slots) for r, node in zip(roles.leaders, plan.nodes)]
        usr1 = world.size if by_hydra(os.environ) else 1
        terms = session.options.terms(plan.must_end_by, usr1, room_of_all(plan.nodes))
        dispatcher = Dispatcher(slots, roles.recorder, terms, limits, time.time())
        loop.carry(Role.DISPATCHER, dispatcher)
        session.watch(dispatcher)
        loop.log_to = roles.recorder
        queue_door.start()
        inbox.post(Role.DISPATCHER, RunOpened(session.run, session.file(roles, world.library, launcher)))
    if leads:
        loop.perform(leader.start(time.time(), plan.must_end_by))
    loop.run()
    ended_at = time.time()
    launcher.close()
    for door, timeout_s in ((queue_door, 5.0), (pack_door, 5.0), (file_door, 30.0)):
        if door is not None:
            door.leave(timeout_s=timeout_s)
    code = 0
    if session is not None and loop.finished is not None:
        code = session.end(loop.finished, ended_at)
        if session.lost_nodes:
            # MPI cannot end in order with a member missing; all that matters is on disk and printed.
            world.abort(code)
        for other in range(1, world.size):
            world.send(other, Exit())
    world.finish()
    return code


class Session:
    """Rank 0's side of a run: command line, queue, the person watching."""

    def __init__(self, words: CommandLine, roles: Roles, hellos: list[RankHello], allocation: Allocation) -> None:
        """Raises FarmError (or SystemExit from click) before anything was started."""
        from mpifarm.show.progress import Progress

        self.options = words.options()
        odd = {hello.version for hello in hellos} - {(__version__, VERSION)}
        if odd:
            raise SiteError(f"ranks run different versions of mpifarm: {__version__} here, {sorted(odd)} elsewhere")
        self.nodes, fewer = node_shapes(roles, hellos, self.options.of_nodes())
        if fewer:
            self.say(fewer)
        self.allocation = allocation
        self._started = time.time()
        self.must_end_by = must_end_by(self.options.walltime_s, allocation, self._started)
        self.slots = sum(node.slots for node in self.nodes)
        self._argv = words.argv
        self._ranks = len(hellos)
        self.queue, self.run = self._open_queue()
        self.lost_nodes = False
        self._progress: Progress = Progress("tasks")
        self._dispatcher: Dispatcher | None = None
        where = f" in {self.allocation.label}" if self.allocation.label else ""
        size = ", ".join([counted(self._ranks, "rank"), counted(len(self.nodes), "node"), counted(self.slots, "slot")])
        if self.must_end_by < inf:
            where += f", tasks may run for {duration(max(0.0, self.must_end_by - self._started))}"
        if not self.options.quiet:
            self.say(f"run {self.run}: {size}{where}; queue {self._queue_name}")

    def _open_queue(self) -> tuple[Queue, RunId]:
        from mpifarm.queue.run_verbs import PostgresQueue
        from mpifarm.server.dsn import find_dsn

        dsn = find_dsn(self.options.dsn, os.environ, Path.cwd())
        self._queue_name = str(dsn)
        queue = PostgresQueue.connect(dsn)
        try:
            return queue, self._begin(queue)
        except BaseException:
            queue.close()
            raise

    def _begin(self, queue: PostgresQueue) -> RunId:
        """The run's row, once it is plain that what was asked for means something."""
        from mpifarm.rank.description import command_line
        from mpifarm.server.liveness import boot_id

        jobs, tags = queue.names_of(self.options.jobs), self.options.tags
        if unmatched := queue.unmatched(tags) if tags else []:
            self.say(f"no job has a tag like {listed(unmatched)} now (mpifarm report shows them)")
            if len(unmatched) == len(tags) and not self.options.terms(inf).first_idle_s:
                raise NothingToDo("nothing to do (--wait-for-work stays until there is)")
        info = RunInfo(
            host=socket.gethostname(),
            pid=os.getpid(),
            boot=boot_id(),
            allocation=self.allocation.label,
            command=command_line(self._argv),
            version=__version__,
            nodes=len(self.nodes),
            ranks=self._ranks,
            slots=self.slots,
            node_names=tuple(node.name for node in self.nodes),
            jobs=jobs,
            tags=tags,
            room=room_of_all(self.nodes),
            seconds_left=None if self.must_end_by == inf else max(0.0, self.must_end_by - time.time()),
        )
        return queue.open_run(info)

    def file(self, roles: Roles, library: str, launcher: Launcher) -> OpenFile:
        """The order for the run file, named after the run. `library`: of MPI."""
        from mpifarm.rank.description import command_line, description

        ranks = Counter(roles.node_of)
        path = (self.options.output / f"mpifarm-run-{self.run}.h5").absolute()
        made = Made(False)
        if self.options.stripes.wanted:
            path = unused(path)
            made = make_striped(path, self.options.stripes, launcher.run_program)
            if made.said:
                self.say(made.said)
        nodes = tuple((node.name, ranks[number], node.slots) for number, node in enumerate(self.nodes))
        about = {
            "run": str(self.run),
            "command": command_line(self._argv),
            "allocation": self.allocation.label,
            "ranks": str(self._ranks),
            "mpi_library": library,
            "stripes": shlex.join(self.options.stripes.words()) if made.made else "",
        }
        return OpenFile(str(path), about | description(), nodes, self.options.compress, made.made)

    def watch(self, dispatcher: Dispatcher) -> None:
        self._dispatcher = dispatcher

    def say(self, text: str) -> None:
        """What matters is said even with --quiet: stopping, trouble, a lost node."""
        print(f"mpifarm: {text}", file=sys.stderr, flush=True)

    def tick(self) -> None:
        """Show how far it is."""
        if self._dispatcher is not None and not self.options.quiet:
            self._progress.show(*self._dispatcher.progress)

    def end(self, finished: Finished, ended_at: float) -> int:
        """Print how it went, close the queue. Returns the exit code. `ended_at`: Unix seconds."""
        self._progress.close()
        assert self._dispatcher is not None
        dispatcher = self._dispatcher
        self.queue.close()
        self.lost_nodes = dispatcher.nodes_lost > 0
        if finished.error:
            print(f"mpifarm: {finished.error}", file=sys.stderr, flush=True)
        ended = dispatcher.ledger.ended
        wall_s = ended_at - self._started
        print(summary(dispatcher.ledger, self.slots, wall_s, dispatcher.file_path), flush=True)
        if finished.code:
            return finished.code
        return 1 if self.options.exit_code and ended[State.FAILED] else 0


def must_end_by(walltime_s: float | None, allocation: Allocation, started: float) -> float:
    """When the last task must have ended, for what it left to be killed and all to be recorded in time. Unix seconds;
    `walltime_s`, if given, counts from `started`."""
    ends = allocation.ends if walltime_s is None else started + walltime_s
    limits = Limits()
    return inf if ends is None else ends - limits.last_record_s - limits.term_to_kill_s
