"""The farm of the chaos campaign: three runs on one queue in one directory, what is alive of them, and what can be done
to them. Everything that a run starts has CHAOS_RUN in its environment; tasks have MPIFARM_TASK besides."""

from __future__ import annotations

import errno
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import NamedTuple

import psycopg

from tests.fix_farm import Farm
from tests.fix_mpi import mpiexec
from tests.queue.proxy import Proxy

ORPHAN_S = 10.0
NOTICED = "the run goes on in another file"
STOPS = (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1, signal.SIGUSR2)
ERRORS = (errno.ENOSPC, errno.EDQUOT, errno.EIO)


class Process(NamedTuple):
    """One that is alive. `launcher`: pid of the launcher of a task, 0: it is no task but of the farm."""

    pid: int
    began: str
    run: int
    launcher: int


class Run:
    """One mpiexec with all that came of it."""

    def __init__(self, number: int, farm: Farm, ranks: int, proxy: Proxy, environ: dict[str, str]) -> None:
        self.number = number
        self.proxy = proxy
        self.spoilt = farm.cwd / f"spoilt-{number}"
        """While it exists writes to the run file fail."""
        self._said = farm.cwd / f"said-{number}"
        self._harmed_at = -1
        self.ended_at = 0.0
        options = ("run", "--cpus", "3", "--quiet", "--grace", "2s", "--idle-exit", "3s")
        with self._said.open("wb") as said:
            self.process = subprocess.Popen(
                [mpiexec(), "-n", str(ranks), sys.executable, "-m", "mpifarm", *options],
                cwd=farm.cwd,
                env={**farm.environ, **environ, "CHAOS_RUN": str(number), "FAULTY_WHILE": str(self.spoilt)},
                stdin=subprocess.DEVNULL,
                stdout=said,
                stderr=said,
                start_new_session=True,
            )

    def said(self) -> str:
        return self._said.read_text(errors="replace")

    @property
    def over(self) -> bool:
        if self.process.poll() is None:
            return False
        self.ended_at = self.ended_at or time.monotonic()
        return True

    def harmed(self) -> None:
        """Its file has lost its name: until it has seen that, kill -9 would lose what only the file holds."""
        self._harmed_at = len(self.said())

    @property
    def fragile(self) -> bool:
        """Nobody may kill it now."""
        if self._harmed_at >= 0 and NOTICED in self.said()[self._harmed_at :]:
            self._harmed_at = -1
        return self._harmed_at >= 0


