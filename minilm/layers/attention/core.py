"""Attention itself: the ten lines that everything else in this folder is made of.

Heads come first, as batched matrix products like them: q `(g, r, t, k)`, k `(g, s, k)`, v `(g, s, v)`. Each of the g
key/value heads serves r query heads, so one subscript string covers multi-head (r = 1), multi-query (g = 1) and grouped
attention. All of this is written for one sequence.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jax.tree_util import Partial
from jaxtyping import Array, Bool, Float

from minilm.layers.activation import softmax
from minilm.pytrees import register


@jax.jit
def scores(q: Float[Array, "g r t k"], k: Float[Array, "g s k"]) -> Float[Array, "g r t s"]:
    r"""How well every query matches every key.

    $$ A_{ts} = \frac{q_t \cdot k_s}{\sqrt{k}} $$

    The products of k numbers of unit variance have variance k; the root brings their sum back to 1, where the softmax
    still has a gradient.

    Args:
      q: queries `(g, r, t, k)`.
      k: keys `(g, s, k)`, in q's dtype.
    Returns:
      scores `(g, r, t, s)`, in float32 or wider: a softmax of rounded scores would be a poor one.

    Reference: `minilm.reference.attention.core.scores`. Paper: arXiv:1706.03762, section 3.2.1.

    >>> scores(2 * jnp.ones((1, 1, 1, 4)), 3 * jnp.ones((1, 1, 4))).item()
    12.0
    """
    return _products(q, k) / math.sqrt(q.shape[-1])


@jax.jit
def mix(weights: Float[Array, "g r t s"], v: Float[Array, "g s v"]) -> Float[Array, "g r t v"]:
    r"""The values, averaged with one query's weights.

    $$ o_t = \sum_s w_{ts}\, v_s $$

    Args:
      weights: `(g, r, t, s)`; rounded to v's dtype for the product, whose sum is taken in float32 or wider.
      v: values `(g, s, v)`; their width may differ from the keys'. They must be finite: 0 · NaN is NaN.
    Returns:
      `(g, r, t, v)`, in v's dtype.

    Reference: `minilm.reference.attention.core.mix`.

    >>> mix(jnp.array([[[[0.25, 0.75]]]]), jnp.array([[[4.0], [8.0]]])).item()
    7.0
    """
    return _rounded_einsum("grts,gsv->grtv", weights.astype(v.dtype), v).astype(v.dtype)


@jax.jit
def dot_product_attention(
    q: Float[Array, "g r t k"],
    k: Float[Array, "g s k"],
    v: Float[Array, "g s v"],
    mask: Bool[Array, "*#grts"] | bool = True,
    bias: Float[Array, "*#grts"] | float = 0.0,
) -> Float[Array, "g r t v"]:
    r"""Scaled dot-product attention of one sequence.

    $$ O = \operatorname{softmax}\!\left(\frac{Q K^\top}{\sqrt{k}} + B\right) V $$

    A mask takes keys out of the softmax's sum. A query whose keys are all masked gets 0, with a finite gradient.

    Args:
      q, k, v: `(g, r, t, k)`, `(g, s, k)`, `(g, s, v)`, in one dtype.
      mask: True where a query may see a key; broadcasts to `(g, r, t, s)`.
      bias: added to the scores; broadcasts likewise.
    Returns:
      `(g, r, t, v)`, in the dtype of v; the softmax between is in float32 or wider.

    Reference: `minilm.reference.attention.core.dot_product_attention`. Paper: arXiv:1706.03762.

    >>> q, k, v = jnp.zeros((1, 1, 1, 2)), jnp.zeros((1, 3, 2)), jnp.array([[[1.0], [3.0], [8.0]]])
    >>> dot_product_attention(q, k, v).item(), dot_product_attention(q, k, v, jnp.array([True, True, False])).item()
    (4.0, 2.0)
    """
    return mix(softmax(scores(q, k) + bias, where=mask), v)


@register
@dataclass(frozen=True)
class Dense:
    """Attention that holds all of its `t × s` scores: `Dense(Causal())`, `Dense(Causal(), Alibi.of(g, r))`.

    A variant that turns scores into weights in another way is a function of the same form, `attention(q, k, v, mask,
    bias)`; one that has parameters of its own takes them first, and comes with them: `Partial(variant, parameters)`.

    Every `attend` is called for one sequence, `attend(q, k, v, query, key)`, with the `Tokens` at which queries and
    keys stand. It asks its rule who may see whom; and it alone, so that no rule has to, leaves out the empty slots and
    the padding, which have position −1.
    """

    rule: Callable[..., Any]
    bias: Callable[..., Any] | None = None
    attention: Partial = Partial(dot_product_attention)  # noqa: RUF009 (it holds nothing that could change)

    def __call__(self, q, k, v, query, key):
        """Attention of one sequence, `(g, r, t, v)`."""
        return self.attention(q, k, v, *_mask_and_bias(self, query, key))


@register
@dataclass(frozen=True)
class DenseWithWeights:
    """`Dense` that also returns its weights `(g, r, t, s)`, so that an alignment can be drawn."""

    rule: Callable[..., Any]
    bias: Callable[..., Any] | None = None

    def __call__(self, q, k, v, query, key):
        """Attention of one sequence `(g, r, t, v)`, and its weights `(g, r, t, s)`."""
        mask, bias = _mask_and_bias(self, query, key)
        weights = softmax(scores(q, k) + bias, where=mask)
        return mix(weights, v), weights


class Prepared:
    """An attend that first changes each query and key by itself, as `Rotary`, `NormalizedHeads` and `CosineHeads` do.

    Its `prepare(q, k, query, key)` gives those for the `attend` that it holds: each key's from that key and its own
    place alone, since that is done once, before a cache holds it. (What overrides `__call__` is asked whole, at every
    reading, of keys as they were.)
    """

    attend: Callable[..., Any]
    prepare: Callable[..., Any]

    def __call__(self, q, k, v, query, key):
        """Attention of one sequence, what `attend` returns."""
        return self.attend(*self.prepare(q, k, query, key), v, query, key)


def _mask_and_bias(attend, query, key):
    mask = attend.rule(query, key) & (key.position >= 0)
    return mask, 0.0 if attend.bias is None else attend.bias(query, key)


def _products(q, k):
    """q_t · k_s.

    One query, as in decoding, meets keys as rows: multiplied the other way, XLA for CPUs copies all keys that several
    heads share, turned. Of many queries it would turn the products instead.
    """
    if q.shape[2] == 1:
        return jnp.moveaxis(_rounded_einsum("gsk,grtk->gsrt", k, q), 1, 3)
    return _rounded_einsum("grtk,gsk->grts", q, k)


@partial(jax.custom_vjp, nondiff_argnums=(0,))
def _rounded_einsum(subscripts: str, a, b):
    r"""A product of two arrays in their own dtype, summed in float32 or wider, and so are the products of its gradient.

    $$ y = \sum a\, b, \qquad \bar a = \sum \operatorname{round}(\bar y)\, b,
       \qquad \bar b = \sum \operatorname{round}(\bar y)\, a $$

    Autodiff's own backward pass would multiply a float32 cotangent by bfloat16 operands, off the hardware's fast path.
    """
    return jnp.einsum(subscripts, a, b, preferred_element_type=jnp.result_type(a, b, jnp.float32))


def _rounded_einsum_forward(subscripts, a, b):
    return _rounded_einsum(subscripts, a, b), (a, b)


def _rounded_einsum_backward(subscripts, saved, d_y):
    (a, b), (inputs, y) = saved, subscripts.split("->")
    a_axes, b_axes = inputs.split(",")
    d_y = d_y.astype(jnp.result_type(a, b))
    d_a = _rounded_einsum(f"{y},{b_axes}->{a_axes}", d_y, b).astype(a.dtype)
    return d_a, _rounded_einsum(f"{y},{a_axes}->{b_axes}", d_y, a).astype(b.dtype)


_rounded_einsum.defvjp(_rounded_einsum_forward, _rounded_einsum_backward)
