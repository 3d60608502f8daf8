"""What a command does, a file for each verb that users type. Must never import click or mpi4py."""
