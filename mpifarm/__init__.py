"""mpifarm: an MPI-native bulk task runner. This module imports nothing heavy (100k ranks start it at once)."""

__version__ = "0.1.0"
