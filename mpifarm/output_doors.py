"""The doors of the output: a leader's, which makes chunks of cells, and the recorder's, which writes them.

The file's door appends what has come and lets a second thread sync it; what comes meanwhile is appended and synced next
time. So one fsync serves everything that waits for it, and the disk and the tasks are busy at the same time. In trouble
(a full disk) it keeps what it was asked and goes on trying.
"""

from __future__ import annotations

import os
import threading
from collections import deque
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from mpifarm.core.actions import Append, Appended, AppendEvent, CloseRunFile, OpenRunFile, Pack, Packed, Stored
from mpifarm.core.chunks import Squeeze
from mpifarm.core.messages import FileClosed, FileOpened, FileTrouble, Output, Role
from mpifarm.core.model import Limits
from mpifarm.doors import Door, Inbox
from mpifarm.errors import OutputError
from mpifarm.launch.arena import CELL_BYTES, Arena
from mpifarm.output.codec import compressor

if TYPE_CHECKING:
    from mpifarm.output.writer import Writer

_T = TypeVar("_T")

NICE = 10
"""Of the thread that compresses: a tenth of a core where tasks keep all of them busy, and all it can use elsewhere."""

RETRY_S = 1.0


class PackDoor(Door):
    """Makes chunks of cells. To a recorder that sees the arena they stay in it, to others they go as bytes."""

    def __init__(
        self, arena: Arena, shared: bool, compress: str, inbox: Inbox, on_bug: Callable[[BaseException], None]
    ) -> None:
        super().__init__("pack", inbox, on_bug)
        self._arena = arena
        self._shared = shared
        self._compress = compressor(compress)
        self._squeeze = Squeeze(CELL_BYTES)

    def _work(self) -> None:
        os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), NICE)
        while True:
            ask: Pack | None = self._asks.get()
            if ask is None:
                return
            packed = [self._pack(cell, filled) for cell, filled in ask.cells]
            if self._shared:
                output = replace(ask.output, cells=tuple((squeezed, cell, size) for squeezed, cell, size, _ in packed))
            else:
                output = replace(ask.output, chunks=tuple((squeezed, content) for squeezed, *_, content in packed))
            self._inbox.post(Role.LEADER, Packed(output))

    def _pack(self, cell: int, filled: int) -> tuple[bool, int, int, bytes]:
        """(compressed?, cell, length, content if it must leave the arena) of one chunk."""
        memory = self._arena.cell(cell)
        if filled < CELL_BYTES:
            memory[filled:] = bytes(CELL_BYTES - filled)
        if self._compress is not None and self._squeeze.wants(filled, self._asks.qsize()):
            content = self._compress(memory)
            if self._squeeze.keeps(len(content)):
                if self._shared:
                    memory[: len(content)] = content
                return True, cell, len(content), content
        return False, cell, CELL_BYTES, b"" if self._shared else bytes(memory)


class _Synced:
    """The sync of these is over; `error`: it failed, for good."""

    def __init__(self, stored: list[Stored], size: int, error: str) -> None:
        self.stored = stored
        self.size = size
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
            writer, stored, size = order
            error = ""
            try:
                writer.fsync()
            except OutputError as failure:
                error = str(failure)
            self._synced(_Synced(stored, size, error))


