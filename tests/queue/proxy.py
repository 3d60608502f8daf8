"""A wire to Postgres that can lose answers: what the client sent arrives, what the server says back does not."""

from __future__ import annotations

import selectors
import socket
import threading
from pathlib import Path

_NAME = ".s.PGSQL.5432"


class Proxy:
    """Listens in `folder` as a server would, forwards to the server in `server`. A context manager."""

    def __init__(self, folder: Path, server: str) -> None:
        self._server = f"{server}/{_NAME}"
        self._listener = socket.socket(socket.AF_UNIX)
        self._listener.bind(str(folder / _NAME))
        self._listener.listen()
        self._lose = threading.Event()
        self._leaving = threading.Event()
        self._threads = [threading.Thread(target=self._accept)]
        self._threads[0].start()

    def lose_next_answer(self) -> None:
        """The next thing the server says ends the connection instead."""
        self._lose.set()

    def __enter__(self) -> Proxy:
        return self

    def __exit__(self, *_: object) -> None:
        self._leaving.set()
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        for thread in self._threads:
            thread.join(10)

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            thread = threading.Thread(target=self._forward, args=(client,))
            self._threads.append(thread)
            thread.start()

    def _forward(self, client: socket.socket) -> None:
        with client, socket.socket(socket.AF_UNIX) as server, selectors.DefaultSelector() as selector:
            server.connect(self._server)
            selector.register(client, selectors.EVENT_READ, server)
            selector.register(server, selectors.EVENT_READ, client)
            while not self._leaving.is_set():
                for key, _ in selector.select(0.1):
                    source, target = key.fileobj, key.data
                    assert isinstance(source, socket.socket)
                    data = source.recv(1 << 16)
                    if not data:
                        return
                    if source is server and self._lose.is_set():
                        self._lose.clear()
                        return
                    target.sendall(data)
