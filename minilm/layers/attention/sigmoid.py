"""Sigmoid attention: every key is weighed by itself, and no key's weight is taken from another's."""

import math

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from minilm.layers import activation
from minilm.layers.attention.core import mix, scores


def init_shift(g: int, r: int, length: int, *, dtype=jnp.float32) -> Float[Array, "g r"]:
    """−ln(length) for every head: `length` keys of score 0 then weigh about one in all, as under a softmax."""
    return jnp.full((g, r), -math.log(length), dtype)


@jax.jit
def sigmoid_attention(
    shift: Float[Array, "*#gr"] | float,
    q: Float[Array, "g r t k"],
    k: Float[Array, "g s k"],
    v: Float[Array, "g s v"],
    mask: Bool[Array, "*#grts"] | bool = True,
    bias: Float[Array, "*#grts"] | float = 0.0,
) -> Float[Array, "g r t v"]:
    r"""Attention whose weights are sigmoids of their own scores, instead of a softmax of all.

    $$ w_{ts} = \sigma(a_{ts} + b), \qquad a_t = \frac{q_t K^\top}{\sqrt{k}} + B_t, \qquad o_t = \sum_s w_{ts}\, v_s $$

    No row has to be read to its end before its first weight is known. But what the weights sum to now grows with the
    number of keys, and b has to hold it down: the paper takes −ln n, with n the length of the sequence. (An earlier
    one, arXiv:2309.08586, divides instead, $w = \sigma(a) / n$: then no key can weigh more than 1/n.)

    For a very negative b, $\sigma(a + b)$ is $e^{a + b}$: a softmax without its denominator, times $e^b$.

    Args:
      shift: b, one number for all heads or one for each, `(g, r)`.
      q, k, v: `(g, r, t, k)`, `(g, s, k)`, `(g, s, v)`, in one dtype.
      mask: True where a query may see a key; broadcasts to `(g, r, t, s)`. A masked key weighs 0.
      bias: added to the scores; broadcasts likewise.
    Returns:
      `(g, r, t, v)`, in the dtype of v; 0 for a query whose keys are all masked.

    Reference: `minilm.reference.attention.sigmoid.sigmoid_attention`. Paper: arXiv:2409.04431.

    >>> q, k, v = jnp.zeros((1, 1, 1, 2)), jnp.zeros((1, 3, 2)), jnp.array([[[1.0], [3.0], [8.0]]])
    >>> sigmoid_attention(0.0, q, k, v).item(), round(sigmoid_attention(-jnp.log(3), q, k, v).item(), 4)
    (6.0, 3.0)
    """
    a = scores(q, k) + bias + jnp.asarray(shift)[..., None, None]
    return mix(jnp.where(mask, activation.sigmoid(a), 0), v)
