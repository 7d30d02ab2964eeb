"""A `Mixer` from a recurrence: what `multi_head` is to softmax attention, for whatever carries a state along."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from minilm.layers.linear import matmul
from minilm.shapes import Mixer, Tokens


class ShiftState(NamedTuple):
    """The last token that was read, and the state of the mixer that reads it beside the next."""

    x: Float[Array, " d"]
    inner: Any


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
        def run(inputs, tokens):
            return recur(params, empty(params, 0, x.dtype), inputs, tokens)[1]

        return merge(params, x, _each_sequence(run, x.ndim - 2, project(params, x), tokens))

    def step(params, state, x, tokens):
        state, o = recur(params, state, project(params, x), tokens)
        return state, merge(params, x, o)

    return Mixer(init=init, apply=apply, init_state=empty, step=step)


def token_shift_mixer(inner: Mixer, width: Callable) -> Mixer:
    """RWKV's token shift: a mixer of the pairs `[x_t, x_{t-1}]` as one of x, which remembers the token before.

    Args:
      inner: a mixer whose `init` is told d, while its `apply` and `step` take x of width 2 d to y of width d.
      width: `width(params)` is d.
    Returns:
      a `Mixer` of width d, whose state is a `ShiftState`. Before the first token there are zeros; padding is the token
      before of none.
    """

    def init_state(params, size, dtype=None):
        like = jax.tree.leaves(params) if dtype is None else [dtype]
        last = jnp.zeros(width(params), jnp.result_type(jnp.float32, *like))
        return ShiftState(last, inner.init_state(params, size, dtype))

    def apply(params, x, tokens):
        def run(x, tokens):
            return _pairs(jnp.zeros_like(x[0]), x, tokens)[1]

        return inner.apply(params, _each_sequence(run, x.ndim - 2, x, tokens), tokens)

    def step(params, state, x, tokens):
        last, pairs = _pairs(state.x, x, tokens)
        after, y = inner.step(params, state.inner, pairs, tokens)
        return ShiftState(last, after), y

    return Mixer(init=inner.init, apply=apply, init_state=init_state, step=step)


def _each_sequence(function, axes: int, inputs, tokens: Tokens):
    """A function of one sequence and where it stands, mapped over leading axes, which tokens may lack."""
    for _ in range(axes):
        function = jax.vmap(function, in_axes=(0, jax.tree.map(lambda leaf: 0 if leaf.ndim > 1 else None, tokens)))
    return function(inputs, tokens)


def _pairs(last, x, tokens: Tokens):
    """Beside each row of x the real one before it, `last` before the first: (the last real row, pairs `(t, 2 d)`)."""
    rows = jnp.concatenate([last[None].astype(x.dtype), x])
    read = jnp.where(tokens.position >= 0, jnp.arange(1, len(rows)), 0)
    latest = jax.lax.cummax(jnp.concatenate([jnp.zeros_like(read[:1]), read]))
    return rows[latest[-1]].astype(last.dtype), jnp.concatenate([x, rows[latest[:-1]]], axis=-1)
