"""Attention in NumPy, number by number."""
