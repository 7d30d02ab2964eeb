"""Luong's attention: five ways to score a decoder's state against an encoder's outputs, each one line, each a function.

All are of one sequence. What is done with scores is the same for all of them:

    weights = softmax(general_scores(w, q, k), where=mask)      over the keys
    context = weights @ k
"""

from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from minilm.initializers import normal
from minilm.layers.activation import softmax
from minilm.layers.attention.additive import AdditiveParams, additive_scores
from minilm.layers.linear import matmul


class ConcatParams(NamedTuple):
    """From a query and a key side by side to width k, and from there to a number."""

    w: Float[Array, "h+i k"]
    v: Float[Array, " k"]


class LocalParams(NamedTuple):
    """From a query to the place that it looks at."""

    w_p: Float[Array, "h k"]
    v_p: Float[Array, " k"]


def init_concat(key, h: int, i: int, k: int, *, dtype=jnp.float32) -> ConcatParams:
    """Weights N(0, 1/fan_in)."""
    w_key, v_key = jax.random.split(key)
    return ConcatParams(
        w=normal(w_key, (h + i, k), fan_in=h + i, dtype=dtype), v=normal(v_key, (k,), fan_in=k, dtype=dtype)
    )


def init_local(key, h: int, k: int, *, dtype=jnp.float32) -> LocalParams:
    """Weights N(0, 1/h), and zero to the place: every query begins by looking at the middle."""
    return LocalParams(w_p=normal(key, (h, k), fan_in=h, dtype=dtype), v_p=jnp.zeros(k, dtype))


@jax.jit
def dot_scores(q: Float[Array, "t h"], k: Float[Array, "s h"]) -> Float[Array, "t s"]:
    r"""Luong's *dot*: how far a query and a key point the same way.

    $$ a_{ts} = q_t \cdot k_s $$

    There is no $\sqrt h$ beneath it yet; that came with the Transformer (`core.scores`), whose products are wider.

    Args:
      q: queries `(t, h)`.
      k: keys `(s, h)`, of the same width.
    Returns:
      scores `(t, s)`, in float32 or wider.

    Reference: `minilm.reference.attention.multiplicative.dot_scores`. Paper: arXiv:1508.04025, section 3.1.

    >>> dot_scores(jnp.array([[1.0, 2.0]]), jnp.array([[3.0, 4.0], [0.0, 1.0]])).tolist()
    [[11.0, 2.0]]
    """
    return matmul(q.astype(jnp.promote_types(q.dtype, "float32")), k.T)


@jax.jit
def general_scores(w: Float[Array, "h i"], q: Float[Array, "t h"], k: Float[Array, "s i"]) -> Float[Array, "t s"]:
    r"""Luong's *general*: a learned product, which lets query and key differ in width and in what their entries mean.

    $$ a_{ts} = q_t W \cdot k_s $$

    Where W is the identity it is `dot_scores`.

    Args:
      w: W `(h, i)`.
      q: queries `(t, h)`.
      k: keys `(s, i)`.
    Returns:
      scores `(t, s)`, in float32 or wider.

    Reference: `minilm.reference.attention.multiplicative.general_scores`. Paper: arXiv:1508.04025, section 3.1.

    >>> general_scores(jnp.array([[0.0], [5.0]]), jnp.array([[1.0, 2.0]]), jnp.array([[3.0]])).tolist()
    [[30.0]]
    """
    return dot_scores(matmul(q, w), k)


