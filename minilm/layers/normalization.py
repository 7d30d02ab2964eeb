"""Rows brought to a common scale, and with layer norm to a common centre, before the next layer reads them."""

from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float


class LayerNormParams(NamedTuple):
    """What each entry is multiplied by and shifted by after the normalisation."""

    scale: Float[Array, " d"]
    bias: Float[Array, " d"]


class RMSNormParams(NamedTuple):
    """What each entry is multiplied by after the normalisation."""

    scale: Float[Array, " d"]


def init_layer_norm(d: int, dtype=jnp.float32) -> LayerNormParams:
    """Scale 1 and bias 0: at first the norm only normalises."""
    return LayerNormParams(scale=jnp.ones(d, dtype), bias=jnp.zeros(d, dtype))


def init_rms_norm(d: int, dtype=jnp.float32) -> RMSNormParams:
    """Scale 1: at first the norm only normalises."""
    return RMSNormParams(scale=jnp.ones(d, dtype))


@partial(jax.jit, static_argnames="eps")
def layer_norm(params: LayerNormParams, x: Float[Array, "... d"], eps: float = 1e-5) -> Float[Array, "... d"]:
    r"""Layer normalisation: each row at mean 0 and variance 1, then scaled and shifted entry by entry.

    $$ \mu = \tfrac1d \sum_j x_j, \qquad \sigma^2 = \tfrac1d \sum_j (x_j - \mu)^2, \qquad
       y_j = \frac{x_j - \mu}{\sqrt{\sigma^2 + \epsilon}}\, \gamma_j + \beta_j $$

    Two passes, the variance after the mean: the one-pass $\overline{x^2} - \mu^2$ loses every digit where the mean is
    much larger than the deviation. ε keeps a constant row finite.

    Args:
      params: γ (scale) and β (bias), `(d,)`.
      x: `(..., d)`.
      eps: ε, a Python number; 1e-5 is GPT-2's, BERT has 1e-12, Flax 1e-6.
    Returns:
      y `(..., d)`, in x's dtype; computed in float32 or wider.

    Reference: `minilm.reference.normalization.layer_norm`. Paper: arXiv:1607.06450.

    >>> [round(y, 2) for y in layer_norm(init_layer_norm(2), jnp.array([3.0, 5.0])).tolist()]
    [-1.0, 1.0]
    """
    wide = x.astype(_wide(x))
    mean = wide.mean(-1, keepdims=True)
    centred = wide - mean
    variance = (centred**2).mean(-1, keepdims=True)
    return (centred * jax.lax.rsqrt(variance + eps) * params.scale + params.bias).astype(x.dtype)


@partial(jax.jit, static_argnames="eps")
def rms_norm(params: RMSNormParams, x: Float[Array, "... d"], eps: float = 1e-6) -> Float[Array, "... d"]:
    r"""Root-mean-square normalisation: each row at mean square 1, then scaled entry by entry.

    $$ y_j = \frac{x_j}{\sqrt{\tfrac1d \sum_i x_i^2 + \epsilon}}\, \gamma_j $$

    Layer norm without its centre: where rows have mean 0 already, the two are equal. T5, Llama and most that followed.

    Args:
      params: γ (scale) `(d,)`.
      x: `(..., d)`.
      eps: ε, a Python number; 1e-6 is T5's and Llama 1's, Llama 2 has 1e-5.
    Returns:
      y `(..., d)`, in x's dtype; computed in float32 or wider.

    Reference: `minilm.reference.normalization.rms_norm`. Paper: arXiv:1910.07467.

    >>> [round(y, 2) for y in rms_norm(init_rms_norm(2), jnp.array([1.0, 7.0])).tolist()]
    [0.2, 1.4]
    """
    wide = x.astype(_wide(x))
    mean_square = (wide**2).mean(-1, keepdims=True)
    return (wide * jax.lax.rsqrt(mean_square + eps) * params.scale).astype(x.dtype)


def _wide(x):
    return jnp.promote_types(x.dtype, jnp.float32)
