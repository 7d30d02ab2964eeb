"""Benchmarks: one question each, answered by one command, with the answers in `results/`."""
