"""Attention with a sink: a query that finds nothing of interest need not attend to anything."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from minilm.layers.activation import softmax
from minilm.layers.attention.core import mix, scores


def init_sink(g: int, r: int, *, dtype=jnp.float32) -> Float[Array, "g r"]:
    """A sink of score 0 for every head: the softmax begins with 1 added to its denominator."""
    return jnp.zeros((g, r), dtype)


@jax.jit
def sink_attention(
    sink: Float[Array, "g r"],
    q: Float[Array, "g r t k"],
    k: Float[Array, "g s k"],
    v: Float[Array, "g s v"],
    mask: Bool[Array, "*#grts"] | bool = True,
    bias: Float[Array, "*#grts"] | float = 0.0,
) -> Float[Array, "g r t v"]:
    r"""Dot-product attention with one more key for every head, of a learned score b and of the value 0.

    $$ w_{ts} = \frac{e^{a_{ts}}}{e^{b} + \sum_{u} e^{a_{tu}}}, \qquad a_t = \frac{q_t K^\top}{\sqrt{k}} + B_t,
       \qquad o_t = \sum_s w_{ts}\, v_s $$

    A softmax must give all of its weight away; heads that have nothing to say learn to leave it on the first token.
    Here they leave it on the sink, and the weights sum to less than one. It is `dot_product_attention` times a gate,
    $\sigma(\ln \sum_u e^{a_{tu}} - b)$; with b = −∞ the gate is open, and with b = 0 it is the "softmax plus one".

    Args:
      sink: b `(g, r)`, a score, compared with the scores as they enter the softmax.
      q, k, v: `(g, r, t, k)`, `(g, s, k)`, `(g, s, v)`, in one dtype.
      mask: True where a query may see a key; broadcasts to `(g, r, t, s)`. No mask hides the sink.
      bias: added to the scores of keys; broadcasts likewise.
    Returns:
      `(g, r, t, v)`, in the dtype of v; 0 for a query whose keys are all masked.

    Reference: `minilm.reference.attention.sinks.sink_attention`. Paper: arXiv:2508.10925. (The sinks of
    arXiv:2309.17453 are the first tokens themselves, kept in the cache: a rule of masks, nothing learned.)

    >>> q, k, v = jnp.zeros((1, 1, 1, 2)), jnp.zeros((1, 3, 2)), jnp.array([[[1.0], [3.0], [8.0]]])
    >>> sink_attention(jnp.zeros((1, 1)), q, k, v).item(), sink_attention(jnp.full((1, 1), -jnp.inf), q, k, v).item()
    (3.0, 4.0)
    """
    a = jnp.where(mask, scores(q, k) + bias, -jnp.inf)
    b = jnp.broadcast_to(sink[:, :, None, None], (*a.shape[:3], 1))
    return mix(softmax(jnp.concatenate([a, b], -1))[..., :-1], v)
