"""The recorder's door to the run file.

It appends what has come and lets a second thread sync it; what comes meanwhile is appended and synced next time. So one
fsync serves everything that waits for it, and disk and tasks are busy at the same time. In trouble (a full disk)
it keeps what it was asked and goes on trying. Outputs are kept until they are synced: when the file breaks, they are
written again, under the same numbers, to the next one (see `mpifarm.runfile.parts`).
"""

from __future__ import annotations

import signal
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from mpifarm.core.model import Limits
from mpifarm.core.protocol.actions import Append, Appended, AppendEvent, CloseRunFile, OpenRunFile, Stored
from mpifarm.core.protocol.messages import Event, FileClosed, FileOpened, FileTrouble, OpenFile, Output, Role
from mpifarm.errors import NoRoom, OutputError
from mpifarm.launch.arena import Arena
from mpifarm.rank.queue_door import Door, Inbox
from mpifarm.runfile.parts import Before, Counts, next_path, unused

if TYPE_CHECKING:
    from mpifarm.runfile.writer import Writer

_T = TypeVar("_T")

RETRY_S = 1.0
PARTS_TRIED = 10
"""So often the next file is tried, when it breaks as the one before it did."""


class _Synced:
    """The sync is over, of the first `count` outputs that were not synced, up to `counts`; `error`: it failed, for
    good."""

    def __init__(self, count: int, counts: Counts, error: str) -> None:
        self.count = count
        self.counts = counts
        self.error = error


class _Syncer(Door):
    """The thread in which fsync waits for the disk."""

    def __init__(
        self, synced: Callable[[_Synced], None], inbox: Inbox, on_bug: Callable[[BaseException], None]
    ) -> None:
        super().__init__("run-file-sync", inbox, on_bug)
        self._synced = synced

    def _work(self) -> None:
        while (order := self._asks.get()) is not None:
            writer, count, counts = order
            error = ""
            try:
                writer.fsync()
            except OutputError as failure:
                error = str(failure)
            self._synced(_Synced(count, counts, error))


