"""Every attention variant by name: one function a row, from which laws, benchmarks and documentation learn of it.

>>> from minilm import variants
>>> mixer = variants.make("window:width=16", d=64, heads=4)
>>> print(variants.VARIANTS["window"].about)
Sliding window: a token sees itself and the width − 1 before it.

A row is a function of the model's width and its number of heads to a `Mixer`, under `@variant`; its docstring is what
the table says of it, and what else it takes are the options behind the colon. One outside of this package joins in by
its place: `variants.make("my_module:my_attention", d=64, heads=4)`.
"""

from minilm.variants import positions, selection, softmax, state
from minilm.variants.table import VARIANTS, Variant, heads_of, make, usual, variant

__all__ = ["VARIANTS", "Variant", "heads_of", "make", "positions", "selection", "softmax", "state", "usual", "variant"]
