"""Before anything else: how a process of mpifarm starts, and what its tasks inherit. Imports nothing heavy."""
