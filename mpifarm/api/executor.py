"""`mpifarm.Executor`: Python's own concurrent.futures interface over the queue, so that any number of runs on any
number of nodes make the calls of a script or notebook.

Callers put calls into a buffer; one thread owns the connection: it adds what is buffered to the executor's job, and
looks which tasks have ended, whose values it reads from the run files. Numbers of tasks count up in the order of
submits, so that a future is found by its number. Must never import click or mpi4py.
"""

from __future__ import annotations

import concurrent.futures
import os
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mpifarm.calls.call import NotACallError, Senders
from mpifarm.core.model import JobId, Kind, Part, TaskText
from mpifarm.core.needs import Needs
from mpifarm.core.protocol.facts import Terms
from mpifarm.core.ranges import runs_of
from mpifarm.errors import FarmError, UsageError
from mpifarm.process import Program, running_program
from mpifarm.startup.handed_down import DSN
from mpifarm.startup.own_process import own_command

if TYPE_CHECKING:
    from mpifarm.api.outputs import Job
    from mpifarm.queue.client import Client

LOOK_S = (0.02, 0.5)
"""First and longest pause between two looks; futures resolve within a second."""
AT_ONCE = 10_000
"""Calls that are added to the job in one transaction, and tasks asked for in one look."""
AHEAD = 20_000
"""Calls of one `map` that are queued and not yielded yet: a million items need no memory for a million futures."""
FOR_EVER = "1000d"
"""As --idle-exit takes it."""


class TaskCancelled(FarmError):
    """Its task was cancelled in the queue, or its job was dropped."""


class CallFailed(FarmError):
    """The call ended its interpreter, or was ended; `failure` says how."""

    def __init__(self, failure: str, said: str) -> None:
        super().__init__(said)
        self.failure = failure


class Executor(concurrent.futures.Executor):
    """Makes calls on the nodes of whatever runs work on the queue; `local=4` starts a run with 4 slots here, which ends
    with the executor. `name`: of the job. Values that were pickled are unpickled: they are this program's own.

    >>> import mpifarm, operator
    >>> with mpifarm.Executor(local=2) as farm:
    ...     farm.submit(operator.add, 1, 2).result()
    ...     list(farm.map(abs, [-1, 2, -3]))
    3
    [1, 2, 3]
    """

    def __init__(
        self, *, name: str = "python", local: int = 0, cpus: int = 1, time_limit_s: float = 0.0, dsn: str | None = None
    ) -> None:
        self._name, self._dsn = name, dsn
        self._needs = Needs(cpus, time_limit_s=time_limit_s)
        self._lock = threading.Lock()
        self._wake = threading.Event()
        self._new: deque[tuple[bytes, concurrent.futures.Future[Any]]] = deque()
        self._closed = self._cancelling = False
        self._senders = Senders()
        self._local = local
        self._keeper = _Keeper(self)
        self._thread = threading.Thread(target=self._keeper.work, name="mpifarm.Executor", daemon=True)
        self._thread.start()

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> concurrent.futures.Future[Any]:
        """Queue one call. What cannot be sent becomes the future's exception. Raises RuntimeError after shutdown."""
        future: concurrent.futures.Future[Any] = concurrent.futures.Future()
        try:
            body = self._senders.body(fn, args, kwargs)
        except NotACallError as error:
            with self._lock:
                self._refuse_closed()
            future.set_exception(UsageError(str(error)))
            return future
        with self._lock:
            self._refuse_closed()
            self._new.append((body, future))
        self._wake.set()
        return future

    def map(
        self, fn: Callable[..., Any], *iterables: Iterable[Any], timeout: float | None = None, chunksize: int = 1
    ) -> Iterator[Any]:
        """Values in the order of the items. No more than `AHEAD` calls are queued before they are yielded; `chunksize`
        means nothing here: calls travel in blocks anyway."""
        assert chunksize
        end = None if timeout is None else time.monotonic() + timeout
        items = zip(*iterables)
        ahead: deque[concurrent.futures.Future[Any]] = deque()

        def fill() -> None:
            while len(ahead) < AHEAD and (each := next(items, None)) is not None:
                ahead.append(self.submit(fn, *each))

        fill()

        def values() -> Iterator[Any]:
            try:
                while ahead:
                    future = ahead[0]
                    value = future.result(None if end is None else max(end - time.monotonic(), 0.0))
                    ahead.popleft()
                    fill()
                    yield value
            finally:
                for future in ahead:
                    future.cancel()

        return values()

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """Take no more calls; by default wait for those there are. `cancel_futures`: what has not begun does not."""
        with self._lock:
            self._closed = True
            self._cancelling |= cancel_futures
        self._wake.set()
        if wait:
            self._thread.join()

    def _refuse_closed(self) -> None:
        if self._keeper.broken is not None:
            raise concurrent.futures.BrokenExecutor(str(self._keeper.broken)) from self._keeper.broken
        if self._closed:
            raise RuntimeError("cannot schedule new futures after shutdown")


