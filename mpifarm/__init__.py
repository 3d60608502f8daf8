"""mpifarm: an MPI-native bulk task runner. This module imports nothing heavy (100k ranks start it at once)."""

TYPE_CHECKING = False  # typing's own would be imported, by `python -m mpifarm` from the user's directory

if TYPE_CHECKING:
    from mpifarm.api.executor import Executor
    from mpifarm.api.outputs import open_job, open_run
    from mpifarm.api.queue import Call, Command, open_queue, submit, wait
    from mpifarm.api.queue import map_calls as map
    from mpifarm.errors import FarmError
    from mpifarm.outputs.values import RaisedError

__version__ = "0.1.0"

__all__ = [
    "Call", "Command", "Executor", "FarmError", "RaisedError", "__version__", "map", "open_job", "open_queue",
    "open_run", "submit", "wait",
]  # fmt: skip

_HOMES = {
    "open_job": "api.outputs", "open_run": "api.outputs",
    "Call": "api.queue", "Command": "api.queue", "map": "api.queue", "open_queue": "api.queue", "submit": "api.queue",
    "wait": "api.queue",
    "Executor": "api.executor", "FarmError": "errors", "RaisedError": "outputs.values",
}  # fmt: skip


def __getattr__(name: str) -> object:
    """What users import, brought in when they ask for it."""
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(f"{__name__}.{_HOMES[name]}"), "map_calls" if name == "map" else name)
