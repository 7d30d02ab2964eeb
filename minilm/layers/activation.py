"""The non-linear functions: elementwise ones, and the three that look at a whole row (softmax and its logarithms)."""

import math

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float


def relu(x: Float[Array, "..."]) -> Float[Array, "..."]:
    r"""The rectified linear unit.

    $$ y = \max(x, 0) $$

    Its gradient at 0 is taken as 0. A NaN stays one, so that a broken activation is seen in the loss.

    Args:
      x: any shape.
    Returns:
      y, in x's shape and dtype.

    Reference: `minilm.reference.activation.relu`. Paper: Nair and Hinton, ICML 2010.

    >>> relu(jnp.array([-2.0, 0.0, 3.0])).tolist()
    [0.0, 0.0, 3.0]
    """
    return jnp.where(x <= 0, 0, x)


def squared_relu(x: Float[Array, "..."]) -> Float[Array, "..."]:
    r"""The square of the rectified linear unit, as in Primer.

    $$ y = \max(x, 0)^2 $$

    Args:
      x: any shape.
    Returns:
      y, in x's shape and dtype.

    Reference: `minilm.reference.activation.squared_relu`. Paper: arXiv:2109.08668.

    >>> squared_relu(jnp.array([-2.0, 3.0])).tolist()
    [0.0, 9.0]
    """
    return relu(x) ** 2


def gelu(x: Float[Array, "..."]) -> Float[Array, "..."]:
    r"""The Gaussian error linear unit: x, times the chance that a standard normal variable lies below x.

    $$ y = x\, \Phi(x) = \tfrac{x}{2}\, \mathrm{erfc}\!\left(-\tfrac{x}{\sqrt 2}\right) $$

    BERT uses this exact form. The complement erfc keeps the digits that 1 + erf loses at large negative x.

    Args:
      x: any shape.
    Returns:
      y, in x's shape and dtype.

    Reference: `minilm.reference.activation.gelu`. Paper: arXiv:1606.08415.

    >>> [round(y, 4) for y in gelu(jnp.array([-1.0, 0.0, 1.0])).tolist()]
    [-0.1587, 0.0, 0.8413]
    """
    return x / 2 * jax.lax.erfc(-x / math.sqrt(2))


def gelu_tanh(x: Float[Array, "..."]) -> Float[Array, "..."]:
    r"""The tanh approximation of the Gaussian error linear unit, off by at most 5e-4.

    $$ y = \tfrac{x}{2} \left(1 + \tanh u\right) = x\, \sigma(2u), \qquad u = \sqrt{2/\pi}\,(x + 0.044715\, x^3) $$

    GPT-2, Gemma and T5 1.1 use it; `jax.nn.gelu` computes it by default. The right-hand form keeps the digits that
    1 + tanh loses at large negative x. In float16 the gradient is NaN from |x| = 148 on, where 3 x² is beyond it.

    Args:
      x: any shape.
    Returns:
      y, in x's shape and dtype.

    Reference: `minilm.reference.activation.gelu_tanh`. Paper: arXiv:1606.08415.

    >>> [round(y, 4) for y in gelu_tanh(jnp.array([-1.0, 0.0, 1.0])).tolist()]
    [-0.1588, 0.0, 0.8412]
    """
    u = math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)
    return x * sigmoid(2 * u)


def silu(x: Float[Array, "..."]) -> Float[Array, "..."]:
    r"""The sigmoid linear unit, also called Swish.

    $$ y = x\, \sigma(x) $$

    Args:
      x: any shape.
    Returns:
      y, in x's shape and dtype.

    Reference: `minilm.reference.activation.silu`. Papers: arXiv:1606.08415, arXiv:1710.05941.

    >>> [round(y, 4) for y in silu(jnp.array([-1.0, 0.0])).tolist()]
    [-0.2689, 0.0]
    """
    return x * sigmoid(x)


def sigmoid(x: Float[Array, "..."]) -> Float[Array, "..."]:
    r"""The logistic function.

    $$ y = \sigma(x) = \frac{1}{1 + e^{-x}} $$

    Args:
      x: any shape.
    Returns:
      y between 0 and 1, in x's shape and dtype.

    Reference: `minilm.reference.activation.sigmoid`.

    >>> sigmoid(jnp.array([-1e4, 0.0, 1e4])).tolist()
    [0.0, 0.5, 1.0]
    """
    # XLA's own primitive: differentiating the formula as written divides infinity by infinity at x = -100.
    return jax.lax.logistic(x)


