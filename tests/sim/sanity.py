"""What must hold of a dispatcher between any two events: every leased task is in stock, with a leader, or resolved."""

from __future__ import annotations

from collections import Counter

from mpifarm.core.dispatcher.dispatcher import Dispatcher


def sanity_check(dispatcher: Dispatcher) -> None:
    holding = dispatcher._holding
    ledger, leases = holding.ledger, holding.ledger._leases
    out = Counter(dealt for lease in leases.values() for dealt in lease.out.values())
    hands = {dealt: rank for rank, hand in ledger._hands.items() for dealt in hand}
    assert out == {dealt: dealt.left for dealt in hands}, "hands and leases name the same tasks"
    assert all(dealt.rank == rank and holding.dealer.knows(rank) for dealt, rank in hands.items())
    assert ledger.tasks_out == out.total()
    assert all(lease.block.lo <= task < lease.block.hi for lease in leases.values() for task in lease.out)
    assert all(lease.left > 0 for lease in leases.values()), "a lease that is done is let go"
    assert sum(lease.left for lease in leases.values()) == ledger.tasks_out + holding.stock, "none is lost, none twice"
