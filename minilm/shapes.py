"""The letters that name axes, in annotations, einsum strings, docstrings and prose alike.

| letter | axis                                 | letter | axis                                           |
|--------|--------------------------------------|--------|------------------------------------------------|
| `t`    | query position                       | `f`    | feed-forward width                             |
| `s`    | key position, slot of a cache        | `n`    | vocabulary                                     |
| `d`    | model width                          | `p`    | row of a learned table of positions            |
| `g`    | key/value head                       | `i`    | input width                                    |
| `r`    | query head per key/value head        | `h`    | hidden width of a recurrent cell               |
| `k`    | query/key width of a head            | `o`    | output width                                   |
| `v`    | value width of a head                | `c`    | tag, class; block that may be selected         |
| `m`    | width of a memory; feature           | `b`    | block of keys, compressed to one               |
|        |                                      | `...`  | any leading axes                               |

`parallel.py` reads these letters off the parameters' annotations to place them on many devices, so a weight's
annotation is not decoration. Inside a body, single letters are the paper's symbols.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Int


class Tokens(NamedTuple):
    """Where tokens stand: all that a mask or a bias may know of them.

    A position counts from 0 within its document; −1 marks an empty cache slot or padding. Attention across
    documents is what `SameDocument` forbids; a single document has number 0 throughout.
    """

    position: Int[Array, "*batch t"] | Any  # or one number, where the two ends of an interval are meant
    document: Int[Array, "*batch t"] | Any

    @classmethod
    def arange(cls, length: int, start: int = 0) -> "Tokens":
        """One document's tokens `start, start + 1, ...`, `length` of them.

        >>> Tokens.arange(3, start=5).position.tolist()
        [5, 6, 7]
        """
        position = jnp.arange(start, start + length, dtype=jnp.int32)
        return cls(position, jnp.zeros_like(position))


@jax.tree_util.register_static
@dataclass(frozen=True)
class Mixer:
    """What mixes positions in a block: four functions, and all that the rest of minilm knows of an attention variant.

    init(key, d_model)                   -> params
    apply(params, x, tokens)             -> y          x, y: (..., t, d); tokens: (..., t)
    init_state(params, size, dtype=None) -> state      for one sequence, with room for `size` positions
    step(params, state, x, tokens)       -> (state, y) x, y: (t, d), a chunk of one sequence; position −1 is padding

    A state is asked for without a dtype: its numbers then have that of the parameters, or are float32.
    """

    init: Callable[..., Any]
    apply: Callable[..., Any]
    init_state: Callable[..., Any]
    step: Callable[..., Any]
