"""Long short-term memory, one step, without and with peepholes."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from minilm.initializers import normal


class LSTMParams(NamedTuple):
    """Columns packed gate by gate: input, forget, candidate, output (i, f, g, o in the papers)."""

    w_x: Float[Array, "i 4*h"]
    w_h: Float[Array, "h 4*h"]
    b_x: Float[Array, " 4*h"]
    b_h: Float[Array, " 4*h"]


class LSTMPeepholeParams(NamedTuple):
    """As `LSTMParams`, and the diagonals through which the input, forget and output gates see their own cell."""

    w_x: Float[Array, "i 4*h"]
    w_h: Float[Array, "h 4*h"]
    w_c: Float[Array, " 3*h"]
    b_x: Float[Array, " 4*h"]
    b_h: Float[Array, " 4*h"]


class LSTMState(NamedTuple):
    """What a step hands to the next: the output h and the cell c."""

    h: Float[Array, "*batch h"]
    c: Float[Array, "*batch h"]


def init_lstm(key, i: int, h: int, *, dtype=jnp.float32) -> LSTMParams:
    """Weights N(0, 1/i) from the input and N(0, 1/h) from the state; biases zero but the forget gate's, which is 1.

    A gate that starts nearly open lets the gradient through from the first step (Jozefowicz et al. 2015).
    """
    x_key, h_key = jax.random.split(key)
    return LSTMParams(
        w_x=normal(x_key, (i, 4 * h), fan_in=i, dtype=dtype),
        w_h=normal(h_key, (h, 4 * h), fan_in=h, dtype=dtype),
        b_x=jnp.zeros(4 * h, dtype).at[h : 2 * h].set(1),
        b_h=jnp.zeros(4 * h, dtype),
    )


def init_lstm_peephole(key, i: int, h: int, *, dtype=jnp.float32) -> LSTMPeepholeParams:
    """As `init_lstm`, with the peepholes closed: it starts as the LSTM without them."""
    params = init_lstm(key, i, h, dtype=dtype)
    return LSTMPeepholeParams(params.w_x, params.w_h, jnp.zeros(3 * h, dtype), params.b_x, params.b_h)


@jax.jit
def lstm_cell(params: LSTMParams, state: LSTMState, x: Float[Array, " i"]):
    r"""One step of long short-term memory: a cell that is added to, so that its gradient survives.

    $$ (a^i, a^f, a^g, a^o) = x W_x + b_x + h W_h + b_h $$
    $$ i = \sigma(a^i), \qquad f = \sigma(a^f), \qquad g = \tanh(a^g), \qquad o = \sigma(a^o) $$
    $$ c' = f \odot c + i \odot g, \qquad h' = o \odot \tanh(c') $$

    With f = 1 and i = 0 the cell is kept exactly, however long. The forget gate came three years after the cell
    (Gers et al. 2000); PyTorch, cuDNN and Flax compute this one.

    Args:
      params: gates packed as (i, f, g, o).
      state: h and c before the step, `(h,)` each.
      x: input, `(i,)`.
    Returns:
      `(state, y)`: h' and c', and the output h'.

    Reference: `minilm.reference.recurrent.lstm.lstm_cell`. Papers: Hochreiter and Schmidhuber (1997); Gers,
    Schmidhuber and Cummins, "Learning to forget" (2000); arXiv:1409.2329.

    >>> half_open = LSTMParams(w_x=jnp.zeros((2, 4)), w_h=jnp.zeros((1, 4)), b_x=jnp.zeros(4), b_h=jnp.zeros(4))
    >>> state, y = lstm_cell(half_open, LSTMState(h=jnp.array([9.0]), c=jnp.array([0.5])), jnp.array([1.0, 2.0]))
    >>> state.c.tolist()
    [0.25]
    """
    h, c = state.h, state.c
    a_i, a_f, a_g, a_o = jnp.split(x @ params.w_x + params.b_x + h @ params.w_h + params.b_h, 4)
    i = jax.nn.sigmoid(a_i)
    f = jax.nn.sigmoid(a_f)
    g = jnp.tanh(a_g)
    o = jax.nn.sigmoid(a_o)
    c = f * c + i * g
    h = o * jnp.tanh(c)
    return LSTMState(h, c), h


@jax.jit
def lstm_cell_peephole(params: LSTMPeepholeParams, state: LSTMState, x: Float[Array, " i"]):
    r"""One step of long short-term memory whose gates see their own cell, also while the output gate is shut.

    $$ (a^i, a^f, a^g, a^o) = x W_x + b_x + h W_h + b_h $$
    $$ i = \sigma(a^i + w^i_c \odot c), \qquad f = \sigma(a^f + w^f_c \odot c), \qquad g = \tanh(a^g) $$
    $$ c' = f \odot c + i \odot g, \qquad o = \sigma(a^o + w^o_c \odot c'), \qquad h' = o \odot \tanh(c') $$

    Two conventions, both of the paper: a peephole is a diagonal, so that each gate sees its own cell alone (some
    libraries learn a full matrix); and the input and forget gates see the cell before the step, the output gate the
    cell after it (a gate that saw the old c would decide on a cell that is no longer there). With $w_c = 0$ this is
    `lstm_cell`.

    Args:
      params: gates packed as (i, f, g, o), peepholes as (i, f, o).
      state: h and c before the step, `(h,)` each.
      x: input, `(i,)`.
    Returns:
      `(state, y)`: h' and c', and the output h'.

    Reference: `minilm.reference.recurrent.lstm.lstm_cell_peephole`. Paper: Gers and Schmidhuber, "Recurrent nets that
    time and count" (2000).

    >>> params = LSTMPeepholeParams(jnp.zeros((2, 4)), jnp.zeros((1, 4)), jnp.zeros(3), jnp.zeros(4), jnp.zeros(4))
    >>> state, y = lstm_cell_peephole(params, LSTMState(jnp.array([9.0]), jnp.array([0.5])), jnp.array([1.0, 2.0]))
    >>> state.c.tolist()
    [0.25]
    """
    h, c = state.h, state.c
    w_i, w_f, w_o = jnp.split(params.w_c, 3)
    a_i, a_f, a_g, a_o = jnp.split(x @ params.w_x + params.b_x + h @ params.w_h + params.b_h, 4)
    i = jax.nn.sigmoid(a_i + w_i * c)
    f = jax.nn.sigmoid(a_f + w_f * c)
    g = jnp.tanh(a_g)
    c = f * c + i * g
    o = jax.nn.sigmoid(a_o + w_o * c)
    h = o * jnp.tanh(c)
    return LSTMState(h, c), h
