"""Python functions as tasks: what a call says, what comes back of it, and the warm interpreter that makes it.

The interpreter is the user's: this room imports only `core` and Python itself.
"""
