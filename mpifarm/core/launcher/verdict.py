"""How an attempt ended, from what its process left and from what was done to it. Pure."""

from __future__ import annotations

from mpifarm.core.model import FailureClass, State

_SIGKILL = 9
STOP_SIGNALS = frozenset((2, 10, 12, 15))
"""SIGINT, SIGUSR1, SIGUSR2, SIGTERM: what batch systems, MPI launchers and people send to stop a run. SIGUSR1 since
prterun follows a SIGTERM with SIGKILL after a quarter of a second, but passes SIGUSR1 on unharmed."""

RAISED, UNANSWERED = -1, -2
"""Stand for a wait status where a function raised, and its process lives on; where its process exited with 0 and had
not answered."""

Verdict = tuple[int, int, int, int]
"""State, FailureClass, exit code, signal: as plain numbers, which is how they are stored."""

_SUCCESS: Verdict = (int(State.SUCCEEDED), int(FailureClass.NONE), 0, 0)
_ENDED_FOR = {FailureClass.WALLTIME: int(State.RETURNED), FailureClass.CANCELLED: int(State.CANCELLED)}
"""State of an attempt that we ended; else it failed."""


def unlaunched(killed_for: FailureClass) -> Verdict:
    """Of an attempt that never became a process."""
    failure = killed_for or FailureClass.LAUNCH
    return _ENDED_FOR.get(killed_for, int(State.FAILED)), int(failure), 0, 0


def verdict(wait_status: int, killed_for: FailureClass) -> Verdict:
    """What a wait status means. An attempt that we ended did not succeed, whatever its process says."""
    if wait_status == 0 and killed_for is FailureClass.NONE:
        return _SUCCESS
    if wait_status == RAISED:
        signal, exit_code, failure = 0, 1, killed_for or FailureClass.EXCEPTION
    elif wait_status == UNANSWERED:
        signal, exit_code, failure = 0, 0, killed_for or FailureClass.EXIT
    else:
        signal, exit_code = wait_status & 0x7F, wait_status >> 8
        failure = killed_for or (FailureClass.SIGNAL if signal else FailureClass.EXIT)
    return _ENDED_FOR.get(killed_for, int(State.FAILED)), int(failure), exit_code, signal


def may_be_memory(result: Verdict) -> bool:
    """Whether the kernel's memory killer may be what ended the attempt: itself, or a process its shell waited for."""
    _, failure, exit_code, signal = result
    killed = signal == _SIGKILL and failure == FailureClass.SIGNAL
    return killed or (exit_code == 128 + _SIGKILL and failure == FailureClass.EXIT)


def may_be_a_stop(failure: int, exit_code: int, signal: int) -> bool:
    """Whether an attempt that we did not end, or what its shell waited for, ended by a signal that means a stop."""
    if failure == FailureClass.SIGNAL:
        return signal in STOP_SIGNALS
    return failure == FailureClass.EXIT and exit_code - 128 in STOP_SIGNALS


def returned(result: Verdict) -> Verdict:
    """The verdict on an attempt that ended by itself, as it seemed, but was ended from outside."""
    state, failure, exit_code, signal = result
    if state in (State.RETURNED, State.CANCELLED) or failure in (FailureClass.TIMEOUT, FailureClass.LAUNCH):
        return result
    return int(State.RETURNED), int(FailureClass.WALLTIME), exit_code, signal
