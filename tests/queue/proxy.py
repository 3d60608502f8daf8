"""A wire to Postgres with which everything can go wrong: it loses an answer, is cut, swallows all that is said, or
refuses whoever comes, until it is healed."""

from __future__ import annotations

import selectors
import socket
import threading
from pathlib import Path

_NAME = ".s.PGSQL.5432"


class Proxy:
    """Forwards to the server whose socket is in the directory `server`; a context manager. It listens in `folder` as a
    server would, or without one on a port of this machine."""

    def __init__(self, server: str, folder: Path | None = None) -> None:
        self._server = f"{server}/{_NAME}"
        self._address: str | tuple[str, int] = ("127.0.0.1", 0) if folder is None else str(folder / _NAME)
        self._listener: socket.socket | None = None
        self._lose = threading.Event()
        self._answers_before = 0
        self._stalled = threading.Event()
        self._leaving = threading.Event()
        self._epoch = 0
        """Connections of an earlier one end."""
        self._threads: list[threading.Thread] = []
        self.accepted = 0
        self._listen()

    @property
    def port(self) -> int:
        assert isinstance(self._address, tuple)
        return self._address[1]

    def lose_next_answer(self, after: int = 0) -> None:
        """The next thing the server says, or the next but so many, ends the connection instead."""
        self._answers_before = after
        self._lose.set()

    def cut(self) -> None:
        """End all connections; new ones are welcome."""
        self._epoch += 1

    def stall(self) -> None:
        """Forward nothing any more, but end nothing and go on accepting: the other side only hears silence."""
        self._stalled.set()

    def refuse(self) -> None:
        """End all connections and listen no more."""
        listener, self._listener = self._listener, None
        if listener is not None:
            listener.shutdown(socket.SHUT_RDWR)
            listener.close()
        self.cut()

    def heal(self) -> None:
        """All is well again, what was held back in a stall arrives."""
        self._stalled.clear()
        self._lose.clear()
        if self._listener is None:
            self._listen()

    def __enter__(self) -> Proxy:
        return self

    def __exit__(self, *_: object) -> None:
        self._leaving.set()
        self.refuse()
        for thread in self._threads:
            thread.join(10)

    def _listen(self) -> None:
        unix = isinstance(self._address, str)
        listener = socket.socket(socket.AF_UNIX if unix else socket.AF_INET)
        if not unix:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(self._address)
        if not unix:
            self._address = listener.getsockname()
        listener.listen()
        self._listener = listener
        self._start(self._accept, listener)

    def _start(self, work: object, *arguments: object) -> None:
        thread = threading.Thread(target=work, args=arguments)  # type: ignore[arg-type]
        self._threads.append(thread)
        thread.start()

    def _accept(self, listener: socket.socket) -> None:
        while True:
            try:
                client, _ = listener.accept()
            except OSError:
                return
            self.accepted += 1
            self._start(self._forward, client, self._epoch)

    def _forward(self, client: socket.socket, epoch: int) -> None:
        with client, socket.socket(socket.AF_UNIX) as server, selectors.DefaultSelector() as selector:
            try:
                server.connect(self._server)
            except OSError:  # the server is down
                return
            selector.register(client, selectors.EVENT_READ, server)
            selector.register(server, selectors.EVENT_READ, client)
            while not self._leaving.is_set() and epoch == self._epoch:
                if self._stalled.is_set():
                    self._leaving.wait(0.02)
                    continue
                for key, _ in selector.select(0.05):
                    source, target = key.fileobj, key.data
                    assert isinstance(source, socket.socket)
                    try:
                        data = source.recv(1 << 16)
                        if not data:
                            return
                        if source is server and self._lose.is_set():
                            if not self._answers_before:
                                self._lose.clear()
                                return
                            self._answers_before -= 1
                        target.sendall(data)
                    except OSError:
                        return
