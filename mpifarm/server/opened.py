"""`mpifarm db start|stop`: the embedded server of this user, opened to other hosts by a process of its own.

That process stands in `server.daemon`.
"""

from __future__ import annotations

import json
import os
import signal
import time
from collections.abc import Mapping

from mpifarm.errors import SiteError
from mpifarm.server.daemon import Admit, Opened, Opening, find_opened
from mpifarm.server.dsn import opened_file, server_folder

START_S = 150.0
"""To make a database and open it, on a slow file system."""
_STOP_S = 75.0


def start(listen: str, environ: Mapping[str, str], admit: Admit) -> tuple[Opened, bool]:
    """Open the server at ADDR[:PORT]. Returns how, and whether it had been open there already. Raises SiteError."""
    address, port = split_address(listen)
    before = _refuse_elsewhere(environ)
    if before is not None and before.is_running():
        return _already(before, address, port), True
    answers, child_answers = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.close(answers)
        Opening(server_folder(environ), child_answers, admit).run(address, port)
    os.close(child_answers)
    try:
        answer = _read_answer(answers, time.monotonic() + START_S)
    except BaseException:
        os.kill(pid, signal.SIGTERM)
        raise
    finally:
        os.close(answers)
    if "error" in answer:
        os.waitpid(pid, 0)
        raise SiteError(str(answer["error"]))
    if "taken" in answer:
        os.waitpid(pid, 0)
        return _already(_await_opened(environ), address, port), True
    opened = find_opened(environ)
    assert opened is not None
    return opened, False


def stop(environ: Mapping[str, str]) -> Opened | None:
    """Close it. Returns what was closed; None: it was not open. Raises SiteError when it is open on another host."""
    opened = _refuse_elsewhere(environ)
    if opened is None:
        return None
    if not opened.is_running():  # a crash
        opened_file(environ).unlink(missing_ok=True)
        return None
    os.kill(opened.pid, signal.SIGTERM)
    deadline = time.monotonic() + _STOP_S
    while opened.is_running():
        if time.monotonic() > deadline:
            raise SiteError(f"process {opened.pid} does not end within {_STOP_S:g} s")
        time.sleep(0.02)
    return opened


def split_address(text: str) -> tuple[str, int]:
    """ADDR[:PORT], [IPV6]:PORT; port 0 when there is none. Raises SiteError."""
    address, colon, port = text.rpartition(":")
    if not colon or (address.count(":") and not address.endswith("]")):
        address, port = text, "0"
    address = address.removeprefix("[").removesuffix("]")
    if not address or not (port.isascii() and port.isdigit()) or int(port) > 65535:
        raise SiteError(f"{text!r} is not ADDR or ADDR:PORT, like login1.site.org:5433")
    return address, int(port)


def _refuse_elsewhere(environ: Mapping[str, str]) -> Opened | None:
    opened = find_opened(environ)
    if opened is not None and not opened.here:
        raise SiteError(
            f"it is open on {opened.host}, at {opened.address} (pid {opened.pid}): type that there"
            f"\n  if nothing runs on {opened.host} any more: rm {opened_file(environ)}"
        )
    return opened


def _already(opened: Opened, address: str, port: int) -> Opened:
    """It is open: fine, if where it is wanted."""
    there, _, there_port = opened.address.rpartition(":")
    if there.strip("[]") != address or port not in (0, int(there_port)):
        raise SiteError(f"it is open already, at {opened.address} (pid {opened.pid}); first: mpifarm db stop")
    return opened


def _await_opened(environ: Mapping[str, str]) -> Opened:
    """Somebody else is opening it."""
    deadline = time.monotonic() + START_S
    while time.monotonic() < deadline:
        opened = find_opened(environ)
        if opened is not None and opened.is_running():
            return opened
        time.sleep(0.05)
    raise SiteError(f"another mpifarm db start does not get ready within {START_S:g} s")


def _read_answer(fd: int, deadline: float) -> dict[str, object]:
    os.set_blocking(fd, False)
    said = b""
    while not said.endswith(b"\n"):
        try:
            piece = os.read(fd, 65536)
        except BlockingIOError:
            if time.monotonic() > deadline:
                raise SiteError(f"no answer within {START_S:g} s of starting") from None
            time.sleep(0.01)
            continue
        if not piece:
            raise SiteError("the process that was to open the database died; its log is gate/log beside the database")
        said += piece
    answer: dict[str, object] = json.loads(said)
    return answer
