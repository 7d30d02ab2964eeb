r"""Feature maps φ, by which a weight $\varphi(q) \cdot \varphi(k)$ stands in for the exponential of a score.

A product of features can be summed before the query is known, so that attention needs a state of fixed size in place of
all keys. All are position-wise: any leading axes, features along the last.
"""

import math

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from minilm.initializers import orthogonal


def init_random_features(key, m: int, k: int, *, dtype=jnp.float32) -> Float[Array, "m k"]:
    """Directions for `random_features`: m rows, each N(0, I), and orthogonal to each other within every k of them.

    Orthogonal rows repeat less of what each other say than independent ones, which leaves the estimate its mean and
    lessens its variance. Their lengths are those of normal vectors, drawn apart from their directions.
    """
    direction_key, length_key = jax.random.split(key)
    blocks = [orthogonal(block_key, (k, k), dtype=dtype) for block_key in jax.random.split(direction_key, -(-m // k))]
    lengths = jnp.linalg.norm(jax.random.normal(length_key, (m, k), dtype), axis=-1, keepdims=True)
    return lengths * jnp.concatenate(blocks)[:m]


@jax.jit
def elu_plus_one(x: Float[Array, "..."]) -> Float[Array, "..."]:
    r"""The feature map of the first linear Transformer: positive, with a gradient everywhere.

    $$ \varphi(x) = \mathrm{elu}(x) + 1 = \begin{cases} x + 1 & x > 0 \\ e^x & x \le 0 \end{cases} $$

    It approximates no softmax; it is only kept from being negative, so that weights can be normalised. As elu(x) + 1 it
    would be 0 below x = −17 in float32, and a query of such entries would be divided by 0.

    Args:
      x: any shape.
    Returns:
      φ, in x's shape and dtype.

    Reference: `minilm.reference.linear_attention.feature_maps.elu_plus_one`. Paper: arXiv:2006.16236, equation 7.

    >>> elu_plus_one(jnp.array([-1.0, 0.0, 3.0])).round(3).tolist()
    [0.368, 1.0, 4.0]
    """
    # Where the exponential is not wanted it must not overflow either: its gradient would be NaN.
    return jnp.where(x > 0, x + 1, jnp.exp(jnp.where(x > 0, 0, x)))


@jax.jit
def taylor_features(x: Float[Array, "... k"]) -> Float[Array, "... k*k+k+1"]:
    r"""The exponential's Taylor series to its second term, as features: Based.

    $$ \varphi(x) = \Bigl[ 1,\; x',\; \tfrac{1}{\sqrt 2} \operatorname{vec}(x' x'^\top) \Bigr],
       \qquad x' = x / k^{1/4} $$
    $$ \varphi(q) \cdot \varphi(k) = 1 + s + \tfrac{s^2}{2}, \qquad s = \frac{q \cdot k}{\sqrt k} $$

    The weight is never less than a half, whatever the score, so the normaliser never vanishes. The state is large, of
    1 + k + k² rows, which is why Based takes k = 16.

    Args:
      x: queries or keys, `(..., k)`.
    Returns:
      φ `(..., 1 + k + k²)`, in x's dtype.

    Reference: `minilm.reference.linear_attention.feature_maps.taylor_features`. Paper: arXiv:2402.18668, section 3.1.

    >>> taylor_features(jnp.array([2.0])).round(3).tolist()
    [1.0, 2.0, 2.828]
    """
    x_ = _scaled(x)
    squares = (x_[..., :, None] * x_[..., None, :]).reshape(*x.shape[:-1], -1) / math.sqrt(2)
    return jnp.concatenate([jnp.ones_like(x_[..., :1]), x_, squares], axis=-1).astype(x.dtype)


@jax.jit
def random_features(projection: Float[Array, "m k"], x: Float[Array, "... k"]) -> Float[Array, "... m"]:
    r"""Positive random features, whose products are on average the exponential of the score: Performer's FAVOR+.

    $$ \varphi_j(x) = \frac{1}{\sqrt m} \exp\left( w_j \cdot x' - \tfrac{1}{2} \lVert x' \rVert^2 \right),
       \qquad x' = x / k^{1/4}, \qquad
       \mathbb{E}_w\, \varphi(q) \cdot \varphi(k) = e^{q \cdot k / \sqrt k} $$

    The exponent is $\tfrac12 \lVert w_j \rVert^2 - \tfrac12 \lVert w_j - x' \rVert^2$, so that no x takes it above
    $\tfrac12 \lVert w_j \rVert^2$, about k/2, and float32 holds $e^{88}$: enough for keys of width 128. But a row so
    long that $\tfrac12 \lVert x' \rVert^2$ is above 100 beyond that vanishes, and where all keys do, nothing is left
    to attend to: `exponential_attention` takes the exponents themselves.

    Args:
      projection: rows $w_j$ `(m, k)`, of `init_random_features`.
      x: queries or keys, `(..., k)`.
    Returns:
      φ `(..., m)`, in x's dtype; computed in float32 or wider.

    Reference: `minilm.reference.linear_attention.feature_maps.random_features`. Paper: arXiv:2009.14794, lemma 1.

    >>> [round(y, 3) for y in random_features(jnp.array([[0.0], [2.0]]), jnp.array([2.0])).tolist()]
    [0.096, 5.225]
    """
    wide = x.astype(jnp.promote_types(x.dtype, jnp.float32))
    return (jnp.exp(random_exponents(projection, wide)) / math.sqrt(projection.shape[0])).astype(x.dtype)


@jax.jit
def random_exponents(projection: Float[Array, "m k"], x: Float[Array, "... k"]) -> Float[Array, "... m"]:
    r"""The logarithms of `random_features`, but for the constant that all have in common.

    $$ \ell_j(x) = w_j \cdot x' - \tfrac{1}{2} \lVert x' \rVert^2, \qquad x' = x / k^{1/4} $$

    Args:
      projection, x: as `random_features`'s.
    Returns:
      ℓ `(..., m)`, in x's dtype; computed in float32 or wider.

    Reference: `minilm.reference.linear_attention.feature_maps.random_exponents`. Paper: arXiv:2009.14794, lemma 1.

    >>> random_exponents(jnp.array([[0.0], [2.0]]), jnp.array([2.0])).tolist()
    [-2.0, 2.0]
    """
    x_ = _scaled(x)
    return (x_ @ projection.T.astype(x_.dtype) - (x_**2).sum(-1, keepdims=True) / 2).astype(x.dtype)


def _scaled(x):
    """x over the fourth root of its width, in float32 or wider: a product of two is then a score."""
    return x.astype(jnp.promote_types(x.dtype, jnp.float32)) / x.shape[-1] ** 0.25