class FileDoor(Door):
    """The only writer of the run file. `arena`: of the leader on this node, if it can be seen."""

    def __init__(
        self, limits: Limits, arena: Arena | None, inbox: Inbox, on_bug: Callable[[BaseException], None]
    ) -> None:
        super().__init__("run-file", inbox, on_bug)
        self._limits = limits
        self._arena = arena
        self._order: OpenFile | None = None
        self._writer: Writer | None = None
        self._first_path = Path()
        self._parts = self._tries = 0
        """Files that were left; files that broke since the last good sync."""
        self._before = Before(Path(), Counts())
        """The last file that was left, where there is one."""
        self._spare: Path | None = None
        """One that broke before anything in it counted: the next takes its place."""
        self._synced = Counts()
        """As of the last good sync."""
        self._syncer = _Syncer(self._asks.put, inbox, on_bug)
        self._todo: deque[Any] = deque()
        """Taken from the asks, in order."""
        self._closing = False
        """What cannot be written now will not be."""
        self._syncing = False
        self._unsynced: deque[tuple[Stored, Output]] = deque()
        """Appended, in order; `_unsynced_bytes` in all."""
        self._unsynced_bytes = 0
        self._asked_bytes = self._done_bytes = 0  # one is counted by the loop, one here: no lock

    def start(self) -> None:
        super().start()
        self._syncer.start()

    def ask(self, action: object) -> None:
        if isinstance(action, Append):
            self._asked_bytes += action.output.size
        elif isinstance(action, CloseRunFile):
            self._closing = True
        super().ask(action)

    @property
    def hungry(self) -> bool:
        """Whether it can take more outputs: what it has not appended is in memory."""
        return self._asked_bytes - self._done_bytes < self._limits.recorder_bytes_max

    def _work(self) -> None:
        while True:
            self._todo.append(self._asks.get())
            while not self._asks.empty():
                self._todo.append(self._asks.get())
            while self._todo:
                match ask := self._todo.popleft():
                    case OpenRunFile():
                        self._open(ask.order)
                    case Append(output):
                        self._append(output)
                    case AppendEvent(event):
                        self._persist(partial(_said, event), self._settle)
                    case _Synced():
                        self._end_sync(ask)
                    case _:
                        self._close()
                        if ask is None:
                            return
            self._begin_sync()

    def _open(self, order: OpenFile) -> None:
        from mpifarm.runfile.writer import Writer  # h5py: on the recorder's rank only

        self._order = order
        try:
            path = Path(order.path) if order.made else unused(Path(order.path))
            self._first_path = path
            self._writer = Writer(path, order.attributes, order.nodes, order.compress, made=order.made)
        except OutputError as error:
            self._tell(str(error), fatal=True)
            return
        self._inbox.post(Role.RECORDER, FileOpened(str(path)))

    def _append(self, output: Output) -> None:
        size = output.size
        self._done_bytes += size
        if self._writer is None:
            return
        if self._unsynced_bytes > self._limits.unsynced_bytes_max:
            self._settle()
        if output.cells:
            assert self._arena is not None
            arena = self._arena  # whose cells are soon for others
            chunks = tuple((squeezed, bytes(arena.cell(cell)[:length])) for squeezed, cell, length in output.cells)
            output = replace(output, chunks=chunks, cells=())
        appended = self._persist(lambda writer: writer.append(output), self._settle)
        if appended is None or self._writer is None:
            return
        self._unsynced.append((Stored(output.rank, appended.rows, appended.first_row, output.tails), output))
        self._unsynced_bytes += size
        self._inbox.post(Role.RECORDER, Appended(output.rank, self._writer.extents))

    def _begin_sync(self) -> None:
        """Sync what is appended, unless that is under way; `_end_sync` then comes here again."""
        if self._syncing or not self._unsynced:
            return
        if self._persist(_flushed) and self._writer is not None:
            self._syncing = True
            self._syncer.ask((self._writer, len(self._unsynced), self._writer.counts))

    def _end_sync(self, synced: _Synced) -> None:
        self._syncing = False
        if synced.error:
            self._go_on_elsewhere()
            return
        self._synced, self._tries = synced.counts, 0
        for _ in range(synced.count):
            stored, output = self._unsynced.popleft()
            self._unsynced_bytes -= output.size
            self._inbox.post(Role.RECORDER, stored)

    def _settle(self) -> None:
        """Wait until all that is appended is synced, if it can be."""
        while self._unsynced and self._writer is not None:
            self._begin_sync()
            if not self._syncing:
                return
            self._wait_for_sync()

    def _wait_for_sync(self) -> None:
        while self._syncing:
            ask = self._asks.get()
            if isinstance(ask, _Synced):
                self._end_sync(ask)
            else:
                self._todo.append(ask)

    def _close(self) -> None:
        self._settle()
        self._persist(_found)
        writer, self._writer = self._writer, None
        if writer is not None:
            try:
                with _limited(self._limits.file_call_s):
                    writer.close()
            except OutputError as error:
                self._tell(
                    f"{error}. All that was recorded is in it; if it cannot be read: mpifarm repair {writer.path}"
                )
        self._inbox.post(Role.RECORDER, FileClosed())

    def _tell(self, reason: str, *, fatal: bool = False) -> None:
        self._inbox.post(Role.RECORDER, FileTrouble(reason, fatal))

    def _persist(self, step: Callable[[Writer], _T], meanwhile: Callable[[], None] | None = None) -> _T | None:
        """Do one step; while there is no room, tell why once and try again, after doing `meanwhile` once; when the file
        is broken, in the next one. None: given up, for there is no file or the run ends."""
        told = ""
        while (writer := self._writer) is not None:
            try:
                with _limited(self._limits.file_call_s):
                    return step(writer)
            except OutputError as error:
                reason = str(error)
            if writer.broken:
                self._wait_for_sync()
                if self._writer is writer:  # else the sync has seen to it
                    self._go_on_elsewhere()
                continue
            if reason != told:
                told = reason
                self._tell(reason)
            if self._closing or self._leaving.is_set():
                return None
            if meanwhile is not None:
                meanwhile()
                meanwhile = None
            self._pause(RETRY_S)
        return None

    def _go_on_elsewhere(self) -> None:
        """Leave the broken file as it was at its last good sync, and write what came after that to the next one."""
        told = self._leave()
        while self._tries < PARTS_TRIED:
            try:
                with _limited(self._limits.file_call_s):
                    self._writer = self._next(self._before)
                self._inbox.post(Role.RECORDER, FileOpened(str(self._writer.path)))
                return
            except OutputError as error:
                why = str(error)
                self._tries += not isinstance(error, NoRoom) or self._closing
                if why != told:
                    told = why
                    self._tell(why)
            if self._leaving.is_set():
                break
            self._pause(RETRY_S)
        self._tell(told, fatal=True)

    def _leave(self) -> str:
        """Let go of the broken file, and tell. Returns why."""
        broken, self._writer = self._writer, None
        assert broken is not None
        self._tries += 1
        kept, why = broken.path, broken.broken
        try:
            with _limited(self._limits.file_call_s):
                kept = broken.leave()
        except OutputError as error:
            why = f"{why}, and its content is lost: {error}"
        else:
            why = f"{why}; its content is in {kept}" if broken.displaced else why
        self._tell(f"{why}; the run goes on in another file")
        if self._before.path.name and self._before.counts == self._synced and not broken.displaced:
            self._spare = kept  # nothing in it counts, but the queue may know its name: it leads to the one before
        else:
            self._before, self._spare = Before(kept, self._synced), None
            self._parts += 1
        return why

    def _next(self, before: Before) -> Writer:
        """The next file, with what is not synced. Raises OutputError, and leaves none."""
        from mpifarm.runfile.writer import Writer

        order = self._order
        assert order is not None
        path = next_path(self._first_path, self._parts + 1)
        path.parent.mkdir(parents=True, exist_ok=True)
        writer = Writer(path, order.attributes, order.nodes, order.compress, after=before)
        try:
            for stored, output in self._unsynced:
                appended = writer.append(output)
                assert appended.first_row == stored.first_row
            if self._spare is not None:
                with suppress(OSError):  # its directory is gone, say: then it has a name of its own
                    writer.path = path.replace(self._spare)
                self._spare = None
        except OutputError:
            writer.broken = "given up"
            writer.leave()
            path.unlink()
            raise
        return writer


def _said(event: Event, writer: Writer) -> None:
    writer.events([(event.at, event.text)])


def _flushed(writer: Writer) -> bool:
    writer.flush()
    return True


def _found(writer: Writer) -> bool:
    writer.find()
    return True


@contextmanager
def _limited(seconds: float) -> Iterator[None]:
    """HDF5 may never come back, and lets no other thread of this process run: then the system ends the process."""
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
