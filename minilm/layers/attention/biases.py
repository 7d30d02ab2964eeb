"""What a query adds to its scores for where a key stands: ALiBi's straight lines, and T5's learned table.

A bias is asked like a rule, with the `Tokens` of queries and keys, and answers with `(g, r, t, s)`. It is a pytree too,
so a learned one is found, and trained, inside of whatever holds it.
"""

import math
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from minilm.initializers import normal
from minilm.pytrees import register
from minilm.shapes import Tokens


@jax.jit
def alibi(slopes: Float[Array, "g r"], query: Tokens, key: Tokens) -> Float[Array, "g r t s"]:
    r"""Attention with linear biases: what is far away counts less, at each head's own rate.

    $$ B_{ts} = -m \, |p_t - p_s| $$

    The paper's attention is causal, where the absolute value changes nothing.

    Args:
      slopes: m, `(g, r)`; `alibi_slopes` gives the paper's.
      query, key: where queries and keys stand, `(t,)` and `(s,)`.
    Returns:
      bias `(g, r, t, s)`, in the slopes' dtype.

    Reference: `minilm.reference.attention.biases.alibi`. Paper: arXiv:2108.12409.

    >>> alibi(jnp.array([[0.5]]), Tokens.arange(1, start=3), Tokens.arange(4)).tolist()
    [[[[-1.5, -1.0, -0.5, -0.0]]]]
    """
    return -slopes[:, :, None, None] * jnp.abs(query.position[:, None] - key.position)


def alibi_slopes(n_heads: int) -> list[float]:
    r"""The slopes that ALiBi's authors, and BLOOM, give to any number of heads.

    $$ m_h = 2^{-8 h / n}, \quad h = 1, \dots, n \qquad \text{for } n \text{ a power of two} $$

    Otherwise n is the power of two below, and the heads left over take every other slope of 2n heads, from the first.

    Args:
      n_heads: how many heads.
    Returns:
      the slopes, one for each head.

    Reference: `minilm.reference.attention.biases.alibi_slopes`. Paper: arXiv:2108.12409, section 3.

    >>> alibi_slopes(4)
    [0.25, 0.0625, 0.015625, 0.00390625]
    >>> alibi_slopes(6) == [*alibi_slopes(4), *alibi_slopes(8)[0:4:2]]
    True
    """
    n = 2 ** math.floor(math.log2(n_heads))
    slopes = [2 ** (-8 * h / n) for h in range(1, n + 1)]
    return slopes if n == n_heads else slopes + alibi_slopes(2 * n)[: 2 * (n_heads - n) : 2]


@register
@dataclass(frozen=True)
class Alibi:
    """ALiBi as `Dense` and `Blockwise` take it: `Dense(Causal(), Alibi.of(g, r))`."""

    slopes: Any

    @classmethod
    def of(cls, g: int, r: int = 1, dtype=jnp.float32) -> "Alibi":
        """The paper's slopes for g · r heads."""
        return cls(jnp.array(alibi_slopes(g * r), dtype).reshape(g, r))

    def __call__(self, query: Tokens, key: Tokens) -> Float[Array, "g r t s"]:
        """−m |p_t − p_s|."""
        return alibi(self.slopes, query, key)


@partial(jax.jit, static_argnames=("bidirectional", "max_distance"))
def t5_relative(
    table: Float[Array, "p g r"], query: Tokens, key: Tokens, *, bidirectional: bool = True, max_distance: int = 128
) -> Float[Array, "g r t s"]:
    r"""A learned bias for each head and each bucket of distances.

    $$ B_{ts} = \mathrm{table}_{\,\mathrm{bucket}(p_s - p_t)} $$

    T5 itself does not divide its scores by √k: to load its weights, multiply its w_q by √k.

    Args:
      table: `(p, g, r)`, a row for each of p buckets.
      query, key: where queries and keys stand, `(t,)` and `(s,)`.
      bidirectional: whether keys behind and ahead have buckets of their own (T5's encoder), or those ahead, which a
        causal mask hides, share the bucket of distance 0 (its decoder).
      max_distance: from here on all distances share one bucket.
    Returns:
      bias `(g, r, t, s)`, in the table's dtype.

    Reference: `minilm.reference.attention.biases.t5_relative`. Paper: arXiv:1910.10683.
    """
    distance = key.position - query.position[:, None]
    bucket = t5_bucket(distance, n_buckets=table.shape[0], bidirectional=bidirectional, max_distance=max_distance)
    return jnp.moveaxis(table[bucket], (0, 1), (2, 3))


