"""What `mpifarm run` was asked to do, as plain data: read by every rank, so it imports nothing of the command line."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from mpifarm.core.dispatcher.ending import NO_MORE, RunTerms
from mpifarm.core.needs import Needs, Resources
from mpifarm.rank.nodes import NodeTerms
from mpifarm.rank.striping import Stripes


@dataclass(frozen=True, slots=True)
class RunOptions:
    """The options of one `mpifarm run`; the defaults are those of the command line."""

    dsn: str | None = None
    pass_dsn: bool = False
    """Tasks inherit MPIFARM_DSN (see `handed_down`)."""
    """None: find it as `submit` and `report` do."""
    output: Path = Path()
    """Directory of the run file."""
    grace_s: float = 30.0
    """What running tasks are given to finish once the run is told to stop."""
    exit_code: bool = False
    """Exit with 1 when a task of this run failed."""
    jobs: tuple[str, ...] = ()
    """Names of the jobs to work on; none: all."""
    tags: tuple[str, ...] = ()
    """Words that jobs must match, the first first: NAME, NAME=VALUE or *; none: all jobs."""
    tasks_max: int | None = None
    """Begin so many attempts, then end."""
    idle_exit_s: float | None = None
    """Leave after so long without work; None: at once."""
    wait_for_work_s: float | None = None
    """How long to wait for the first task; without `idle_exit_s` also for more. inf: for ever."""
    queue_timeout_s: float = 300.0
    """Exit with 4 when there is nothing left to do and the queue cannot be reached for so long."""
    walltime_s: float | None = None
    """From the start of the run; None: what the batch system says."""
    cpus: int | None = None
    """Slots per node; None: the cores of the ranks' affinity masks."""
    mem: int | None = None
    """Bytes of memory per node; None, here and below: what there is."""
    gpus: int | None = None
    resource: Resources = ()
    """Named ones that each node has."""
    reserve_cores: int = 0
    no_pin: bool = False
    """Attempts are not held to cores of their own."""
    local: int | None = None
    """Start this many ranks on this machine first."""
    quiet: bool = False
    compress: str = "gzip"
    """How outputs are compressed: none, gzip or zstd."""
    stripes: Stripes = field(default_factory=Stripes)
    """Of the run file, on Lustre."""

    def of_nodes(self) -> NodeTerms:
        return NodeTerms(self.cpus, self.mem, self.gpus, self.resource, self.reserve_cores, not self.no_pin)

    def terms(self, must_end_by: float, usr1_ranks: int = 1, room: Needs = NO_MORE) -> RunTerms:
        """When the run ends. must_end_by: Unix seconds; usr1_ranks: so many must catch a SIGUSR1."""
        idle_s, first_idle_s = self.idle_exit_s, self.wait_for_work_s
        return RunTerms(
            self.grace_s,
            self.tasks_max,
            first_idle_s=(idle_s or 0.0) if first_idle_s is None else first_idle_s,
            idle_s=(first_idle_s or 0.0) if idle_s is None else idle_s,
            must_end_by=must_end_by,
            usr1_ranks=usr1_ranks,
            room=room,
        )


@dataclass(frozen=True, slots=True)
class CommandLine:
    """The words after `mpifarm run`, and what reads them: click, which only rank 0 loads."""

    argv: list[str]
    parse: Callable[[list[str]], RunOptions]

    def options(self) -> RunOptions:
        """Raises UsageError, or SystemExit once `--help` is answered."""
        return self.parse(self.argv)
