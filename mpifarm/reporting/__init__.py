"""What users get back: reports, task lines, outputs. Must never import click or mpi4py."""
