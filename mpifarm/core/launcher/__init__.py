"""The decisions of the launcher of a node: what starts next, where, and what must end. Pure."""
