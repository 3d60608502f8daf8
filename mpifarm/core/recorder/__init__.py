"""The decisions of the recorder: flush, then tell. Pure."""
