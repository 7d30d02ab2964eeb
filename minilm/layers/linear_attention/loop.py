"""The loop over tokens, and the contract of every recurrence in this folder.

A recurrence stands in three forms that are proven equal. All are of one sequence, heads first: q and k `(g, t, k)`, v
`(g, t, v)`, the state `(g, k, v)`. None scales its queries; whoever calls them does, in sight.

    X_step(state, q, k, v, ...)     -> (state, o)   one token: the equation itself, and what decoding costs
    X_parallel(q, k, v, ...)        -> o            every pair of tokens at once, from an empty state: O(t²)
    X_chunked(state, q, k, v, ...)  -> (state, o)   pairs inside a chunk, the state between chunks: O(t · chunk)

Gates come as logarithms, so that their products are sums; −∞ forgets everything.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp


def loop(step: Callable, state, *inputs):
    r"""The recurrence as it is written, one token after another.

    $$ (S_t, o_t) = \text{step}(S_{t-1}, q_t, k_t, v_t, \dots) $$

    Args:
      step: one token of one sequence, such as `decay_step`.
      state: $S_0$.
      inputs: what the step takes after the state, each with its time on the second axis, `(g, t, ...)`.
    Returns:
      `(state, o)`: the last state, and the outputs `(g, t, v)`.

    Reference: `minilm.reference.linear_attention.loop.loop`.

    >>> def running_sum(state, x):
    ...     return state + x, state + x
    >>> state, sums = loop(running_sum, jnp.zeros(1), jnp.array([[1.0, 2.0, 3.0]]))
    >>> state.tolist(), sums.tolist()
    ([6.0], [[1.0, 3.0, 6.0]])
    """
    over_time = [jnp.moveaxis(x, 1, 0) for x in inputs]
    state, o = jax.lax.scan(lambda state, x: step(state, *x), state, over_time)
    return state, jnp.moveaxis(o, 0, 1)
