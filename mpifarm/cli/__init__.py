"""What users type: click only, a module for each family of commands. Must never import mpi4py."""
