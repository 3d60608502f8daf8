"""The decisions of a node leader: work in, output out. Pure."""
