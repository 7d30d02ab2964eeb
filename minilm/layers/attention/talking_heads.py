"""Talking heads: before the softmax heads exchange what they look for, and after it what they found."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from minilm.layers.activation import softmax
from minilm.layers.attention.core import mix, scores


class TalkingHeadsParams(NamedTuple):
    """Two maps from all g · r heads (the first two axes) to all g · r heads (the last two)."""

    w_scores: Float[Array, "g r g r"]
    w_weights: Float[Array, "g r g r"]


def init_talking_heads(g: int, r: int, *, dtype=jnp.float32) -> TalkingHeadsParams:
    """Identities: the heads begin as if they did not talk."""
    identity = jnp.eye(g * r, dtype=dtype).reshape(g, r, g, r)
    return TalkingHeadsParams(w_scores=identity, w_weights=identity)


@jax.jit
def talking_heads_attention(
    params: TalkingHeadsParams,
    q: Float[Array, "g r t k"],
    k: Float[Array, "g s k"],
    v: Float[Array, "g s v"],
    mask: Bool[Array, "*#grts"] | bool = True,
    bias: Float[Array, "*#grts"] | float = 0.0,
) -> Float[Array, "g r t v"]:
    r"""Dot-product attention whose heads are mixed before the softmax and after it.

    $$ A^{h} = \sum_{j} P_{jh} \frac{Q^{j} {K^{j}}^\top}{\sqrt{k}}, \qquad
       W^{h} = \sum_{j} M_{jh} \operatorname{softmax}(A^{j} + B^{j}), \qquad O^{h} = W^{h} V^{h} $$

    The sums run over all heads, of whichever group. With P and M the identity it is `dot_product_attention`. The
    weights may be negative, and sum to anything: what is averaged no longer are the values alone. All heads' scores of
    a tile have to be at hand together, so no kernel that takes head by head can compute this.

    Mask and bias belong to the mixed heads, as in x-transformers: they come after the first mixture, and a key masked
    for a head stays so when another has seen it. (There the first mixture is added to the scores: its P is P − 1.)

    Args:
      params: P (w_scores) and M (w_weights), `(g, r, g, r)`, from the first two axes to the last two. The paper lets
        the number of heads differ between queries, softmax and values; here it is one.
      q, k, v: `(g, r, t, k)`, `(g, s, k)`, `(g, s, v)`, in one dtype.
      mask: True where a query may see a key; broadcasts to `(g, r, t, s)`.
      bias: added to the mixed scores; broadcasts likewise.
    Returns:
      `(g, r, t, v)`, in the dtype of v; 0 for a query whose keys are all masked.

    Reference: `minilm.reference.attention.talking_heads.talking_heads_attention`. Paper: arXiv:2003.02436.

    >>> q, k, v = jnp.zeros((2, 1, 1, 1)), jnp.zeros((2, 2, 1)), jnp.array([[[2.0], [4.0]], [[8.0], [8.0]]])
    >>> identity = init_talking_heads(2, 1)
    >>> only_the_first_is_heard = identity._replace(w_weights=jnp.array([[1.0, 1.0], [0.0, 0.0]]).reshape(2, 1, 2, 1))
    >>> masks = jnp.array([[True, True], [True, False]]).reshape(2, 1, 1, 2)
    >>> talking_heads_attention(identity, q, k, v, masks).ravel().tolist()
    [3.0, 8.0]
    >>> talking_heads_attention(only_the_first_is_heard, q, k, v, masks).ravel().tolist()
    [3.0, 4.0]
    """
    a = _talk(scores(q, k), params.w_scores) + bias
    w = _talk(softmax(a, where=mask), params.w_weights)
    return mix(jnp.where(mask, w, 0), v)


def _talk(x, w):
    return jnp.einsum("grts,grGR->GRts", x, w)
