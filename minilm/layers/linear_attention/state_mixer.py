"""A `Mixer` from a recurrence: what `multi_head` is to softmax attention, for whatever carries a state along."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from minilm.layers.linear import matmul
from minilm.shapes import Mixer


@jax.jit
def split_heads(w: Float[Array, "d g k"], x: Float[Array, "... t d"]) -> Float[Array, "... g t k"]:
    r"""What each head sees of x, through a matrix of its own.

    $$ y_{gt} = x_t W^g $$

    Args:
      w: W `(d, g, k)`.
      x: `(..., t, d)`.
    Returns:
      y `(..., g, t, k)`, heads first, in x's dtype.

    Reference: `minilm.reference.linear_attention.state_mixer.split_heads`.

    >>> split_heads(jnp.array([[[2.0], [3.0]]]), jnp.array([[1.0], [10.0]])).tolist()
    [[[2.0], [20.0]], [[3.0], [30.0]]]
    """
    y = matmul(x, w.reshape(w.shape[0], -1))
    return jnp.swapaxes(y.reshape(*x.shape[:-1], *w.shape[1:]), -3, -2)


@jax.jit
def merge_heads(w: Float[Array, "g v d"], o: Float[Array, "... g t v"]) -> Float[Array, "... t d"]:
    r"""The heads' outputs, each through its own matrix, added up.

    $$ y_t = \sum_g o_{gt} W^g $$

    Args:
      w: W `(g, v, d)`.
      o: `(..., g, t, v)`.
    Returns:
      y `(..., t, d)`, in o's dtype.

    Reference: `minilm.reference.linear_attention.state_mixer.merge_heads`.

    >>> merge_heads(jnp.array([[[2.0]], [[3.0]]]), jnp.array([[[1.0]], [[10.0]]])).tolist()
    [[32.0]]
    """
    o = jnp.swapaxes(o, -3, -2)
    return matmul(o.reshape(*o.shape[:-2], -1), w.reshape(-1, w.shape[-1]))


def state_mixer(init: Callable, project: Callable, recur: Callable, merge: Callable, init_state: Callable) -> Mixer:
    """Project, recur, merge: a mixer whose state has one size, however long the sequence.

    Projecting and merging treat every position alone, so they take all leading axes at once; `recur` is written for one
    sequence and mapped over them, from the empty state. A step is the same three lines, from the state it is given.

    Padding, at position −1, may stand anywhere and must leave the state as it was: `recur` alone knows the tokens and
    sees to it, writing nothing there (k = 0) and forgetting nothing (log_decay = 0).

    Args:
      init: `init(key, d_model) -> params`.
      project: `project(params, x) -> inputs`, any pytree of arrays whose first axes are the leading axes `...` of x
        `(..., t, d)`: queries `(..., g, t, k)`, say.
      recur: `recur(params, state, inputs, tokens) -> (state, o)`, of one sequence; tokens are `(t,)`. The state comes
        back in the dtypes in which it went in.
      merge: `merge(params, x, o) -> y`, with x and y `(..., t, d)` and o as `recur` gave it, behind the leading axes.
      init_state: `init_state(params, size, dtype) -> state`, the empty state of one sequence, in float32 or wider. No
        state here has room for a number of positions, so the size is of no account.
    Returns:
      a `Mixer`. Its states are in float32 or wider, whatever dtype is asked for: they are sums over the whole past.
    """

    def empty(params, size, dtype=None):
        like = jax.tree.leaves(params) if dtype is None else [dtype]
        return init_state(params, size, jnp.result_type(jnp.float32, *like))

    def apply(params, x, tokens):
        def run(inputs, tokens) -> Any:
            return recur(params, empty(params, 0, x.dtype), inputs, tokens)[1]

        for _ in x.shape[:-2]:
            run = jax.vmap(run, in_axes=(0, jax.tree.map(lambda leaf: 0 if leaf.ndim > 1 else None, tokens)))
        return merge(params, x, run(project(params, x), tokens))

    def step(params, state, x, tokens):
        state, o = recur(params, state, project(params, x), tokens)
        return state, merge(params, x, o)

    return Mixer(init=init, apply=apply, init_state=empty, step=step)
