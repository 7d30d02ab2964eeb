"""Explicit sparse attention: a query reads the few keys that match it best, and no other."""

from functools import partial

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from minilm.layers.activation import softmax
from minilm.layers.attention.block_selection import largest
from minilm.layers.attention.core import mix, scores


@partial(jax.jit, static_argnames="n")
def top_k_attention(
    q: Float[Array, "g r t k"],
    k: Float[Array, "g s k"],
    v: Float[Array, "g s v"],
    mask: Bool[Array, "*#grts"] | bool = True,
    bias: Float[Array, "*#grts"] | float = 0.0,
    *,
    n: int,
) -> Float[Array, "g r t v"]:
    r"""Dot-product attention among the n keys with the largest scores.

    $$ O = \operatorname{softmax}_{s:\, a_{ts} \ge \theta_t}(A)\, V, \qquad A = \frac{Q K^\top}{\sqrt{k}} + B, \qquad
       \theta_t = \text{the } n\text{-th largest of } a_{ts} $$

    Keys that tie with the n-th enter too, all of them, so that their order does not matter. A query that may see no
    more than n keys reads them all: with n ≥ s it is `dot_product_attention`. The threshold has no gradient, and
    neither has a key below it.

    Every score is still computed; what is saved is only what a kernel makes of the zeros.

    Args:
      q, k, v: `(g, r, t, k)`, `(g, s, k)`, `(g, s, v)`, in one dtype.
      mask: True where a query may see a key; broadcasts to `(g, r, t, s)`. A masked key takes no place among the n.
      bias: added to the scores, before the largest are sought; broadcasts likewise.
      n: how many keys a query reads, at least 1; the k of the name, which is a key's width here.
    Returns:
      `(g, r, t, v)`, in the dtype of v; 0 for a query whose keys are all masked.
    Raises:
      ValueError: where n is less than 1.

    Reference: `minilm.reference.attention.top_k.top_k_attention`. Paper: arXiv:1912.11637.

    >>> q, k, v = jnp.ones((1, 1, 1, 1)), jnp.array([[[0.0], [5.0], [5.0]]]), jnp.array([[[1.0], [3.0], [8.0]]])
    >>> top_k_attention(q, k, v, n=1).item(), top_k_attention(q, k, v, jnp.array([True, True, False]), n=1).item()
    (5.5, 3.0)
    """
    if n < 1:
        raise ValueError(f"a query reads at least one key: expected n >= 1, got {n}")
    a = jnp.where(mask, scores(q, k) + bias, -jnp.inf)
    best = largest(a, n=n)  # by rank, for a score that is computed twice may round in two ways, and be below itself
    threshold = jnp.where(best, a, jnp.inf).min(-1, keepdims=True)
    return mix(softmax(a, where=best | (a >= threshold)), v)
