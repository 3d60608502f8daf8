"""Rank 0's decisions: what to lease, who gets it, where every task is, when it is over. Pure."""
