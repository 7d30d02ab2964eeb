"""Dropout: a model trained with random entries missing cannot lean on any one of them."""

from functools import partial

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float


@partial(jax.jit, static_argnames="rate")
def dropout(x: Float[Array, "..."], rate: float, key=None) -> Float[Array, "..."]:
    r"""Entries set to zero at random, and the others enlarged so that the mean stays.

    $$ y = \frac{m \odot x}{1 - \text{rate}}, \qquad m_j \sim \mathrm{Bernoulli}(1 - \text{rate}) $$

    Without a key, or at rate 0, y is x. Which entries are kept depends on the key, the rate and the shape, and on
    nothing else. The enlargement happens in training (*inverted* dropout), so nothing is left to do afterwards.

    Args:
      x: any shape.
      rate: how often an entry is dropped, a Python number in [0, 1).
      key: a JAX random key, or None to drop nothing.
    Returns:
      y, in x's shape and dtype.
    Raises:
      ValueError: where the rate is not in [0, 1).

    Reference: `minilm.reference.dropout.dropout`. Paper: Srivastava et al., JMLR 2014.

    >>> dropout(jnp.ones(6), 0.5, jax.random.key(0)).tolist()
    [0.0, 0.0, 2.0, 2.0, 0.0, 2.0]
    >>> dropout(jnp.ones(2), 0.5).tolist()
    [1.0, 1.0]
    """
    if not 0 <= rate < 1:
        raise ValueError(f"A dropout rate in [0, 1) was expected, but it is {rate}; at 1 nothing would be left.")
    if key is None or rate == 0:
        return x
    # A float32 probability draws the same numbers whether or not JAX has its float64 switched on.
    keep = jax.random.bernoulli(key, jnp.float32(1 - rate), x.shape)
    return jnp.where(keep, x / (1 - rate), 0)
