"""A `Mixer` from a recurrence: what `multi_head` is to softmax attention, for whatever carries a state along."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from minilm.shapes import Mixer


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