class FileDoor(Door):
    """The only writer of the run file. `arena`: of the leader on this node, if it can be seen."""

    def __init__(
        self, limits: Limits, arena: Arena | None, inbox: Inbox, on_bug: Callable[[BaseException], None]
    ) -> None:
        super().__init__("run-file", inbox, on_bug)
        self._limits = limits
        self._arena = arena
        self._writer: Writer | None = None
        self._syncer = _Syncer(self._asks.put, inbox, on_bug)
        self._todo: deque[Any] = deque()
        """Taken from the asks, in order."""
        self._closing = False
        """What cannot be written now will not be."""
        self._syncing = False
        self._appended: list[Stored] = []
        """Not given to the syncer yet; `_appended_bytes` in all."""
        self._appended_bytes = self._unsynced_bytes = 0
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
                        self._open(ask)
                    case Append(output):
                        self._append(output)
                    case AppendEvent(event):
                        if self._writer is not None:
                            self._persist(partial(self._writer.events, [(event.at, event.text)]), self._settle)
                    case _Synced():
                        self._end_sync(ask)
                    case _:
                        self._close()
                        if ask is None:
                            return
            self._begin_sync()

    def _open(self, ask: OpenRunFile) -> None:
        from mpifarm.output.writer import Writer  # h5py: on the recorder's rank only

        order = ask.order
        try:
            path = Path(order.path) if order.made else unused(Path(order.path))
            self._writer = Writer(path, order.attributes, order.nodes, order.compress, made=order.made)
        except OutputError as error:
            self._inbox.post(Role.RECORDER, FileTrouble(str(error), fatal=True))
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
            chunks = tuple((squeezed, self._arena.cell(cell)[:length]) for squeezed, cell, length in output.cells)
            output = replace(output, chunks=chunks)
        appended = self._persist(partial(self._writer.append, output), self._settle)
        if appended is None:
            return
        self._appended.append(Stored(output.rank, appended.rows, appended.first_row, output.tails))
        self._appended_bytes += size
        self._unsynced_bytes += size
        self._inbox.post(Role.RECORDER, Appended(output.rank, self._writer.extents))

    def _begin_sync(self) -> None:
        """Sync what is appended, unless that is under way; `_end_sync` then comes here again."""
        if self._writer is None or self._syncing or not self._appended:
            return
        if self._persist(partial(_done, self._writer.flush)):
            self._syncing = True
            self._syncer.ask((self._writer, self._appended, self._appended_bytes))
            self._appended, self._appended_bytes = [], 0

    def _end_sync(self, synced: _Synced) -> None:
        self._syncing = False
        self._unsynced_bytes -= synced.size
        if synced.error:
            self._inbox.post(Role.RECORDER, FileTrouble(synced.error, fatal=True))
            return
        for event in synced.stored:
            self._inbox.post(Role.RECORDER, event)

    def _settle(self) -> None:
        """Wait until all that is appended is synced, if it can be."""
        for _ in range(2):
            self._begin_sync()
            while self._syncing:
                ask = self._asks.get()
                if isinstance(ask, _Synced):
                    self._end_sync(ask)
                else:
                    self._todo.append(ask)

    def _close(self) -> None:
        if self._writer is not None:
            self._settle()
            writer, self._writer = self._writer, None
            try:
                writer.close()
            except OutputError as error:
                self._inbox.post(Role.RECORDER, FileTrouble(str(error), fatal=False))
        self._inbox.post(Role.RECORDER, FileClosed())

    def _persist(self, step: Callable[[], _T], meanwhile: Callable[[], None] | None = None) -> _T | None:
        """Do one step; while the file cannot be written, tell why once and try again, after doing `meanwhile` once.
        None: given up, for the file is broken or the run ends."""
        told = ""
        while True:
            try:
                return step()
            except OutputError as error:
                broken = self._writer is None or self._writer.broken
                if str(error) != told or broken:
                    told = str(error)
                    self._inbox.post(Role.RECORDER, FileTrouble(told, fatal=bool(broken)))
                if broken or self._closing or self._leaving.is_set():
                    return None
                if meanwhile is not None:
                    meanwhile()
                    meanwhile = None
                self._pause(RETRY_S)


def _done(step: Callable[[], None]) -> bool:
    step()
    return True


def unused(path: Path) -> Path:
    """`path`, or with -2, -3 ... before the suffix: two queues may count their runs into one directory."""
    candidate, number = path, 1
    while os.path.lexists(candidate):  # a link that leads nowhere has a name, too
        number += 1
        candidate = path.with_name(f"{path.stem}-{number}{path.suffix}")
    return candidate
