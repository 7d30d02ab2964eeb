"""How weights begin: distributions whose variance keeps signals and gradients of unit size through a deep network.

With independent weights of mean zero, $\\mathrm{Var}(\\sum_i x_i w_i) = \\text{fan\\_in} \\cdot \\mathrm{Var}(w) \\cdot
\\mathrm{E}[x^2]$, and backwards the same with fan_out. Each rule below makes one of these products equal to one.
"""

import math

import jax
import jax.numpy as jnp

# The standard deviation of a standard normal variable that is cut at ±2.
_TRUNCATED_DEVIATION = 0.8796256610342398


def normal(key, shape, *, fan_in: int = 1, deviation: float | None = None, dtype=jnp.float32):
    r"""$N(0, 1/\text{fan\_in})$, LeCun's rule, under which $\sum_i x_i w_i$ has the variance of x.

    A `deviation` replaces the rule's $1/\sqrt{\text{fan\_in}}$; GPT-2 draws with 0.02.

    >>> w = normal(jax.random.key(0), (1000, 50), fan_in=1000)
    >>> round(float(w.std() * math.sqrt(1000)), 1)
    1.0
    """
    return _deviation(fan_in, deviation) * jax.random.normal(key, shape, dtype)


def truncated_normal(key, shape, *, fan_in: int = 1, deviation: float | None = None, dtype=jnp.float32):
    r"""A normal distribution without what exceeds two deviations, widened to variance $1/\text{fan\_in}$.

    BERT and T5 draw so. Their code states the deviation before the cut, which is 1/0.8796 times the one stated here.

    >>> w = truncated_normal(jax.random.key(0), (1000,), deviation=0.02)
    >>> bool(abs(w).max() < 2 * 0.02 / 0.8796)
    True
    """
    widening = _deviation(fan_in, deviation) / _TRUNCATED_DEVIATION
    return widening * jax.random.truncated_normal(key, -2.0, 2.0, shape, dtype)


def uniform(key, shape, *, fan_in: int = 1, deviation: float | None = None, dtype=jnp.float32):
    r"""$U(-\sqrt{3/\text{fan\_in}}, \sqrt{3/\text{fan\_in}})$, whose variance is $1/\text{fan\_in}$.

    PyTorch's linear layers take the bound $1/\sqrt{\text{fan\_in}}$ instead, a third of this variance.

    >>> bool(abs(uniform(jax.random.key(0), (50,), fan_in=3)).max() <= 1.0)
    True
    """
    bound = math.sqrt(3) * _deviation(fan_in, deviation)
    return jax.random.uniform(key, shape, dtype, -bound, bound)


def glorot_normal(key, shape, *, fan_in: int, fan_out: int, dtype=jnp.float32):
    r"""$N(0, 2/(\text{fan\_in} + \text{fan\_out}))$: between what keeps signals and what keeps gradients.

    Glorot and Bengio, AISTATS 2010; "Xavier" in PyTorch.

    >>> glorot_normal(jax.random.key(0), (3, 5), fan_in=3, fan_out=5).shape
    (3, 5)
    """
    return normal(key, shape, deviation=math.sqrt(2 / (fan_in + fan_out)), dtype=dtype)


def glorot_uniform(key, shape, *, fan_in: int, fan_out: int, dtype=jnp.float32):
    r"""$U(\pm\sqrt{6/(\text{fan\_in} + \text{fan\_out})})$: the variance of `glorot_normal`, bounded.

    >>> bool(abs(glorot_uniform(jax.random.key(0), (2, 4), fan_in=2, fan_out=4)).max() <= 1.0)
    True
    """
    return uniform(key, shape, deviation=math.sqrt(2 / (fan_in + fan_out)), dtype=dtype)


def he_normal(key, shape, *, fan_in: int, dtype=jnp.float32):
    r"""$N(0, 2/\text{fan\_in})$: twice LeCun's variance, for inputs of which a ReLU has zeroed one half.

    He et al., arXiv:1502.01852; "Kaiming" in PyTorch.

    >>> he_normal(jax.random.key(0), (3, 5), fan_in=3).shape
    (3, 5)
    """
    return normal(key, shape, deviation=math.sqrt(2 / fan_in), dtype=dtype)


def he_uniform(key, shape, *, fan_in: int, dtype=jnp.float32):
    r"""$U(\pm\sqrt{6/\text{fan\_in}})$: the variance of `he_normal`, bounded.

    >>> bool(abs(he_uniform(jax.random.key(0), (50,), fan_in=6)).max() <= 1.0)
    True
    """
    return uniform(key, shape, deviation=math.sqrt(2 / fan_in), dtype=dtype)


def orthogonal(key, shape, *, dtype=jnp.float32):
    r"""A matrix drawn uniformly from those with orthonormal rows, or columns if there are fewer of them.

    $$ A_{ij} \sim N(0, 1), \qquad A = QR, \qquad W = Q\, \mathrm{diag}(\mathrm{sign}\, R_{jj}) $$

    A square W keeps every vector's norm, so an unrolled recurrence neither explodes nor vanishes (Saxe et al.,
    arXiv:1312.6120). Without the signs Q would follow the decomposition's convention and not be uniform (Mezzadri,
    arXiv:math-ph/0609050).

    Args:
      key: a JAX random key.
      shape: of the matrix, two sizes.

    >>> w = orthogonal(jax.random.key(0), (2, 3))
    >>> jnp.round(w @ w.T, 3).tolist()
    [[1.0, 0.0], [0.0, 1.0]]
    """
    rows, columns = shape
    a = jax.random.normal(key, (max(shape), min(shape)), jnp.promote_types(dtype, jnp.float32))
    q, r = jnp.linalg.qr(a)
    w = q * jnp.sign(jnp.diagonal(r))
    return (w if rows >= columns else w.T).astype(dtype)


def _deviation(fan_in, deviation):
    return 1 / math.sqrt(fan_in) if deviation is None else deviation
