"""Soft-capped attention: no score, however large, goes beyond a cap, and below it scores are nearly what they were."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from minilm.layers.activation import softmax
from minilm.layers.attention.core import mix, scores


@jax.jit
def soft_capped_attention(
    cap: Float[Array, ""] | float,
    q: Float[Array, "g r t k"],
    k: Float[Array, "g s k"],
    v: Float[Array, "g s v"],
    mask: Bool[Array, "*#grts"] | bool = True,
    bias: Float[Array, "*#grts"] | float = 0.0,
) -> Float[Array, "g r t v"]:
    r"""Dot-product attention whose scores lie between −c and c.

    $$ A = c \tanh\!\left(\frac{Q K^\top}{c \sqrt{k}}\right), \qquad O = \operatorname{softmax}(A + B)\, V $$

    Two weights of a query differ at most by the factor $e^{2c}$, and the gradient of a score fades as it nears its cap.
    With c far beyond every score it is `dot_product_attention`.

    The bias comes after the cap, as Gemma 2 adds its mask and FlashAttention its ALiBi, so that a slope still reaches
    as far as it should; tokamax and x-transformers cap the sum. With PyTorch's flex_attention, the `score_mod` decides.

    Args:
      cap: c, a positive number; Gemma 2 has 50. (It caps its logits too, at 30.)
      q, k, v: `(g, r, t, k)`, `(g, s, k)`, `(g, s, v)`, in one dtype.
      mask: True where a query may see a key; broadcasts to `(g, r, t, s)`.
      bias: added to the capped scores; broadcasts likewise.
    Returns:
      `(g, r, t, v)`, in the dtype of v; 0 for a query whose keys are all masked.

    Reference: `minilm.reference.attention.soft_cap.soft_capped_attention`. Paper: arXiv:2408.00118.

    >>> q, k, v = jnp.array([[[[1e6]]]]), jnp.array([[[1.0], [-1.0]]]), jnp.array([[[8.0], [0.0]]])
    >>> round(soft_capped_attention(jnp.log(3) / 2, q, k, v).item(), 4)  # weights 3 : 1
    6.0
    """
    a = cap * jnp.tanh(scores(q, k) / cap)
    return mix(softmax(a + bias, where=mask), v)
