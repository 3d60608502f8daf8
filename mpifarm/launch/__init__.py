"""Task processes: the launcher of a node, its guardian, what they start and how it ends. Must never import MPI."""
