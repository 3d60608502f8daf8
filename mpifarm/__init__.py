"""mpifarm: an MPI-native bulk task runner. This module imports nothing heavy (100k ranks start it at once)."""

TYPE_CHECKING = False  # typing's own would be imported, by `python -m mpifarm` from the user's directory

if TYPE_CHECKING:
    from mpifarm.api.outputs import open_job, open_run
    from mpifarm.api.queue import Command, open_queue, submit, wait
    from mpifarm.errors import FarmError

__version__ = "0.1.0"

__all__ = ["Command", "FarmError", "__version__", "open_job", "open_queue", "open_run", "submit", "wait"]


def __getattr__(name: str) -> object:
    """What users import, brought in when they ask for it."""
    if name in ("open_job", "open_run"):
        from mpifarm.api import outputs

        return getattr(outputs, name)
    if name in ("Command", "open_queue", "submit", "wait"):
        from mpifarm.api import queue

        return getattr(queue, name)
    if name == "FarmError":
        from mpifarm import errors

        return errors.FarmError
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