@jax.jit
def concat_scores(params: ConcatParams, q: Float[Array, "t h"], k: Float[Array, "s i"]) -> Float[Array, "t s"]:
    r"""Luong's *concat*: a network with one hidden layer that reads query and key side by side.

    $$ a_{ts} = v \cdot \tanh([q_t, k_s]\, W) $$

    The upper rows of W meet the query and the lower ones the key, so it is Bahdanau's `additive_scores`.

    Args:
      params: W `(h + i, k)` and v `(k,)`.
      q: queries `(t, h)`.
      k: keys `(s, i)`.
    Returns:
      scores `(t, s)`, in float32 or wider.

    Reference: `minilm.reference.attention.multiplicative.concat_scores`. Paper: arXiv:1508.04025, section 3.1.

    >>> params = ConcatParams(w=jnp.ones((3, 1)), v=jnp.array([3.0]))
    >>> concat_scores(params, jnp.array([[-2.0]]), jnp.array([[1.0, 1.0], [9.0, 9.0]])).round(3).tolist()
    [[0.0, 3.0]]
    """
    w_q, w_k = jnp.split(params.w, [q.shape[-1]])
    return additive_scores(AdditiveParams(w_q, w_k, params.v), q, k)


@jax.jit
def location_scores(w: Float[Array, "h s"], q: Float[Array, "t h"]) -> Float[Array, "t s"]:
    r"""Luong's *location*: the query alone says where to look, whatever stands there.

    $$ a_{ts} = q_t \cdot W_{\cdot s} $$

    Args:
      w: W `(h, s)`, a column for each place; a shorter text masks those beyond its end.
      q: queries `(t, h)`.
    Returns:
      scores `(t, s)`, in float32 or wider.

    Reference: `minilm.reference.attention.multiplicative.location_scores`. Paper: arXiv:1508.04025, section 3.1.

    >>> location_scores(jnp.array([[1.0, 2.0, 3.0]]), jnp.array([[10.0]])).tolist()
    [[10.0, 20.0, 30.0]]
    """
    return matmul(q.astype(jnp.promote_types(q.dtype, "float32")), w)


@partial(jax.jit, static_argnames="reach")
def local_p_weights(
    params: LocalParams,
    q: Float[Array, "t h"],
    scores: Float[Array, "t s"],
    mask: Bool[Array, "*#ts"] | bool = True,
    *,
    reach: float,
) -> Float[Array, "t s"]:
    r"""Luong's *local-p*: the query predicts a place, and only what stands near it is weighed, the less the farther.

    $$ p_t = S\, \operatorname{sigmoid}(v_p \cdot \tanh(q_t W_p)) $$
    $$ w_{ts} = \operatorname{softmax}_{s: |s - p_t| \le D}(a_{ts})\; e^{-(s - p_t)^2 / 2 \sigma^2},
       \qquad \sigma = D / 2 $$

    The place is a real number, through which its network learns. The weights sum to less than one. With D
    infinite it is the softmax of the scores.

    Args:
      params: $W_p$ `(h, k)` and $v_p$ `(k,)`.
      q: queries `(t, h)`.
      scores: a `(t, s)`, by any of the functions above.
      mask: True where a query may see a key; broadcasts to `(t, s)`. S is the number of keys that it lets a query see.
      reach: D, how far from its place a query sees.
    Returns:
      weights `(t, s)`, in the dtype of the scores.

    Reference: `minilm.reference.attention.multiplicative.local_p_weights`. Paper: arXiv:1508.04025, section 3.2.

    >>> middle = LocalParams(w_p=jnp.zeros((1, 1)), v_p=jnp.zeros(1))
    >>> local_p_weights(middle, jnp.ones((1, 1)), jnp.zeros((1, 4)), reach=1.0).round(3).tolist()
    [[0.0, 0.045, 0.333, 0.045]]
    """
    mask, s, q = jnp.broadcast_to(mask, scores.shape), jnp.arange(scores.shape[1]), q.astype(scores.dtype)
    p = mask.sum(-1, keepdims=True) * jax.nn.sigmoid(matmul(jnp.tanh(matmul(q, params.w_p)), params.v_p[:, None]))
    distance = s - p
    return softmax(scores, where=mask & (jnp.abs(distance) <= reach)) * jnp.exp(-2 * (distance / reach) ** 2)
