"""Attention as it came into the world: a small network asks of every pair whether they belong together (Bahdanau)."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from minilm.initializers import normal
from minilm.layers.activation import softmax
from minilm.layers.linear import matmul


class AdditiveParams(NamedTuple):
    """From queries of width h and from keys of width i to a common width k, and from there to a number."""

    w_q: Float[Array, "h k"]
    w_k: Float[Array, "i k"]
    v: Float[Array, " k"]


def init_additive(key, h: int, i: int, k: int, *, dtype=jnp.float32) -> AdditiveParams:
    """Weights N(0, 1/fan_in)."""
    q_key, k_key, v_key = jax.random.split(key, 3)
    return AdditiveParams(
        w_q=normal(q_key, (h, k), fan_in=h, dtype=dtype),
        w_k=normal(k_key, (i, k), fan_in=i, dtype=dtype),
        v=normal(v_key, (k,), fan_in=k, dtype=dtype),
    )


@jax.jit
def additive_scores(params: AdditiveParams, q: Float[Array, "t h"], k: Float[Array, "s i"]) -> Float[Array, "t s"]:
    r"""How well every query matches every key, by a network with one hidden layer.

    $$ a_{ts} = v \cdot \tanh(q_t W_q + k_s W_k) $$

    Query and key may differ in width. The keys' product is the same for every query: a decoder that asks at each of its
    steps takes it once, and goes on with `projected_additive_scores`. Scores are bounded by $\sum_j |v_j|$, and need no
    root of a width beneath them.

    Args:
      params: $W_q$ `(h, k)`, $W_k$ `(i, k)` and v `(k,)`; in the paper $W_a$, $U_a$ and $v_a$.
      q: queries `(t, h)`, a decoder's states.
      k: keys `(s, i)`, an encoder's outputs.
    Returns:
      scores `(t, s)`, in float32 or wider.

    Reference: `minilm.reference.attention.additive.additive_scores`. Paper: arXiv:1409.0473, section A.1.2.

    >>> params = AdditiveParams(w_q=jnp.ones((1, 1)), w_k=jnp.ones((2, 1)), v=jnp.array([3.0]))
    >>> additive_scores(params, jnp.array([[-2.0]]), jnp.array([[1.0, 1.0], [9.0, 9.0]])).round(3).tolist()
    [[0.0, 3.0]]
    """
    return projected_additive_scores(params.v, matmul(q, params.w_q), matmul(k, params.w_k))


@jax.jit
def projected_additive_scores(
    v: Float[Array, " k"], q: Float[Array, "t k"], k: Float[Array, "s k"]
) -> Float[Array, "t s"]:
    r"""`additive_scores` from where both products are taken.

    $$ a_{ts} = v \cdot \tanh(q_t + k_s) $$

    Args:
      v: `(k,)`.
      q: projected queries, $q_t W_q$ above, `(t, k)`.
      k: projected keys, $k_s W_k$ above, `(s, k)`.
    Returns:
      scores `(t, s)`, in float32 or wider.

    Reference: `minilm.reference.attention.additive.projected_additive_scores`.

    >>> projected_additive_scores(jnp.array([3.0]), jnp.array([[-2.0]]), jnp.array([[2.0], [18.0]])).round(3).tolist()
    [[0.0, 3.0]]
    """
    a = jnp.tanh(q[:, None, :] + k[None, :, :])
    return jnp.einsum("tsk,k->ts", a, v, preferred_element_type=jnp.promote_types(a.dtype, "float32"))


@jax.jit
def additive_attention(
    params: AdditiveParams,
    q: Float[Array, "t h"],
    k: Float[Array, "s i"],
    v: Float[Array, "s v"],
    mask: Bool[Array, "*#ts"] | bool = True,
) -> Float[Array, "t v"]:
    r"""Bahdanau's attention of one sequence: for each query an average of the values, weighed by what it asks for.

    $$ o_t = \sum_s w_{ts}\, v_s, \qquad w_t = \operatorname{softmax}_s(a_{ts}) $$

    The softmax is over the keys s, so that the weights of one query sum to one. (Over the queries they do not, which
    goes unnoticed where both are equally many.) A query whose keys are all masked gets 0, with a finite gradient.

    Args:
      params: those of `additive_scores`.
      q: queries `(t, h)`.
      k: keys `(s, i)`.
      v: values `(s, v)`; the paper's are its keys. They must be finite: 0 · NaN is NaN.
      mask: True where a query may see a key; broadcasts to `(t, s)`.
    Returns:
      `(t, v)`, in the dtype of v. The weights alone are `softmax(additive_scores(params, q, k), where=mask)`.

    Reference: `minilm.reference.attention.additive.additive_attention`. Paper: arXiv:1409.0473, equations 5 and 6.

    >>> params = AdditiveParams(w_q=jnp.zeros((1, 1)), w_k=jnp.zeros((1, 1)), v=jnp.zeros(1))
    >>> additive_attention(params, jnp.ones((1, 1)), jnp.ones((2, 1)), jnp.array([[2.0], [4.0]])).tolist()
    [[3.0]]
    """
    weights = softmax(additive_scores(params, q, k), where=mask)
    return matmul(weights.astype(v.dtype), v)
