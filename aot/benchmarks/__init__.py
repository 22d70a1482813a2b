"""Benchmarks: a piece of work timed in turn with its limit in one run, and its memory."""
