"""mpifarm in Python: the outputs of tasks, and the queue."""
