"""Bytes back to people, out of run files: whole, in bulk, followed, searched, extracted; and what they say of time."""
