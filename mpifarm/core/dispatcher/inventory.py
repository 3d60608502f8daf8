"""What a run holds: the stock, the leaders' hands and the ledger, always moved together. Pure."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence

from mpifarm.core.dispatcher.dealer import Dealer
from mpifarm.core.dispatcher.ledger import LeasedTask, Ledger
from mpifarm.core.dispatcher.suspicion import Suspicion, Trust, Verdict
from mpifarm.core.model import Block, LeaseId, Limits, Span
from mpifarm.core.plural import counted
from mpifarm.core.protocol.actions import Action, Say, Send
from mpifarm.core.protocol.messages import Cancel
from mpifarm.core.protocol.verbs import CancelTasks, Grant


class Holding:
    """Leased tasks from the grant to their end. Actions are what to send to leaders, and what to say."""

    def __init__(self, slots: Sequence[tuple[int, int]], limits: Limits, now: float) -> None:
        """slots: (rank, slots) of every leader, by node number."""
        self.dealer = Dealer(slots, limits, now)
        self.ledger = Ledger(Suspicion(len(slots), limits))
        self._suspicion = self.ledger.suspicion
        self._names: tuple[str, ...] = ()
        self._said: set[tuple[int, Trust]] = set()
        self._orders_while_asking: list[CancelTasks] = []
        self._told: set[CancelTasks] = set()

    @property
    def stock(self) -> int:
        """Tasks that no leader has."""
        return self.dealer.stock.tasks

    def name_nodes(self, names: Iterable[str]) -> None:
        """By node number."""
        self._names = tuple(names)

    def grant(self, grant: Grant, now: float, *, keep: bool) -> list[Action]:
        """Leased tasks come in; `keep` false: to go back at once."""
        self.dealer.learn(grant.jobs)
        self.ledger.learn(grant.jobs)
        for block in grant.blocks:
            self.ledger.lease(block)
            if keep:
                for piece, failed in self.ledger.elsewhere.pieces(block):
                    self.dealer.stock.add(piece, failed, now)
            else:
                self._put_back([block])
        # Leased before these orders came, perhaps, and told after.
        orders, self._orders_while_asking = self._orders_while_asking, []
        return [action for order in orders for action in self.cancel(order, asking=False)]

    def deal(self, now: float) -> list[Action]:
        """To leaders, what they asked for."""
        deals = self.dealer.deal(now)
        for rank, deal in deals:
            for block in deal.blocks:
                self.ledger.deal(rank, block)
        return [Send(rank, deal) for rank, deal in deals]

    def give_back_stock(self) -> None:
        self._put_back(self.dealer.stock.take_wider(0))

    def refuse(self, lease: LeaseId) -> None:
        """The queue has taken it back."""
        self.dealer.stock.drop(lease)
        self.ledger.refuse(lease)

    def lose(self, rank: int, begun: Collection[LeasedTask] | None, now: float) -> int:
        """A leader is gone, and with it so many tasks. begun: what ran there; None: nobody can tell."""
        node, slots = self.dealer.node_of(rank), self.dealer.slots_of(rank)
        self._put_back(self.dealer.lose(rank))
        self._suspicion.gone(rank)
        if begun is None:
            begun = self.ledger.first_dealt(rank, slots)
        return self.ledger.lose(rank, node, begun, now)

    @property
    def look_at(self) -> float:
        """When `look` has something to do."""
        return self._suspicion.look_at

    def look(self, now: float) -> list[Action]:
        """At the nodes that fail what succeeds elsewhere."""
        return [said for verdict in self._suspicion.look(now, self.dealer, self.ledger) for said in self._heed(verdict)]

    def _heed(self, verdict: Verdict) -> list[Action]:
        rank, trust, probe, why = verdict
        name = self._names[self.dealer.node_of(rank)] if self._names else f"node of rank {rank}"
        said = ""
        if probe:
            self.dealer.allow(rank, probe)
        elif trust is Trust.FULL:
            self.dealer.release(rank)
            said = f"{name} is trusted again"
        elif trust is Trust.NONE:
            self._put_back(self.dealer.leave_out(rank))
            said = f"{name} is left out of this run: {why}"
        else:
            self.dealer.hold(rank)
            if trust is Trust.SUSPECT:
                said = f"{name} is suspected to be broken, it gets one task at a time: {why}"
        if not said or (rank, trust) in self._said or (trust is Trust.FULL and (rank, Trust.SUSPECT) not in self._said):
            return []
        self._said.add((rank, trust))
        return [Say(said)]

    def cancel(self, order: CancelTasks, *, asking: bool) -> list[Action]:
        """`asking`: a lease is under way that may bring more of these."""
        if asking:
            self._orders_while_asking.append(order)
        held = self.ledger.cancel(order)
        stock = self.dealer.stock.cancel(*order)
        self._put_back(stock)
        ranks = [rank for rank in held if self.dealer.knows(rank)]
        actions: list[Action] = [Send(rank, Cancel(tuple(held[rank]))) for rank in ranks]
        tasks = sum(len(block.tasks) for block in stock) + sum(hi - lo for rank in ranks for _, lo, hi in held[rank])
        if tasks and order not in self._told:
            self._told.add(order)
            actions.append(Say(f"cancelled, as ordered: {counted(tasks, 'task')}"))
        return actions

    def _put_back(self, blocks: list[Block]) -> None:
        for b in blocks:
            self.ledger.put_back(Span(b.lease, b.job, b.lo, b.hi, b.attempt, b.fails, b.crashes))
