"""Columns brought to a common centre and scale by the statistics of a batch, and in use by those that training kept.

Images are normalised so. Text is not, for three reasons that `tests/test_batch_normalization.py` shows: padding enters
the statistics unless it is masked; a batch of one row loses its input; and what a position gives depends on all others,
so that a language model reads the future off the statistics in training, and misses it in use. Layer norm takes a row's
statistics from the row alone and has none of the three.
"""

from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float


class BatchNormParams(NamedTuple):
    """What each column is multiplied by and shifted by after the normalisation."""

    scale: Float[Array, " d"]
    bias: Float[Array, " d"]


class BatchNormState(NamedTuple):
    """What training has seen of each column: averages that forget."""

    mean: Float[Array, " d"]
    variance: Float[Array, " d"]


def init_batch_norm(d: int, dtype=jnp.float32) -> BatchNormParams:
    """Scale 1 and bias 0: at first the norm only normalises."""
    return BatchNormParams(scale=jnp.ones(d, dtype), bias=jnp.zeros(d, dtype))


def init_batch_norm_state(d: int, dtype=jnp.float32) -> BatchNormState:
    """Mean 0 and variance 1: in use, before any training, the norm changes nothing."""
    return BatchNormState(mean=jnp.zeros(d, dtype), variance=jnp.ones(d, dtype))


@partial(jax.jit, static_argnames=("momentum", "eps"))
def batch_norm_training(
    params: BatchNormParams,
    state: BatchNormState,
    x: Float[Array, "*batch d"],
    mask: Bool[Array, "*#batch"] | bool = True,
    momentum: float = 0.1,
    eps: float = 1e-5,
) -> tuple[BatchNormState, Float[Array, "*batch d"]]:
    r"""Batch normalisation in training: each column at mean 0 and variance 1 over the rows of the batch.

    $$ \mu_j = \tfrac1n \sum_{r \in M} x_{rj}, \qquad \sigma^2_j = \tfrac1n \sum_{r \in M} (x_{rj} - \mu_j)^2, \qquad
       y_{rj} = \frac{x_{rj} - \mu_j}{\sqrt{\sigma^2_j + \epsilon}}\, \gamma_j + \beta_j $$
    $$ \bar\mu' = (1 - m)\, \bar\mu + m\, \mu, \qquad
       \bar\sigma^{2\prime} = (1 - m)\, \bar\sigma^2 + m\, \tfrac{n}{n-1}\, \sigma^2 $$

    M are the n rows that count; the others enter no statistic, and are normalised like these. The momentum m is
    PyTorch's, the weight of the *new* batch, and so is the variance that is kept, unbiased. Flax's and Keras' momentum
    is 1 − m, and Flax keeps σ² itself. One row alone gives β, whatever it holds (PyTorch refuses it). Where no row
    counts, the state stays.

    Args:
      params: γ (scale) and β (bias), `(d,)`.
      state: the running mean and variance, `(d,)`.
      x: `(..., d)`; all axes but the last are rows.
      mask: True for the rows that count; broadcasts to `(...)`. The others must be finite, or gradients are not.
      momentum: m, a Python number; at 1 the state is the last batch's, at 0 it never moves.
      eps: ε, a Python number.
    Returns:
      `(state, y)`: the state after this batch, and y `(..., d)` in x's dtype; computed in float32 or wider.

    Reference: `minilm.reference.batch_normalization.batch_norm_training`. Paper: arXiv:1502.03167.

    >>> state, y = batch_norm_training(init_batch_norm(1), init_batch_norm_state(1), jnp.array([[3.0], [5.0]]))
    >>> y.round(2).tolist(), round(float(state.mean[0]), 2), round(float(state.variance[0]), 2)
    ([[-1.0], [1.0]], 0.4, 1.1)
    """
    wide = x.astype(_wide(x))
    rows = tuple(range(x.ndim - 1))
    counted = jnp.broadcast_to(mask, x.shape[:-1])[..., None]
    n = counted.sum(dtype=wide.dtype)
    mean = jnp.where(counted, wide, 0).sum(rows) / jnp.maximum(n, 1)
    centred = wide - mean
    variance = jnp.where(counted, centred**2, 0).sum(rows) / jnp.maximum(n, 1)
    y = centred * jax.lax.rsqrt(variance + eps) * params.scale + params.bias
    m = jnp.where(n > 0, momentum, 0)
    kept = BatchNormState(
        mean=(1 - m) * state.mean + m * mean,
        variance=(1 - m) * state.variance + m * variance * n / jnp.maximum(n - 1, 1),
    )
    return jax.tree.map(lambda new, old: new.astype(old.dtype), kept, state), y.astype(x.dtype)


@partial(jax.jit, static_argnames="eps")
def batch_norm_inference(
    params: BatchNormParams, state: BatchNormState, x: Float[Array, "... d"], eps: float = 1e-5
) -> Float[Array, "... d"]:
    r"""Batch normalisation in use: each column centred and scaled by the averages that training kept.

    $$ y_j = \frac{x_j - \bar\mu_j}{\sqrt{\bar\sigma^2_j + \epsilon}}\, \gamma_j + \beta_j $$

    Rows no longer depend on each other: this is a linear map, and the layer before can take it up into its weights.

    Args:
      params: γ (scale) and β (bias), `(d,)`.
      state: the running mean and variance, `(d,)`, of `batch_norm_training`.
      x: `(..., d)`.
      eps: ε, a Python number, as in training.
    Returns:
      y `(..., d)`, in x's dtype; computed in float32 or wider.

    Reference: `minilm.reference.batch_normalization.batch_norm_inference`. Paper: arXiv:1502.03167.

    >>> state = BatchNormState(mean=jnp.array([4.0]), variance=jnp.array([0.25]))
    >>> batch_norm_inference(init_batch_norm(1), state, jnp.array([[3.0], [5.0]])).round(2).tolist()
    [[-2.0], [2.0]]
    """
    centred = x.astype(_wide(x)) - state.mean
    return (centred * jax.lax.rsqrt(state.variance.astype(_wide(x)) + eps) * params.scale + params.bias).astype(x.dtype)


def _wide(x):
    return jnp.promote_types(x.dtype, jnp.float32)
