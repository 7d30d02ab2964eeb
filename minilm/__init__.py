"""minilm: language models from scratch, in NumPy and JAX.

Importing it is free: no part of JAX loads, no setting changes, until a submodule is asked for.
"""

__version__ = "0.1.0"
