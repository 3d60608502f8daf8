"""Facts as text, JSON, CSV, joblog or Parquet. Must never import click or mpi4py."""
