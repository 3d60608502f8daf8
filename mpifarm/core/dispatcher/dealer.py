"""The dispatcher's view of its leaders: who asked for how much, who gets what of the stock, who fell silent."""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Iterable, Sequence
from heapq import heappop, heapreplace

from mpifarm.core.dispatcher.stock import Stock, Taker
from mpifarm.core.job.policy import JobText
from mpifarm.core.model import Block, JobId, Limits
from mpifarm.core.protocol.messages import Deal, Want


class _LeaderView:
    """What is known of one leader."""

    __slots__ = ("heard_at", "held", "in_line", "jobs", "left_out", "node", "rank", "sent", "slots", "turn", "unmet",
                 "wish")  # fmt: skip

    def __init__(self, rank: int, node: int, slots: int, now: float) -> None:
        self.rank = rank
        self.node = node
        self.slots = slots
        self.unmet = 0  # cores it asked work for and was not dealt
        self.sent = 0  # cores' worth of work dealt, ever
        self.jobs: set[JobId] = set()
        self.heard_at = now
        self.in_line = False
        self.turn = 0
        self.held = self.left_out = False
        self.wish = 0
        """What it asks for while it is held."""


class Dealer:
    """Deals blocks of the stock to leaders on credit: a leader gets what it asked for and never more.

    Nothing here walks all leaders, however many there are: those with unmet wishes stand in line, one line for each
    size of node, and who may have fallen silent comes off a heap.
    """

    def __init__(self, slots: Sequence[tuple[int, int]], limits: Limits, now: float) -> None:
        """slots: (rank, slots) of every leader, by node number."""
        self.stock = Stock()
        self._limits = limits
        self._leaders = {rank: _LeaderView(rank, node, count, now) for node, (rank, count) in enumerate(slots)}
        self._lines: dict[int, deque[_LeaderView]] = {count: deque() for _, count in slots}
        """In the order they asked; one whose wish was met or who was given up meanwhile is passed over."""
        self._turn = 0
        self._looks = [(now, rank) for rank, _ in slots]
        """(when, at whom) to look for silence: a heap."""
        self._deaf_s = 0.0
        self._jobs: dict[JobId, JobText] = {}
        self.unmet = 0
        """Cores that leaders asked work for and did not get."""
        self._sizes = Counter(count for _, count in slots)
        self.slots = sum(count for _, count in slots)
        self._left_out = 0
        """Leaders of whom nothing is wanted."""

    @property
    def cpus_max(self) -> int:
        """Cores of the widest node."""
        return max(self._sizes, default=0)

    def knows(self, rank: int) -> bool:
        """Whether this leader was not given up."""
        return rank in self._leaders

    @property
    def empty(self) -> bool:
        """No leader is left."""
        return not self._leaders

    @property
    def ranks(self) -> list[int]:
        """Leaders that are left."""
        return list(self._leaders)

    def node_of(self, rank: int) -> int:
        """Number of the node that a leader, not given up, leads."""
        return self._leaders[rank].node

    def slots_of(self, rank: int) -> int:
        """How many slots the node of a leader, not given up, has."""
        return self._leaders[rank].slots

    def learn(self, jobs: Iterable[JobText]) -> None:
        self._jobs.update((job.id, job) for job in jobs)

    def hear(self, rank: int, now: float) -> bool:
        """A message came from this leader. False: it was given up before, nothing it says counts."""
        leader = self._leaders.get(rank)
        if leader is None:
            return False
        leader.heard_at = now - self._deaf_s
        return True

    def want(self, want: Want) -> None:
        """What it asks for, less what is already on its way to it."""
        leader = self._leaders[want.rank]
        unmet = max(0, want.cpus - (leader.sent - want.received))
        if leader.held:
            leader.wish = unmet
        else:
            self._credit(leader, unmet)

    def deal(self, now: float) -> list[tuple[int, Deal]]:
        """(rank, message): first come first served, but a short stock in shares."""
        stock, wanted = self.stock, self.unmet
        deals: list[tuple[int, Deal]] = []
        passed: list[_LeaderView] = []
        there = stock.tasks
        while wanted and stock.tasks:
            line = self._next_line(stock.narrowest)
            if line is None:
                break
            leader = line.popleft()
            leader.in_line = False
            if not leader.unmet:
                continue
            share = leader.unmet if wanted <= there else max(1, -(-leader.unmet * there // wanted))
            blocks = stock.cut(min(share, leader.unmet), self._taker(leader, now))
            if not blocks:
                passed.append(leader)  # there is nothing that may go to it
                continue
            cpus = sum([block.needs.cpus * len(block.tasks) for block in blocks])
            leader.sent += cpus
            self._credit(leader, max(0, leader.unmet - cpus))
            unknown = dict.fromkeys([block.job for block in blocks if block.job not in leader.jobs])
            leader.jobs.update(unknown)
            deals.append((leader.rank, Deal(tuple([self._jobs[job] for job in unknown]), tuple(blocks))))
        for leader in passed:
            self._credit(leader, leader.unmet)
        return deals

    def _taker(self, leader: _LeaderView, now: float) -> Taker:
        waits_s = self._limits.elsewhere_s * (10 if leader.held else 1)
        return Taker(leader.rank, leader.slots, len(self._leaders) - self._left_out - 1, now - waits_s)

    def _next_line(self, width: int) -> deque[_LeaderView] | None:
        """In which the next leader stands whose node can hold so wide a task."""
        found: deque[_LeaderView] | None = None
        for slots, line in self._lines.items():
            if line and slots >= width and (found is None or line[0].turn < found[0].turn):
                found = line
        return found

    def _credit(self, leader: _LeaderView, unmet: int) -> None:
        self.unmet += unmet - leader.unmet
        leader.unmet = unmet
        if unmet and not leader.in_line:
            leader.in_line = True
            self._turn += 1
            leader.turn = self._turn
            self._lines[leader.slots].append(leader)

    # --- leaders that are not trusted ------------------------------------------------------------------------

    def hold(self, rank: int) -> None:
        """It gets nothing but what it is allowed."""
        leader = self._leaders[rank]
        if not leader.held:
            leader.held = True
            leader.wish = leader.unmet
            self._credit(leader, 0)

    def allow(self, rank: int, cpus: int) -> None:
        """So much at most, once."""
        leader = self._leaders[rank]
        self._credit(leader, min(cpus, leader.wish))

    def release(self, rank: int) -> None:
        """It gets what it asks for."""
        leader = self._leaders[rank]
        if leader.left_out:
            leader.left_out = False
            self._left_out -= 1
            self._count(leader, 1)
        if leader.held:
            leader.held = False
            self._credit(leader, leader.wish)

    def leave_out(self, rank: int) -> list[Block]:
        """It gets nothing any more. Returns the blocks that no other node can hold."""
        self.hold(rank)
        leader = self._leaders[rank]
        self._credit(leader, 0)
        leader.left_out = True
        self._left_out += 1
        self._count(leader, -1)
        return self.stock.take_wider(self.cpus_max)

    def _count(self, leader: _LeaderView, sign: int) -> None:
        self.slots += sign * leader.slots
        self._sizes[leader.slots] += sign
        self._sizes += Counter()  # without those of which there is none

    # --- leaders that fell silent ----------------------------------------------------------------------------

    def silent(self, now: float, longest_s: float) -> list[tuple[int, float]]:
        """(rank, seconds) of the leaders not heard of for longer than `longest_s`; of each once."""
        found: list[tuple[int, float]] = []
        looks, now = self._looks, now - self._deaf_s
        while looks and looks[0][0] < now:
            rank = looks[0][1]
            leader = self._leaders.get(rank)
            if leader is not None and leader.heard_at + longest_s >= now:
                heapreplace(looks, (leader.heard_at + longest_s, rank))
                continue
            heappop(looks)
            if leader is not None:
                found.append((rank, now - leader.heard_at))
        return found

    def forgive(self, seconds: float) -> None:
        """Nobody was listening for so long: it does not count as silence."""
        self._deaf_s += seconds

    def lose(self, rank: int) -> list[Block]:
        """Give a leader up. Returns the blocks that no remaining node can hold."""
        leader = self._leaders.pop(rank)
        self._credit(leader, 0)
        if leader.left_out:
            self._left_out -= 1
        else:
            self._count(leader, -1)
        return self.stock.take_wider(self.cpus_max)