def tanh(x: Float[Array, "..."]) -> Float[Array, "..."]:
    r"""The hyperbolic tangent, a logistic function stretched to (−1, 1).

    $$ y = \tanh x = 2\sigma(2x) - 1 $$

    Args:
      x: any shape.
    Returns:
      y between −1 and 1, in x's shape and dtype.

    Reference: `minilm.reference.activation.tanh`.

    >>> tanh(jnp.array([0.0, 1e4])).tolist()
    [0.0, 1.0]
    """
    return jnp.tanh(x)


@jax.jit
def softmax(x: Float[Array, "... n"], where: Bool[Array, "..."] | bool = True) -> Float[Array, "... n"]:
    r"""Weights along the last axis that are positive, add up to one, and grow with x.

    $$ y_j = \frac{e^{x_j - m}}{\sum_{i \in \text{where}} e^{x_i - m}} \quad (j \in \text{where}), \qquad
       y_j = 0 \quad (j \notin \text{where}), \qquad m = \max_{i \in \text{where}} x_i $$

    The shift by m changes nothing and keeps the exponentials from overflowing. A row in which nothing is left, all of
    it masked or −∞, gives zeros with a gradient of zero, where the bare formula would give NaN. What stands at a masked
    place, be it NaN, is never looked at.

    Args:
      x: `(..., n)`.
      where: which entries take part, broadcast against x.
    Returns:
      y `(..., n)`, in x's dtype; computed in float32 or wider.

    Reference: `minilm.reference.activation.softmax`.

    >>> x = jnp.array([[0.0, 0.0, 5.0], [1.0, 2.0, 3.0]])
    >>> softmax(x, where=jnp.array([[True, True, False], [False, False, False]])).tolist()
    [[0.5, 0.5, 0.0], [0.0, 0.0, 0.0]]
    """
    return _softmax(x.astype(_wide(x)), where).astype(x.dtype)


@jax.jit
def log_softmax(x: Float[Array, "... n"]) -> Float[Array, "... n"]:
    r"""The logarithm of the softmax, exact where the softmax itself is too small for a number.

    $$ y_j = (x_j - m) - \log \sum_i e^{x_i - m}, \qquad m = \max_i x_i $$

    Args:
      x: `(..., n)`.
    Returns:
      y `(..., n)`, in x's dtype; computed in float32 or wider.

    Reference: `minilm.reference.activation.log_softmax`.

    >>> log_softmax(jnp.array([0.0, -1e4])).tolist()
    [0.0, -10000.0]
    """
    shifted = x.astype(_wide(x))
    shifted -= jax.lax.stop_gradient(shifted.max(-1, keepdims=True))
    return (shifted - jnp.log(jnp.exp(shifted).sum(-1, keepdims=True))).astype(x.dtype)


@jax.jit
def logsumexp(x: Float[Array, "... n"]) -> Float[Array, "..."]:
    r"""A smooth maximum of the last axis, and the logarithm of the softmax's denominator.

    $$ y = m + \log \sum_i e^{x_i - m}, \qquad m = \max_i x_i $$

    A row of −∞ alone gives −∞, the logarithm of an empty sum, with a gradient of zero.

    Args:
      x: `(..., n)`.
    Returns:
      y `(...)`, in x's dtype; computed in float32 or wider.

    Reference: `minilm.reference.activation.logsumexp`.

    >>> round(logsumexp(jnp.array([1e4, 1e4])).item(), 2)
    10000.69
    """
    return _logsumexp(x.astype(_wide(x))).astype(x.dtype)


@jax.custom_jvp
def _softmax(x, where):
    x = jnp.where(where, x, -jnp.inf)
    e = jnp.exp(x - _finite_max(x))
    total = e.sum(-1, keepdims=True)
    return e / jnp.where(total == 0, 1, total)


@_softmax.defjvp
def _softmax_jvp(primals, tangents):
    y = _softmax(*primals)
    d_x, _ = tangents
    return y, y * (d_x - (y * d_x).sum(-1, keepdims=True))


@jax.custom_jvp
def _logsumexp(x):
    # The second derivative of a loop forgets the rule below and comes through here, where log 0 would be NaN to it.
    m = _finite_max(x)
    total = jnp.exp(x - m).sum(-1)
    return jnp.where(total == 0, -jnp.inf, m[..., 0] + jnp.log(jnp.where(total == 0, 1, total)))


@_logsumexp.defjvp
def _logsumexp_jvp(primals, tangents):
    (x,), (d_x,) = primals, tangents
    return _logsumexp(x), (_softmax(x, True) * d_x).sum(-1)


def _finite_max(x):
    """The maximum of each row, or 0 where a row holds −∞ alone: −∞ − (−∞) would be NaN."""
    m = x.max(-1, keepdims=True)
    return jnp.where(m == -jnp.inf, 0, m)


def _wide(x):
    return jnp.promote_types(x.dtype, jnp.float32)
