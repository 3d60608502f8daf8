"""Benchmarks: one question each, `python -m benchmarks.NAME`, one JSON line per figure.

A figure of this kind of machine means little alone, so every benchmark measures its yardstick (the physical limit, or a
peer) in the same run, in turn with mpifarm, and gives the ratio.
"""
