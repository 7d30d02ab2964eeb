r"""From a vector for each position to one for the whole sequence: what a classifier stands on.

All are written for one sequence, of which the positions where the mask is True count, and no other, whatever stands
there; a sequence of which none counts gives 0, with a gradient of 0. For the first n positions the mask is
`jnp.arange(t) < n`; use `jax.vmap` for several sequences.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from minilm.initializers import normal
from minilm.layers.activation import softmax
from minilm.layers.linear import matmul

Mask = Bool[Array, " t"] | Bool[Array, ""] | bool


@jax.jit
def mean_pool(x: Float[Array, "t d"], mask: Mask = True) -> Float[Array, " d"]:
    r"""The mean over the positions that count.

    $$ y = \frac{\sum_t m_t\, x_t}{\sum_t m_t} $$

    Args:
      x: `(t, d)`.
      mask: m `(t,)`, True where a position counts.
    Returns:
      y `(d,)`, in x's dtype; summed in float32 or wider.
    Raises:
      ValueError: x has no position.

    Reference: `minilm.reference.pooling.mean_pool`.

    >>> mean_pool(jnp.array([[1.0, 2.0], [3.0, 6.0], [9.0, 9.0]]), jnp.array([True, True, False])).tolist()
    [2.0, 4.0]
    """
    x, mask = _counting(x, mask, 0)
    wide = jnp.promote_types(x.dtype, jnp.float32)
    return (x.astype(wide).sum(0) / jnp.maximum(mask.sum(), 1)).astype(x.dtype)


@jax.jit
def max_pool(x: Float[Array, "t d"], mask: Mask = True) -> Float[Array, " d"]:
    r"""The largest value of each component over the positions that count.

    $$ y_i = \max_{t:\, m_t} x_{ti} $$

    Its gradient goes to the position that has it, in equal parts where several have.

    Args:
      x: `(t, d)`.
      mask: m `(t,)`, True where a position counts.
    Returns:
      y `(d,)`, in x's dtype.
    Raises:
      ValueError: x has no position.

    Reference: `minilm.reference.pooling.max_pool`. Paper: arXiv:1103.0398 (Collobert et al.: max over time).

    >>> max_pool(jnp.array([[1.0, 7.0], [3.0, 6.0], [9.0, 9.0]]), jnp.array([True, True, False])).tolist()
    [3.0, 7.0]
    """
    x, mask = _counting(x, mask, -jnp.inf)
    return jnp.where(mask.any(), x.max(0), 0)


@jax.jit
def last_pool(x: Float[Array, "t d"], mask: Mask = True) -> Float[Array, " d"]:
    r"""The last position that counts: in a causal model, the one that has seen all the others.

    $$ y = x_{\max \{t:\, m_t\}} $$

    Args:
      x: `(t, d)`.
      mask: m `(t,)`, True where a position counts.
    Returns:
      y `(d,)`, in x's dtype.
    Raises:
      ValueError: x has no position.

    Reference: `minilm.reference.pooling.last_pool`.

    >>> last_pool(jnp.array([[1.0, 7.0], [3.0, 6.0], [9.0, 9.0]]), jnp.array([True, True, False])).tolist()
    [3.0, 6.0]
    """
    x, mask = _counting(x, mask, 0)
    return x[jnp.max(jnp.arange(len(x)), where=mask, initial=-1)]  # if none counts, a row of those replaced by 0


class AttentionPoolParams(NamedTuple):
    """One learned query, for all texts the same, and the keys that it is compared with."""

    w_k: Float[Array, "d k"]
    b_k: Float[Array, " k"]
    q: Float[Array, " k"]


def init_attention_pool(key, d: int, k: int, *, dtype=jnp.float32) -> AttentionPoolParams:
    """Weights N(0, 1/d), bias zero; the query N(0, 1/k), of unit length, so that no position stands out at first."""
    key_w, key_q = jax.random.split(key)
    w_k = normal(key_w, (d, k), fan_in=d, dtype=dtype)
    return AttentionPoolParams(w_k=w_k, b_k=jnp.zeros(k, dtype), q=normal(key_q, (k,), fan_in=k, dtype=dtype))


@jax.jit
def attention_pool_weights(
    params: AttentionPoolParams, x: Float[Array, "t d"], mask: Mask = True
) -> Float[Array, " t"]:
    r"""How much each position matters to the learned query: what to draw under the words of a text.

    $$ w = \operatorname{softmax}_t\!\left(q \cdot \tanh(x_t W_k + b_k)\right) $$

    Args:
      params: $W_k$ `(d, k)`, $b_k$ and q `(k,)`.
      x: `(t, d)`.
      mask: m `(t,)`, True where a position counts.
    Returns:
      w `(t,)`, in float32 or wider; adds up to 1, or is 0 where no position counts.
    Raises:
      ValueError: x has no position.

    Reference: `minilm.reference.pooling.attention_pool_weights`. Paper: Yang et al., NAACL 2016.

    >>> params = AttentionPoolParams(w_k=jnp.ones((1, 1)), b_k=jnp.zeros(1), q=jnp.array([jnp.log(3.0)]))
    >>> attention_pool_weights(params, jnp.array([[99.0], [0.0], [5.0]]), jnp.array([True, True, False])).tolist()
    [0.75, 0.25, 0.0]
    """
    x, mask = _counting(x, mask, 0)
    k = jnp.tanh(matmul(x, params.w_k) + params.b_k.astype(x.dtype))
    wide = jnp.promote_types(x.dtype, jnp.float32)
    return softmax(k.astype(wide) @ params.q.astype(wide), where=mask)


@jax.jit
def attention_pool(params: AttentionPoolParams, x: Float[Array, "t d"], mask: Mask = True) -> Float[Array, " d"]:
    r"""The mean over the positions, weighted by how much each matters to a learned query.

    $$ y = \sum_t w_t\, x_t, \qquad w = \operatorname{softmax}_t\!\left(q \cdot \tanh(x_t W_k + b_k)\right) $$

    With q = 0 it is `mean_pool`.

    Args:
      params: $W_k$ `(d, k)`, $b_k$ and q `(k,)`.
      x: `(t, d)`.
      mask: m `(t,)`, True where a position counts.
    Returns:
      y `(d,)`, in x's dtype; summed in float32 or wider.
    Raises:
      ValueError: x has no position.

    Reference: `minilm.reference.pooling.attention_pool`. Paper: Yang et al., NAACL 2016.

    >>> params = AttentionPoolParams(w_k=jnp.ones((1, 1)), b_k=jnp.zeros(1), q=jnp.array([jnp.log(3.0)]))
    >>> attention_pool(params, jnp.array([[99.0], [0.0], [5.0]]), jnp.array([True, True, False])).tolist()
    [74.25]
    """
    w = attention_pool_weights(params, x, mask)
    x, _ = _counting(x, mask, 0)
    return (w @ x.astype(w.dtype)).astype(x.dtype)


def _counting(x, mask, fill):
    """x with what does not count replaced, so that no NaN passes, neither on nor back; the mask of each position."""
    if not len(x):
        raise ValueError("expected a sequence of at least one position, got none: pad it, with a mask that is False.")
    mask = jnp.broadcast_to(mask, len(x))
    return jnp.where(mask[:, None], x, jnp.asarray(fill, x.dtype)), mask
