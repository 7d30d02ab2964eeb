"""Differential attention: two softmaxes, and what the second sees too is taken from the first as noise."""

import math
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.tree_util import Partial
from jaxtyping import Array, Bool, Float

from minilm.initializers import normal
from minilm.layers.activation import softmax
from minilm.layers.attention.core import Dense, mix, scores
from minilm.layers.attention.masks import Causal, Rule
from minilm.layers.attention.multi_head import learned_mixer
from minilm.layers.normalization import RMSNormParams, rms_norm
from minilm.shapes import Mixer


class DifferentialParams(NamedTuple):
    """Of one layer, shared by its heads: the four vectors that λ is made of, and the scale of the heads' norm."""

    q_1: Float[Array, " k"]
    k_1: Float[Array, " k"]
    q_2: Float[Array, " k"]
    k_2: Float[Array, " k"]
    scale: Float[Array, " v"]


def init_differential(key, k: int, v: int, *, dtype=jnp.float32) -> DifferentialParams:
    """Vectors N(0, 0.1²), so that λ begins near its λ₀; scale 1."""
    q_1, k_1, q_2, k_2 = (normal(one, (k,), deviation=0.1, dtype=dtype) for one in jax.random.split(key, 4))
    return DifferentialParams(q_1=q_1, k_1=k_1, q_2=q_2, k_2=k_2, scale=jnp.ones(v, dtype))


@jax.jit
def differential_lambda(params: DifferentialParams, lam0: Float[Array, ""] | float) -> Float[Array, ""]:
    r"""How much of the second softmax is taken from the first: a number that a layer learns.

    $$ \lambda = e^{\lambda_{q_1} \cdot \lambda_{k_1}} - e^{\lambda_{q_2} \cdot \lambda_{k_2}} + \lambda_0 $$

    Products of vectors learn at the rate of the weights around them, where a bare number would be slower.

    Args:
      params: four vectors `(k,)`.
      lam0: λ₀, a constant of the layer's depth: see `differential_mixer`.
    Returns:
      λ, one number, in float32 or wider.

    Reference: `minilm.reference.attention.differential.differential_lambda`. Paper: arXiv:2410.05258, equation 2.

    >>> zero = jnp.zeros(2)
    >>> round(differential_lambda(DifferentialParams(zero, zero, zero, zero, jnp.ones(1)), 0.2).item(), 4)
    0.2
    """
    q_1, k_1, q_2, k_2 = (vector.astype(_wide(vector)) for vector in params[:4])
    return jnp.exp(q_1 @ k_1) - jnp.exp(q_2 @ k_2) + lam0


@jax.jit
def differential_attention(
    lam: Float[Array, ""] | float,
    q: Float[Array, "g r t k"],
    k: Float[Array, "g s k"],
    v: Float[Array, "g s v"],
    mask: Bool[Array, "*#grts"] | bool = True,
    bias: Float[Array, "*#grts"] | float = 0.0,
) -> Float[Array, "g r t v"]:
    r"""The difference of two softmaxes over the same values.

    $$ O = \left(\operatorname{softmax}\!\left(\frac{Q_1 K_1^\top}{\sqrt{k}} + B\right)
           - \lambda \operatorname{softmax}\!\left(\frac{Q_2 K_2^\top}{\sqrt{k}} + B\right)\right) V,
       \qquad [Q_1, Q_2] = Q, \quad [K_1, K_2] = K $$

    As a differential amplifier does, it cancels what both of its inputs hold. Weights may be negative, and those of a
    query sum to 1 − λ. With λ = 0 it is `dot_product_attention` of the first halves.

    Args:
      lam: λ.
      q, k: queries `(g, r, t, 2k)` and keys `(g, s, 2k)`; the first half of the last axis is of the first softmax.
      v: values `(g, s, v)`; the paper's are 2k wide.
      mask: True where a query may see a key; broadcasts to `(g, r, t, s)`.
      bias: added to both scores; broadcasts likewise.
    Returns:
      `(g, r, t, v)`, in the dtype of v. A query whose keys are all masked gets 0, with a finite gradient.
    Raises:
      ValueError: for queries and keys of odd width, which have no halves.

    Reference: `minilm.reference.attention.differential.differential_attention`. Paper: arXiv:2410.05258, equation 1.

    >>> q, k, v = jnp.zeros((1, 1, 1, 2)), jnp.zeros((1, 2, 2)), jnp.array([[[4.0], [8.0]]])
    >>> differential_attention(0.25, q, k, v).item()
    4.5
    """
    if q.shape[-1] % 2:
        raise ValueError(f"q and k hold two halves each, so an even width was expected, but it is {q.shape[-1]}")
    (q_1, q_2), (k_1, k_2) = jnp.split(q, 2, -1), jnp.split(k, 2, -1)
    first, second = (softmax(scores(*half) + bias, where=mask) for half in ((q_1, k_1), (q_2, k_2)))
    return mix(first - lam * second, v)


