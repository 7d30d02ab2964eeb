"""Attention: its core, who may see whom, biases, heads, caches, and a blockwise form for long sequences."""
