"""One rank of a run: how it starts, THE loop, its doors to MPI, the queue and the run file, what is around it."""