@partial(jax.jit, static_argnames=("n_buckets", "bidirectional", "max_distance"))
def t5_bucket(
    distance: Int[Array, "*shape"], *, n_buckets: int = 32, bidirectional: bool = True, max_distance: int = 128
) -> Int[Array, "*shape"]:
    r"""T5's bucket of a distance $p_s - p_t$: exact while near, then wider and wider.

    $$ \mathrm{bucket}(n) = \begin{cases} n & n < e \\
       \min\left(N - 1,\; e + \left\lfloor (N - e) \frac{\ln (n / e)}{\ln (D / e)} \right\rfloor\right) & n \ge e
       \end{cases} \qquad e = \lfloor N / 2 \rfloor $$

    for the distance n behind, with N buckets and $D$ the maximal distance; with two directions, each has half of the
    buckets. The logarithm's boundaries are compared as integers, so that no rounding moves one.

    Args:
      distance: of the key from the query, negative for the past; any shape.
      n_buckets, bidirectional, max_distance: as in `t5_relative`.
    Returns:
      the bucket, from 0 to n_buckets − 1.
    Raises:
      ValueError: for more buckets of one distance each than there are distances.

    Reference: `minilm.reference.attention.biases.t5_bucket`.

    >>> t5_bucket(jnp.array([0, -1, -7, -8, -12, -1000, 1])).tolist()
    [0, 1, 7, 8, 9, 15, 17]
    """
    if bidirectional:
        n_buckets //= 2
        ahead = jnp.where(distance > 0, n_buckets, 0)
        n = jnp.abs(distance)
    else:
        ahead = 0
        n = jnp.maximum(-distance, 0)
    if n_buckets // 2 > max_distance:
        raise ValueError(
            f"of the {n_buckets} buckets of a direction {n_buckets // 2} are of one distance each: expected at most "
            f"max_distance, {max_distance}, of those"
        )
    boundaries = jnp.array(_boundaries(n_buckets, max_distance), n.dtype)
    return ahead + (n[..., None] >= boundaries).sum(-1, dtype=n.dtype)


def _boundaries(n_buckets, max_distance):
    """The smallest distances in buckets 1, 2, ...: n enters e + j when (n / e)^(N − e) >= (D / e)^j."""
    e = n_buckets // 2
    width = n_buckets - e
    wide = [
        next(n for n in range(e, max_distance + 1) if n**width * e**j >= max_distance**j * e**width)
        for j in range(1, width)
    ]
    return [*range(1, e + 1), *wide]


@register
@dataclass(frozen=True)
class T5Relative:
    """T5's bias as `Dense` and `Blockwise` take it; its table `(p, g, r)` is learned."""

    table: Any
    bidirectional: bool = field(default=True, metadata={"static": True})
    max_distance: int = field(default=128, metadata={"static": True})

    @classmethod
    def init(cls, key, g: int, r: int = 1, *, p: int = 32, bidirectional: bool = True, max_distance: int = 128):
        """A table of N(0, 1) entries for p buckets."""
        return cls(normal(key, (p, g, r)), bidirectional, max_distance)

    def __call__(self, query: Tokens, key: Tokens) -> Float[Array, "g r t s"]:
        """The table's row for the bucket of p_s − p_t."""
        options = {"bidirectional": self.bidirectional, "max_distance": self.max_distance}
        return t5_relative(self.table, query, key, **options)
