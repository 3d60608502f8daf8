"""How many files may be open: in the launcher as many as its slots want, in a task what the user was given.

A program that asks for more files than select() can take must not find that it may have them. Imports nothing heavy.
"""

from __future__ import annotations

import resource


class OpenFiles:
    """The limit of this process, raised."""

    def __init__(self, count: int) -> None:
        """Allow `count`, as far as the hard limit does."""
        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        infinite = resource.RLIM_INFINITY
        most = count if hard == infinite else min(count, hard)
        self._given = (soft, hard) if infinite != soft < most else None
        if self._given:
            resource.setrlimit(resource.RLIMIT_NOFILE, (most, hard))

    def give(self, pid: int) -> None:
        """Give a task that has just been started the limit of before. (With a lower one of ours at its start it could
        not have pipes with numbers beyond that.) Costs half a microsecond, or nothing."""
        if self._given:
            try:
                resource.prlimit(pid, resource.RLIMIT_NOFILE, self._given)
            except OSError:
                pass  # gone already, or of another user (a setuid program)