class _Keeper:
    """What the thread of an executor does: it alone speaks to the queue."""

    def __init__(self, executor: Executor) -> None:
        self._executor = executor
        self._futures: dict[int, concurrent.futures.Future[Any]] = {}
        """Of tasks that have not ended, by number."""
        self._job: JobId | None = None
        self._tasks = 0
        self._opened: Job | None = None
        self.broken: BaseException | None = None

    def work(self) -> None:
        """Until the executor is shut down and nothing is left; what goes wrong here breaks every future."""
        try:
            with ExitStack() as stack:
                self._serve(stack)
        except BaseException as error:
            self.broken = error
            left = [*self._futures.values(), *(future for _, future in self._executor._new)]
            for future in left:
                if not future.done() and future.set_running_or_notify_cancel():
                    future.set_exception(concurrent.futures.BrokenExecutor(f"the queue is lost: {error}"))

    def _serve(self, stack: ExitStack) -> None:
        from mpifarm.api.queue import open_queue

        executor = self._executor
        queue = stack.enter_context(open_queue(executor._dsn))
        run: Program | None = None
        pause_s = LOOK_S[0]
        while True:
            executor._wake.wait(pause_s)
            executor._wake.clear()
            added = self._add(queue)
            if run is None and executor._local and self._job is not None:
                run = stack.enter_context(_run_here(executor._local, self._job, executor._dsn))
            leaves = concurrent.futures.Future.cancel if executor._cancelling else concurrent.futures.Future.cancelled
            self._cancel(queue, [number for number, future in self._futures.items() if leaves(future)])
            ended = self._look(stack)
            if executor._closed and not self._futures and not executor._new:
                return
            if run is not None and self._futures and (code := run.poll()) is not None:
                raise FarmError(f"the run here has ended with exit code {code}")
            pause_s = LOOK_S[0] if added or ended else min(1.5 * pause_s, LOOK_S[1])

    def _add(self, queue: Client) -> int:
        """Queue what was submitted since; the number of tasks."""
        executor = self._executor
        added = 0
        while executor._new:
            batch: list[tuple[bytes, concurrent.futures.Future[Any]]] = []
            while executor._new and len(batch) < AT_ONCE:
                body, future = executor._new.popleft()
                if future.cancelled():
                    future.set_running_or_notify_cancel()  # which tells those that wait for several
                else:
                    batch.append((body, future))
            if not batch:
                break
            for number, (_, future) in enumerate(batch, self._tasks + 1):
                self._futures[number] = future
            terms = Terms(name=None, job=self._job)
            part = Part(executor._needs, [TaskText(body) for body, _ in batch], (), Kind.FUNCTION)
            done = queue.submit_on(terms, executor._name, os.fsencode(Path.cwd()), iter([part]))
            assert done.job is not None
            self._job = done.job.id
            self._tasks += len(batch)
            added += len(batch)
        return added

    def _cancel(self, queue: Client, numbers: list[int]) -> None:
        for number in numbers:
            self._futures.pop(number).set_running_or_notify_cancel()
        if numbers and self._job is not None:
            queue.cancel(self._job, ranges=runs_of(sorted(numbers)))

    def _look(self, stack: ExitStack) -> int:
        """Resolve the futures of tasks that have ended; how many."""
        from mpifarm.api.outputs import open_job

        if not self._futures or self._job is None:
            return 0
        if self._opened is None:
            self._opened = stack.enter_context(open_job(str(self._job), self._executor._dsn))
        ended = 0
        numbers = sorted(self._futures)
        for at in range(0, len(numbers), AT_ONCE):
            for task in self._opened.ended(runs_of(numbers[at : at + AT_ONCE])):
                self._resolve(task)
                ended += 1
        return ended

    def _resolve(self, task: Any) -> None:
        future = self._futures.pop(task.task)
        if not future.set_running_or_notify_cancel():
            return
        assert self._opened is not None
        try:
            if task.state == "cancelled":
                raise TaskCancelled(f"task {task.task} of job {task.job} was cancelled")
            if task.state == "failed" and task.failure != "exception":
                how = f"exit code {task.exit_code}" if task.exit_code else f"signal {task.signal}"
                raise CallFailed(task.failure, f"task {task.task} of job {task.job} failed: {task.failure} ({how})")
            value = self._opened.value(task, unpickle=True)
        except BaseException as error:
            future.set_exception(error)
        else:
            future.set_result(value)


@contextmanager
def _run_here(slots: int, job: JobId, dsn: str | None) -> Iterator[Program]:
    """A run on this machine for one job, ended at the end."""
    words = ["run", "--local", "2", "--cpus", str(slots), "--jobs", str(job), "--idle-exit", FOR_EVER, "--quiet"]
    environ = {**os.environ, **({DSN: dsn} if dsn else {})}
    with running_program(own_command(*words, "--grace", "0s"), environ) as program:
        yield program
