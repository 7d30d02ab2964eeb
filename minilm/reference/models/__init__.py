"""Whole models in NumPy, forward and backward by hand."""
