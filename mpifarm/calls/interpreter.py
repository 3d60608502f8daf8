"""A warm interpreter: a process that makes the calls it is sent, one after the other, and sends back what they gave.

Started as `python THIS FILE FD` in the directory of the job; FD is its end of a socket pair. Functions are found as the
user's own Python in that directory would find them. What a call writes to stdout and stderr goes where descriptors 1
and 2 lead, and is all there before its answer is. The end of the socket ends the process.
What they say is in `calls.frames`.
"""

import os
import sys

if __name__ == "__main__":
    del sys.path[0]  # the directory of this file: nothing that is imported is meant to come from there

import contextlib
import pickle
import resource
import time
import traceback
from collections.abc import Callable
from types import ModuleType
from typing import Any, BinaryIO


def _be_this_package() -> None:
    """Make `import mpifarm` mean the package that this file is in, wherever `sys.path` leads."""
    from importlib.util import module_from_spec, spec_from_file_location
    from pathlib import Path

    package = Path(__file__).resolve().parents[1]
    spec = spec_from_file_location("mpifarm", package / "__init__.py", submodule_search_locations=[str(package)])
    assert spec is not None and spec.loader is not None
    sys.modules["mpifarm"] = module = module_from_spec(spec)
    spec.loader.exec_module(module)


if __name__ == "__main__":
    _be_this_package()

from mpifarm.calls import call  # noqa: E402 - found only now
from mpifarm.calls.frames import ANSWER, NO_ENTRY, REQUEST, Answer  # noqa: E402
from mpifarm.calls.value import Encoded, encode, encode_exception  # noqa: E402


class Interpreter:
    """Makes calls. `home`: the directory that each begins in."""

    def __init__(self, requests: BinaryIO, answers: int, home: str) -> None:
        self._requests, self._answers, self._home = requests, answers, home
        self._functions: dict[str | bytes, Callable[..., Any]] = {}
        self._flush_c = _flush_of_c()

    def serve(self) -> None:
        """Until nobody asks any more."""
        while len(header := self._requests.read(REQUEST.size)) == REQUEST.size:
            task, attempt, body_bytes, entry_bytes = REQUEST.unpack(header)
            body = self._requests.read(body_bytes)
            entry = None if entry_bytes == NO_ENTRY else self._requests.read(entry_bytes)
            self._answer(*self._make(task, attempt, body, body if entry is None else entry))

    def _make(self, task: int, attempt: int, body: bytes, entry: bytes) -> tuple[Answer, Encoded]:
        os.environ["MPIFARM_TASK"], os.environ["MPIFARM_ATTEMPT"] = str(task), str(attempt)
        os.environ["MPIFARM_ENTRY"] = os.fsdecode(entry.replace(b"\0", b""))
        before, started = resource.getrusage(resource.RUSAGE_SELF), time.time()
        raised = 0
        try:
            os.chdir(self._home)  # the call before may have gone elsewhere
            function, args, kwargs = self._resolve(body)
            encoded = encode(function(*args, **kwargs))
        except BaseException as error:
            raised = 1
            encoded = self._raised(error)
        ended, after = time.time(), resource.getrusage(resource.RUSAGE_SELF)
        self._flush()
        return Answer(
            raised, _children(), started, ended,
            after.ru_utime - before.ru_utime, after.ru_stime - before.ru_stime, after.ru_maxrss,
            after.ru_inblock - before.ru_inblock, after.ru_oublock - before.ru_oublock,
            len(encoded.contents), sum(map(len, encoded.pieces)),
        ), encoded  # fmt: skip

    def _resolve(self, body: bytes) -> tuple[Callable[..., Any], Any, Any]:
        parsed = call.parse(body)
        if parsed.pickled is None:
            return self._function(parsed.function), parsed.args, parsed.kwargs
        by_value, args, kwargs = pickle.loads(parsed.pickled)
        return self._function(by_value or parsed.function), args, kwargs

    def _function(self, key: str | bytes) -> Callable[..., Any]:
        """By its import path, or pickled; loaded once."""
        function = self._functions.get(key)
        if function is None:
            function = self._functions[key] = call.load(key) if isinstance(key, str) else pickle.loads(key)
        return function

    def _raised(self, error: BaseException) -> Encoded:
        """The traceback from the call on, without what is above it; people read it on stderr."""
        frames = error.__traceback__
        while frames is not None and frames.tb_frame.f_code.co_filename == __file__:
            frames = frames.tb_next
        told = "".join(traceback.format_exception(type(error), error, frames))
        with contextlib.suppress(Exception):
            sys.stdout.flush()
            sys.stderr.write(told)
        return encode_exception(error, told)

    def _flush(self) -> None:
        for stream in (sys.stdout, sys.stderr):
            with contextlib.suppress(Exception):  # the call may have replaced or closed it
                stream.flush()
        self._flush_c(None)

    def _answer(self, answer: Answer, encoded: Encoded) -> None:
        _write_all(self._answers, [ANSWER.pack(*answer), encoded.contents, *encoded.pieces])


def _children() -> int:
    """How many processes that calls have started live on. Costs a microsecond where there is none."""
    try:
        while os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG) is not None:
            pass  # dead, and nobody waited for it
    except ChildProcessError:
        return 0
    found = 1
    with contextlib.suppress(OSError, ValueError):
        each = [open(f"/proc/self/task/{thread}/children").read() for thread in os.listdir("/proc/self/task")]  # noqa: SIM115
        found = len(" ".join(each).split())
    return min(max(found, 1), 0xFFFF)


def _flush_of_c() -> Callable[[None], Any]:
    """Flushes what C code has printed."""
    try:
        import ctypes

        flush: Callable[[None], Any] = ctypes.CDLL(None).fflush
    except (ImportError, OSError, AttributeError):
        return lambda _: None
    return flush


def _write_all(fd: int, pieces: list[Any]) -> None:
    views = [memoryview(piece) for piece in pieces if len(piece)]
    while views:
        written = os.writev(fd, views[:64])
        while views and written >= len(views[0]):
            written -= len(views.pop(0))
        if written:
            views[0] = views[0][written:]


def main() -> None:
    """Serve descriptor FD, in the place of the user's own program."""
    fd = int(sys.argv[1])
    os.set_inheritable(fd, False)
    sys.argv = [""]
    if not getattr(sys.flags, "safe_path", False):
        sys.path.insert(0, "")  # as `python -c` has it
    # What was sent by value of a script's or a notebook's `__main__` is looked for there.
    sys.modules["mpifarm.calls.interpreter"], sys.modules["__main__"] = sys.modules["__main__"], ModuleType("__main__")
    with contextlib.suppress(BrokenPipeError):
        Interpreter(open(fd, "rb", buffering=1 << 16), fd, os.getcwd()).serve()  # noqa: SIM115, PTH109 - the process
    os._exit(0)  # no `atexit` of the user's may hold the end up


if __name__ == "__main__":
    main()
