"""A wire to a Postgres on this machine that takes its time: every byte arrives so much later, none is lost."""

from __future__ import annotations

import socket
import threading
import time
from collections import deque
from pathlib import Path

_NAME = ".s.PGSQL.5432"


class SlowWire:
    """Listens in `folder` as the server does in the directory `server`; a context manager. `delay_s`: one way."""

    def __init__(self, server: str, folder: Path, delay_s: float) -> None:
        self._server = f"{server}/{_NAME}"
        self._path = folder / _NAME
        self._delay_s = delay_s
        self._listener = socket.socket(socket.AF_UNIX)

    def __enter__(self) -> SlowWire:
        self._path.unlink(missing_ok=True)
        self._listener.bind(str(self._path))
        self._listener.listen()
        threading.Thread(target=self._accept, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            server = socket.socket(socket.AF_UNIX)
            server.connect(self._server)
            for source, target in ((client, server), (server, client)):
                late: deque[tuple[float, bytes]] = deque()
                threading.Thread(target=self._read, args=(source, late), daemon=True).start()
                threading.Thread(target=self._write, args=(target, late), daemon=True).start()

    def _read(self, source: socket.socket, late: deque[tuple[float, bytes]]) -> None:
        data = b"\0"
        while data:
            try:
                data = source.recv(1 << 20)
            except OSError:
                data = b""
            late.append((time.monotonic() + self._delay_s, data))

    def _write(self, target: socket.socket, late: deque[tuple[float, bytes]]) -> None:
        while True:
            if not late:
                time.sleep(2e-4)
                continue
            due, data = late.popleft()
            time.sleep(max(0.0, due - time.monotonic()))
            try:
                if not data:
                    target.shutdown(socket.SHUT_WR)
                    return
                target.sendall(data)
            except OSError:
                return
