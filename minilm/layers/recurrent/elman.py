"""Elman's simple recurrent network, one step."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from minilm.initializers import normal


class ElmanParams(NamedTuple):
    """From the input, from the state, and a bias of each (two, as cuDNN and PyTorch keep them)."""

    w_x: Float[Array, "i h"]
    w_h: Float[Array, "h h"]
    b_x: Float[Array, " h"]
    b_h: Float[Array, " h"]


def init_elman(key, i: int, h: int, *, dtype=jnp.float32) -> ElmanParams:
    """Weights N(0, 1/i) from the input and N(0, 1/h) from the state; biases zero."""
    x_key, h_key = jax.random.split(key)
    return ElmanParams(
        w_x=normal(x_key, (i, h), fan_in=i, dtype=dtype),
        w_h=normal(h_key, (h, h), fan_in=h, dtype=dtype),
        b_x=jnp.zeros(h, dtype),
        b_h=jnp.zeros(h, dtype),
    )


@jax.jit
def elman_cell(params: ElmanParams, state: Float[Array, " h"], x: Float[Array, " i"]):
    r"""One step of Elman's network: the state is a squashed sum of what is read and what is remembered.

    $$ h' = \tanh(x W_x + b_x + h W_h + b_h) $$

    The gradient passes through $W_h$ and $1 - h'^2$ at every step, so over a long time it vanishes or explodes:
    the reason for the gates of `lstm_cell` and `gru_cell`.

    Args:
      params: $W_x$ `(i, h)`, $W_h$ `(h, h)`, $b_x$ and $b_h$ `(h,)`.
      state: h before the step, `(h,)`.
      x: input, `(i,)`.
    Returns:
      `(state, y)`: h' twice, for the output is the state.

    Reference: `minilm.reference.recurrent.elman.elman_cell`. Paper: Elman, "Finding structure in time" (1990).

    >>> sums = ElmanParams(w_x=jnp.ones((2, 1)), w_h=jnp.ones((1, 1)), b_x=jnp.zeros(1), b_h=jnp.zeros(1))
    >>> elman_cell(sums, jnp.array([-3.0]), jnp.array([1.0, 2.0]))[0].tolist()
    [0.0]
    """
    h = state
    h = jnp.tanh(x @ params.w_x + params.b_x + h @ params.w_h + params.b_h)
    return h, h