@jax.jit
def differential_heads(
    params: DifferentialParams,
    lam0: Float[Array, ""] | float,
    q: Float[Array, "g r t k"],
    k: Float[Array, "g s k"],
    v: Float[Array, "g s v"],
    mask: Bool[Array, "*#grts"] | bool = True,
    bias: Float[Array, "*#grts"] | float = 0.0,
) -> Float[Array, "g r t v"]:
    r"""Differential attention as the paper's heads have it, each brought to a common scale.

    $$ \mathrm{head} = (1 - \lambda_0)\, \operatorname{RMSNorm}(\operatorname{DiffAttention}_\lambda(Q, K, V)) $$

    A difference is smaller than its parts, and differently so in every head: hence the norm, of each head by itself.
    The factor, constant, gives gradients the size that they have in a Transformer without the difference.

    Args:
      params: the vectors of λ `(k,)`, and the scale of the norm `(v,)`.
      lam0: λ₀.
      q, k, v, mask, bias: as `differential_attention`'s.
    Returns:
      `(g, r, t, v)`, in the dtype of v; 0 where all keys are masked.

    Reference: `minilm.reference.attention.differential.differential_heads`. Paper: arXiv:2410.05258, equation 3; the ε
    of the norm, 1e-5, is that of the authors' code.

    >>> zero, q, k = jnp.zeros(1), jnp.zeros((1, 1, 1, 2)), jnp.zeros((1, 1, 2))
    >>> params = DifferentialParams(zero, zero, zero, zero, scale=jnp.ones(2))
    >>> [round(y, 4) for y in differential_heads(params, 0.5, q, k, jnp.array([[[20.0, 140.0]]])).ravel().tolist()]
    [0.1, 0.7]
    """
    o = differential_attention(differential_lambda(params, lam0), q, k, v, mask, bias)
    return ((1 - lam0) * rms_norm(RMSNormParams(params.scale), o, eps=1e-5)).astype(v.dtype)


def differential_mixer(
    rule: Rule = Causal(),
    *,
    g: int,
    r: int,
    k: int,
    v: int,
    depth: int,
    bias: bool = False,
) -> Mixer:
    r"""Multi-head differential attention: `differential_mixer(g=2, r=1, k=16, v=32, depth=0)`.

    $$ \lambda_0 = 0.8 - 0.6\, e^{-0.3\, \mathit{depth}} $$

    Args:
      rule: who may see whom.
      g, r: key/value heads, and query heads of each; for a Transformer's cost, half as many as it has.
      k: the width of one half of a query or a key: projections are 2k wide.
      v: the width of a value; the paper's is 2k.
      depth: of the layer, counted from 0: λ₀ grows from 0.2 towards 0.8.
      bias: whether the projections have one.
    Returns:
      a `Mixer` of `LearnedParams`, whose state is a `KVCache`.
    """
    lam0 = 0.8 - 0.6 * math.exp(-0.3 * depth)
    return learned_mixer(
        partial(init_differential, k=k, v=v),
        lambda params: Dense(rule, attention=Partial(differential_heads, params, lam0)),
        g=g,
        r=r,
        k=2 * k,
        v=v,
        bias=bias,
    )


def _wide(x):
    return jnp.promote_types(x.dtype, jnp.float32)
