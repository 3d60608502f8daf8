"""What users hand in: task files and expansions become tasks of a job. Must never import click, mpi4py or h5py."""
