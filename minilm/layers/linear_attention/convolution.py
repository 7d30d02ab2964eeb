"""The short convolution: each channel sees its last few values, before a recurrence reads them.

A recurrence writes a token's value under the token's own key. To recall what *followed* a word, key and value must come
from different tokens, and a convolution of width 2 already brings them together (H3, arXiv:2212.14052; Mamba,
arXiv:2312.00752; Based, arXiv:2402.18668).
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from minilm.initializers import normal


def init_short_convolution(key, width: int, d: int, *, dtype=jnp.float32) -> Float[Array, "width d"]:
    """Random weights N(0, 1/width): every channel begins as a mixture of its own.

    How it begins decides whether recall is learnt. Of multi-query recall (8 pairs in 64 tokens, width 3, 1000 steps), a
    fading state (Mamba-2's recurrence, one seed) answered 97% from this start and 15% from near the identity, with one
    convolution before q, k and v; with one on each of them 92% and 35%. Softmax attention learnt the task in all four
    runs from this start, and in three of four from near the identity, where the other stayed at 59%.
    """
    return normal(key, (width, d), fan_in=width, dtype=dtype)


def init_identity_short_convolution(width: int, d: int, *, dtype=jnp.float32) -> Float[Array, "width d"]:
    """w₀ = 1 and all else 0: the identity. `init_short_convolution` says what that costs."""
    return jnp.zeros((width, d), dtype).at[0].set(1)


@jax.jit
def short_convolution(
    w: Float[Array, "width d"], state: Float[Array, "width-1 d"], x: Float[Array, "t d"], real: Bool[Array, " t"]
):
    r"""A causal convolution of each channel with a few weights of its own, over the real tokens of one sequence.

    $$ y_t = \sum_{m=0}^{w-1} W_m \odot x_{t-m} $$

    where $x_{-1}, x_{-2}, \dots$ are what the state holds. Padding is skipped: $x_{t-1}$ is the last *real* token
    before $x_t$, however much padding stands between. So real tokens are brought to the front, convolved, and put back.

    Args:
      w: W `(width, d)`; W₀ meets the token itself.
      state: the last width − 1 real tokens before x, oldest first `(width − 1, d)`; zeros where there were none.
      x: `(t, d)`.
      real: False where x is padding, `(t,)`.
    Returns:
      `(state, y)`: the last width − 1 real tokens, in the dtype of the state; and y `(t, d)`, in x's dtype, 0 at
      padding. Sums are in float32 or wider.

    Reference: `minilm.reference.linear_attention.convolution.short_convolution`. Paper: arXiv:2212.14052 ("shift").

    >>> w, x, real = jnp.array([[1.0], [0.5]]), jnp.array([[2.0], [7.0], [4.0]]), jnp.array([True, False, True])
    >>> state, y = short_convolution(w, jnp.array([[6.0]]), x, real)
    >>> y.tolist(), state.tolist()
    ([[5.0], [0.0], [5.0]], [[4.0]])
    """
    (width, t), wide = (len(w), len(x)), jnp.promote_types(x.dtype, jnp.float32)
    front = jnp.argsort(~real, stable=True)
    seen = jnp.concatenate([state, x[front]]).astype(wide)
    y = sum((w[m] * seen[width - 1 - m :][:t] for m in range(width)), jnp.zeros((), wide))
    y = jnp.where(real[:, None], y[jnp.cumsum(real) - 1], 0)
    return jax.lax.dynamic_slice_in_dim(seen, real.sum(), width - 1).astype(state.dtype), y.astype(x.dtype)
