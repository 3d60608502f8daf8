"""The pure core: decisions as `handle(event, now) -> actions`. No clock, no I/O, no randomness in here."""