class Site:
    """The runs, and the times at which what was done to them ends."""

    def __init__(self, farm: Farm, dsn: str, shim: str, chance: random.Random) -> None:
        self.farm = farm
        self._chance = chance
        self._shim = {"LD_PRELOAD": shim} if shim else {}
        self._mark = f"{os.getpid()}-{chance.randrange(1 << 30)}"
        socket = str(psycopg.conninfo.conninfo_to_dict(dsn)["host"])
        self._proxies = [Proxy(socket) for _ in range(3)]
        self._dsns = [psycopg.conninfo.make_conninfo(dsn, host="127.0.0.1", port=p.port) for p in self._proxies]
        self.runs: list[Run] = []
        self.ended: list[Run] = []
        self._later: list[tuple[float, Callable[[], object]]] = []
        self._orphans: dict[tuple[int, str], float] = {}
        self.started = 0
        self.ends_with = ExitStack()

    def close(self) -> None:
        self.ends_with.close()
        self.calm()
        for process in self.alive():
            _send(process.pid, signal.SIGKILL)
        for run in self.runs:
            run.process.wait(10)
        for proxy in self._proxies:
            proxy.__exit__()

    def start(self) -> None:
        """See that there are three runs, of one, two and three ranks."""
        for place in range(3):
            if place < len(self.runs):
                if not self.runs[place].over:
                    continue
                self.ended.append(self.runs[place])
            environ = {
                "MPIFARM_DSN": self._dsns[place],
                "CHAOS": self._mark,
                "CHAOS_LOG": str(self.farm.cwd / "log"),
                "FAULTY_SHARE": "0.3",
                "FAULTY_ERRNO": str(self._chance.choice(ERRORS)),
                **self._shim,
            }
            self.started += 1
            run = Run(self.started, self.farm, place + 1, self._proxies[place], environ)
            self.runs[place : place + 1] = [run]

    def alive(self) -> list[Process]:
        found = []
        for folder in Path("/proc").iterdir():
            if not folder.name.isdigit():
                continue
            try:
                words = (folder / "environ").read_bytes().split(b"\0")
                if f"CHAOS={self._mark}".encode() not in words:
                    continue
                stat = (folder / "stat").read_text().rpartition(")")[2].split()
            except OSError:
                continue
            if stat[0] in "ZX":
                continue
            values = dict(word.partition(b"=")[::2] for word in words)
            task = b"MPIFARM_TASK" in values
            launcher = int(values[b"MPIFARM_LAUNCHER"].split()[1]) if task else 0
            found.append(Process(int(folder.name), stat[19], int(values[b"CHAOS_RUN"]), launcher))
        return found

    def orphans(self) -> list[str]:
        """Lines about what has been left without run or launcher for too long."""
        now = time.monotonic()
        alive = self.alive()
        farms = {process.pid for process in alive if not process.launcher}
        over = {run.number for run in [*self.ended, *self.runs] if run.over}
        seen = {}
        for one in alive:
            if one.run in over or (one.launcher and one.launcher not in farms):
                seen[one.pid, one.began] = self._orphans.get((one.pid, one.began), now)
        self._orphans = seen
        return [
            f"orphan for {now - since:.0f} s: {_told(pid)}"
            for (pid, _), since in seen.items()
            if now - since > ORPHAN_S
        ]

    def tick(self) -> None:
        """End what is to end by now."""
        now = time.monotonic()
        due = [end for at, end in self._later if at <= now]
        self._later = [(at, end) for at, end in self._later if at > now]
        for end in due:
            end()

    def calm(self) -> None:
        """End all that was done."""
        for _, end in self._later:
            end()
        self._later = []

    def fault(self) -> str:
        """Do something bad; what it was. Empty: it could not be done now."""
        run = self._chance.choice(self.runs)
        kinds = (self._kill,) * 8 + (self._wire,) * 4 + (self._spoil,) * 2 + (self._harm,) * 2
        return self._chance.choice((*kinds, self._stop, self._stop, self._freeze))(run)

    def _some(self, run: Run) -> list[int]:
        """A set of the farm's processes: of this run, or of all; of a launcher and its guardian; not of tasks."""
        chance = self._chance
        runs = self.runs if chance.random() < 0.2 else [run]
        numbers = {one.number for one in runs if not one.fragile}
        members = [one.pid for one in self.alive() if not one.launcher and one.run in numbers]
        if chance.random() < 0.25:
            members = [pid for pid in members if _name(pid).startswith(("mpifarm-launch", "mpifarm-guard"))]
        share = chance.choice((0.2, 0.5, 1.0))
        return [pid for pid in members if chance.random() < share]

    def _kill(self, run: Run) -> str:
        doomed = self._some(run)
        told = " ".join(sorted(map(_name, doomed)))
        for pid in doomed:
            _send(pid, signal.SIGKILL)
        return f"kill {told}" if doomed else ""

    def _freeze(self, run: Run) -> str:
        frozen = self._some(run)
        told = " ".join(sorted(map(_name, frozen)))
        for pid in frozen:
            _send(pid, signal.SIGSTOP)
        self._after(self._chance.uniform(0.5, 3.0), lambda: [_send(pid, signal.SIGCONT) for pid in frozen])
        return f"freeze {told}" if frozen else ""

    def _stop(self, run: Run) -> str:
        """As a batch system does: to mpiexec alone, or to every process of the run and of its tasks."""
        number, everybody = self._chance.choice(STOPS), self._chance.random() < 0.6
        hears = [one.pid for one in self.alive() if one.run == run.number] if everybody else [run.process.pid]
        if run.over or (run.fragile and number == signal.SIGUSR2):  # of which hydra dies
            return ""
        for pid in hears:
            _send(pid, number)
        return f"{number.name} to {'all' if everybody else 'mpiexec'}"

    def _wire(self, run: Run) -> str:
        how = self._chance.choice(("cut", "lose_next_answer", "stall", "refuse"))
        getattr(run.proxy, how)()
        self._after(self._chance.uniform(0.2, 4.0), run.proxy.heal)
        return f"{how} the database"

    def _spoil(self, run: Run) -> str:
        if not self._shim or run.fragile:
            return ""
        run.spoilt.touch()
        self._after(self._chance.uniform(0.2, 4.0), lambda: run.spoilt.unlink(missing_ok=True))
        return "writes fail"

    def _harm(self, run: Run) -> str:
        """Take the run file away; not while its writes fail: nothing could save it then."""
        path = next((path for one in self.alive() if one.run == run.number if (path := _written(one.pid))), None)
        if path is None or run.fragile or run.spoilt.exists():
            return ""
        how = self._chance.choice(("remove", "move", "replace"))
        run.harmed()
        try:
            if how == "remove":
                path.unlink()
            elif how == "move":
                (self.farm.cwd / "old").mkdir(exist_ok=True)
                path.rename(self.farm.cwd / "old" / f"{path.name}-{self._chance.random()}")
            else:
                mine = self.farm.cwd / "mine"
                mine.write_text("mine\n")
                mine.rename(path)
        except FileNotFoundError:
            return ""
        return f"{how} the run file"

    def _after(self, seconds: float, end: Callable[[], object]) -> None:
        self._later.append((time.monotonic() + seconds, end))


def _send(pid: int, number: int) -> None:
    try:
        os.kill(pid, number)
    except ProcessLookupError:
        pass


def _name(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/comm").read_text().strip()
    except OSError:
        return "?"


def _told(pid: int) -> str:
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()[:80]
        return f"{pid} {_name(pid)} {Path(f'/proc/{pid}/cmdline').read_bytes()[:100]!r} {stat}"
    except OSError:
        return str(pid)


def _written(pid: int) -> Path | None:
    """The run file that a process writes, where it still has its name."""
    try:
        for entry in Path(f"/proc/{pid}/fd").iterdir():
            path = Path(os.readlink(entry))
            if path.suffix == ".h5" and path.exists() and path.stat().st_ino == entry.stat().st_ino:
                return path
    except OSError:
        pass
    return None
