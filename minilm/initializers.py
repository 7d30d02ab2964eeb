"""How weights begin: distributions whose variance keeps signals and gradients of unit size through a deep network."""

import math

import jax
import jax.numpy as jnp


def normal(key, shape, *, fan_in: int = 1, dtype=jnp.float32):
    r"""N(0, 1/fan_in): LeCun's rule, under which $\sum_{i=1}^{fan\_in} w_i x_i$ has the variance of x.

    >>> w = normal(jax.random.key(0), (1000, 50), fan_in=1000)
    >>> round(float(w.std() * math.sqrt(1000)), 1)
    1.0
    """
    return jax.random.normal(key, shape, dtype) / math.sqrt(fan_in)
