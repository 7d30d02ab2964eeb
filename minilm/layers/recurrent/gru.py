"""The gated recurrent unit, one step, in both of its papers' forms."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from minilm.initializers import normal


class GRUParams(NamedTuple):
    """Columns packed gate by gate: reset, update, candidate (r, z, n in the papers)."""

    w_x: Float[Array, "i 3*h"]
    w_h: Float[Array, "h 3*h"]
    b_x: Float[Array, " 3*h"]
    b_h: Float[Array, " 3*h"]


def init_gru(key, i: int, h: int, *, dtype=jnp.float32) -> GRUParams:
    """Weights N(0, 1/i) from the input and N(0, 1/h) from the state; biases zero."""
    x_key, h_key = jax.random.split(key)
    return GRUParams(
        w_x=normal(x_key, (i, 3 * h), fan_in=i, dtype=dtype),
        w_h=normal(h_key, (h, 3 * h), fan_in=h, dtype=dtype),
        b_x=jnp.zeros(3 * h, dtype),
        b_h=jnp.zeros(3 * h, dtype),
    )


@jax.jit
def gru_cell(params: GRUParams, state: Float[Array, " h"], x: Float[Array, " i"]):
    r"""One step of the gated recurrent unit, with the reset gate applied after the matrix product.

    $$ r = \sigma(x W^r_x + b^r_x + h W^r_h + b^r_h), \qquad z = \sigma(x W^z_x + b^z_x + h W^z_h + b^z_h) $$
    $$ n = \tanh(x W^n_x + b^n_x + r \odot (h W^n_h + b^n_h)), \qquad h' = (1 - z) \odot n + z \odot h $$

    With z = 1 the state is kept, with z = 0 it is replaced (Chung et al. 2014 write z and 1 − z the other way round).
    Cho et al. (2014) reset the state before the product: that is `gru_cell_reset_before`. cuDNN, PyTorch and Flax
    compute this one, in which one product serves all three gates.

    Args:
      params: gates packed as (r, z, n).
      state: h before the step, `(h,)`.
      x: input, `(i,)`.
    Returns:
      `(state, y)`: h' twice, for the GRU's output is its state.

    Reference: `minilm.reference.recurrent.gru.gru_cell`. Papers: arXiv:1406.1078, arXiv:1412.3555.

    >>> half_open = GRUParams(w_x=jnp.zeros((2, 3)), w_h=jnp.zeros((1, 3)), b_x=jnp.zeros(3), b_h=jnp.zeros(3))
    >>> gru_cell(half_open, jnp.array([0.5]), jnp.array([1.0, 2.0]))[0].tolist()
    [0.25]
    """
    h = state
    x_r, x_z, x_n = jnp.split(x @ params.w_x + params.b_x, 3)
    h_r, h_z, h_n = jnp.split(h @ params.w_h + params.b_h, 3)
    r = jax.nn.sigmoid(x_r + h_r)
    z = jax.nn.sigmoid(x_z + h_z)
    n = jnp.tanh(x_n + r * h_n)
    h = (1 - z) * n + z * h
    return h, h


@jax.jit
def gru_cell_reset_before(params: GRUParams, state: Float[Array, " h"], x: Float[Array, " i"]):
    r"""One step of the gated recurrent unit as first published, with the reset gate applied to the state itself.

    $$ r = \sigma(x W^r_x + b^r_x + h W^r_h + b^r_h), \qquad z = \sigma(x W^z_x + b^z_x + h W^z_h + b^z_h) $$
    $$ n = \tanh(x W^n_x + b^n_x + (r \odot h) W^n_h + b^n_h), \qquad h' = (1 - z) \odot n + z \odot h $$

    The candidate's product waits for the reset gate, so a step is two products in sequence where `gru_cell` has one.
    Where the reset gate is open (r = 1), the two are the same function.

    Args:
      params: gates packed as (r, z, n).
      state: h before the step, `(h,)`.
      x: input, `(i,)`.
    Returns:
      `(state, y)`: h' twice, for the GRU's output is its state.

    Reference: `minilm.reference.recurrent.gru.gru_cell_reset_before`. Paper: arXiv:1406.1078.

    >>> half_open = GRUParams(w_x=jnp.zeros((2, 3)), w_h=jnp.zeros((1, 3)), b_x=jnp.zeros(3), b_h=jnp.zeros(3))
    >>> gru_cell_reset_before(half_open, jnp.array([0.5]), jnp.array([1.0, 2.0]))[0].tolist()
    [0.25]
    """
    h = state
    w_r, w_z, w_n = jnp.split(params.w_h, 3, axis=1)
    b_r, b_z, b_n = jnp.split(params.b_h, 3)
    x_r, x_z, x_n = jnp.split(x @ params.w_x + params.b_x, 3)
    r = jax.nn.sigmoid(x_r + h @ w_r + b_r)
    z = jax.nn.sigmoid(x_z + h @ w_z + b_z)
    n = jnp.tanh(x_n + (r * h) @ w_n + b_n)
    h = (1 - z) * n + z * h
    return h, h
