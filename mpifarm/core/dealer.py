"""The dispatcher's view of its leaders: who asked for how much, who gets what of the stock, who fell silent."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from mpifarm.core.job import JobText
from mpifarm.core.messages import Deal, Want
from mpifarm.core.model import Block, JobId
from mpifarm.core.stock import Stock


class _LeaderView:
    """What is known of one leader."""

    __slots__ = ("heard_at", "jobs", "node", "sent", "slots", "unmet")

    def __init__(self, node: int, slots: int, now: float) -> None:
        self.node = node
        self.slots = slots
        self.unmet = 0  # cores it asked work for and was not dealt
        self.sent = 0  # cores' worth of work dealt, ever
        self.jobs: set[JobId] = set()
        self.heard_at = now


class Dealer:
    """Deals blocks of the stock to leaders on credit: a leader gets what it asked for and never more."""

    def __init__(self, slots: Sequence[tuple[int, int]], now: float) -> None:
        """slots: (rank, slots) of every leader, by node number."""
        self.stock = Stock()
        self._leaders = {rank: _LeaderView(node, count, now) for node, (rank, count) in enumerate(slots)}
        self._hungry: dict[int, _LeaderView] = {}  # those with unmet > 0, in the order they asked
        self._jobs: dict[JobId, JobText] = {}
        self.unmet = 0
        """Cores that leaders asked work for and did not get."""
        self._count_slots()

    def _count_slots(self) -> None:
        counts = [leader.slots for leader in self._leaders.values()]
        self.slots = sum(counts)
        self.cpus_max = max(counts, default=0)
        """Cores of the widest node."""

    @property
    def ranks(self) -> list[int]:
        """Of the leaders that are left."""
        return list(self._leaders)

    def node_of(self, rank: int) -> int:
        """Number of the node that a leader, not given up, leads."""
        return self._leaders[rank].node

    def slots_of(self, rank: int) -> int:
        """Of a leader, not given up."""
        return self._leaders[rank].slots

    def learn(self, jobs: Iterable[JobText]) -> None:
        self._jobs.update((job.id, job) for job in jobs)

    def hear(self, rank: int, now: float) -> bool:
        """A message came from this leader. False: it was given up before, nothing it says counts."""
        leader = self._leaders.get(rank)
        if leader is not None:
            leader.heard_at = now
        return leader is not None

    def want(self, want: Want) -> None:
        """What it asks for, less what is already on its way to it."""
        leader = self._leaders[want.rank]
        self._credit(want.rank, leader, max(0, want.cpus - (leader.sent - want.received)))

    def deal(self) -> list[tuple[int, Deal]]:
        """(rank, message): first come first served, but a short stock in shares."""
        deals: list[tuple[int, Deal]] = []
        wanted = self.unmet
        for rank, leader in list(self._hungry.items()):
            if not self.stock:
                break
            share = -(-leader.unmet * self.stock.tasks // wanted) if wanted > self.stock.tasks else leader.unmet
            blocks = self.stock.cut(max(1, min(share, leader.unmet)), leader.slots)
            if blocks:
                cpus = sum(block.needs.cpus * len(block.tasks) for block in blocks)
                leader.sent += cpus
                self._credit(rank, leader, max(0, leader.unmet - cpus))
                jobs = tuple(self._jobs[job] for job in {b.job: None for b in blocks} if job not in leader.jobs)
                leader.jobs.update(job.id for job in jobs)
                deals.append((rank, Deal(jobs, tuple(blocks))))
        return deals

    def _credit(self, rank: int, leader: _LeaderView, unmet: int) -> None:
        self.unmet += unmet - leader.unmet
        leader.unmet = unmet
        if unmet:
            self._hungry[rank] = leader
        else:
            self._hungry.pop(rank, None)

    def silent(self, now: float, longest_s: float) -> list[tuple[int, float]]:
        """(rank, seconds) of the leaders not heard of for longer than `longest_s`."""
        silences = ((rank, now - leader.heard_at) for rank, leader in self._leaders.items())
        return [(rank, seconds) for rank, seconds in silences if seconds > longest_s]

    def forgive(self, seconds: float) -> None:
        """Nobody was listening for so long: it does not count as silence."""
        for leader in self._leaders.values():
            leader.heard_at += seconds

    def lose(self, rank: int) -> list[Block]:
        """Give a leader up. Returns the blocks that no remaining node can hold."""
        self._credit(rank, self._leaders[rank], 0)
        del self._leaders[rank]
        self._count_slots()
        return self.stock.take_wider(self.cpus_max)
