"""Mamba-2: a fading state whose gate, key and query are read from the input, after a short convolution."""

from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from minilm.initializers import normal
from minilm.layers.activation import silu
from minilm.layers.linear import matmul
from minilm.layers.linear_attention.convolution import init_short_convolution, short_convolution
from minilm.layers.linear_attention.decay import decay_chunked
from minilm.layers.linear_attention.state_mixer import state_mixer
from minilm.layers.normalization import RMSNormParams, init_rms_norm, rms_norm
from minilm.shapes import Mixer


class Mamba2Params(NamedTuple):
    """What is written (x), where (b, one key for all heads), where it is read (c, one query), and how long it stays.

    In the papers' words w_b, w_c and w_step give B, C and Δ, rate is log A (of which −A is meant), skip is D.
    """

    w_x: Float[Array, "d g v"]
    w_b: Float[Array, "d k"]
    w_c: Float[Array, "d k"]
    w_step: Float[Array, "d g"]
    w_gate: Float[Array, "d g v"]
    w_o: Float[Array, "g v d"]
    b_step: Float[Array, " g"]
    rate: Float[Array, " g"]
    skip: Float[Array, " g"]
    convolution: Float[Array, "width channels"]
    norm: RMSNormParams


class Mamba2State(NamedTuple):
    """The last inputs of the convolution, and the matrix that fades."""

    inputs: Float[Array, "width-1 channels"]
    matrix: Float[Array, "g k v"]


@jax.jit
def discretize(rate: Float[Array, " g"], step: Float[Array, "g t"]) -> Float[Array, "g t"]:
    r"""A state that decays in continuous time, looked at after a step of length Δ: the logarithm of what is left of it.

    $$ S(\tau + \Delta) = e^{-\Delta e^{A}} S(\tau), \qquad \ln a = -e^{A} \Delta $$

    Args:
      rate: A, the logarithm of a head's rate of decay, `(g,)`.
      step: Δ ≥ 0, `(g, t)`; a step of 0 is none.
    Returns:
      ln a `(g, t)`.

    Reference: `minilm.reference.linear_attention.mamba.discretize`. Papers: arXiv:2312.00752, arXiv:2405.21060.

    >>> discretize(jnp.zeros(1), jnp.array([[0.0, 2.0]])).tolist()
    [[-0.0, -2.0]]
    """
    return -jnp.exp(rate)[:, None] * step


def init_mamba2(
    key, d: int, *, g: int, k: int, v: int, width: int = 4, fastest: float = 16.0, dtype=jnp.float32
) -> Mamba2Params:
    """Weights N(0, 1/fan_in); rates of decay uniform in 1 to `fastest`, steps log-uniform in 0.001 to 0.1.

    A head begins with keeping from 99.9% (0.001 · 1) down to 20% (0.1 · 16, as published) of its state at each token,
    which decides what is recalled where heads are few. Of 32 pairs in 128 tokens (two layers of two heads, two seeds)
    it learnt 99% from `fastest` 1, and 4% from 16, where heads begin with forgetting half within 1 to 35 tokens.
    """
    names = ("w_x", "w_b", "w_c", "w_step", "w_gate", "w_o", "rate", "step", "convolution")
    keys: dict[str, Any] = dict(zip(names, jax.random.split(key, len(names)), strict=True))
    shapes = {"w_x": (d, g, v), "w_b": (d, k), "w_c": (d, k), "w_step": (d, g), "w_gate": (d, g, v), "w_o": (g, v, d)}
    fans = {"w_o": g * v}
    step = jnp.exp(jax.random.uniform(keys["step"], (g,), dtype, jnp.log(1e-3), jnp.log(1e-1)))
    return Mamba2Params(
        **{name: normal(keys[name], shape, fan_in=fans.get(name, d), dtype=dtype) for name, shape in shapes.items()},
        b_step=jnp.log(jnp.expm1(step)),  # what softplus turns into that step
        rate=jnp.log(jax.random.uniform(keys["rate"], (g,), dtype, 1.0, fastest)),
        skip=jnp.ones(g, dtype),
        convolution=init_short_convolution(keys["convolution"], width, g * v + 2 * k, dtype=dtype),
        norm=init_rms_norm(g * v, dtype),
    )


def mamba2_mixer(*, g: int, k: int, v: int, width: int = 4, fastest: float = 16.0, chunk: int = 64) -> Mixer:
    r"""Mamba-2 as a block takes it: `mamba2_mixer(g=4, k=16, v=16)`.

    $$ S_t = a_t S_{t-1} + b_t (\Delta_t x_t)^\top, \qquad y_t = S_t^\top c_t + D x_t, \qquad
       \Delta_t = \operatorname{softplus}(u_t W_\Delta + b_\Delta) $$

    in each head, with x, b and c of a short convolution and silu; then a norm over all heads of y · silu(gate).

    Args:
      g: heads, which share their keys b and queries c.
      k: the width of a key, `d_state` in the paper's code; v: of a value, `headdim`.
      width: of the convolution.
      fastest: rate of decay at which a head may begin (`init_mamba2`).
      chunk: tokens that `decay_chunked` takes at once.
    Returns:
      a `Mixer` of `Mamba2Params`, whose state is a `Mamba2State`. Paper: arXiv:2405.21060.
    """

    def project(params, x):
        channels = jnp.concatenate([matmul(x, _flat(params.w_x)), matmul(x, params.w_b), matmul(x, params.w_c)], -1)
        return channels, matmul(x, params.w_step)

    def recur(params, state, inputs, tokens):
        (channels, step), real, wide = inputs, tokens.position >= 0, state.matrix.dtype
        last, channels = short_convolution(params.convolution, state.inputs, channels, real)
        x, b, c = jnp.split(silu(channels), (g * v, g * v + k), axis=-1)
        x = jnp.moveaxis(x.reshape(-1, g, v), 1, 0)
        b, c = (jnp.broadcast_to(shared, (g, *shared.shape)) for shared in (jnp.where(real[:, None], b, 0), c))
        step = jnp.where(real, jax.nn.softplus(step.astype(wide) + params.b_step).T, 0)
        log_decay = discretize(params.rate.astype(wide), step)
        matrix, y = decay_chunked(state.matrix, c, b, step[..., None] * x, log_decay, chunk=chunk)
        return Mamba2State(last, matrix), y + params.skip[:, None, None] * x

    def merge(params, x, y):
        y = jnp.moveaxis(y, -3, -2).reshape(*x.shape[:-1], g * v).astype(x.dtype)
        y = rms_norm(params.norm, y * silu(matmul(x, _flat(params.w_gate))))
        return matmul(y, params.w_o.reshape(g * v, -1))

    init = partial(init_mamba2, g=g, k=k, v=v, width=width, fastest=fastest)
    return state_mixer(init, project, recur, merge, _empty)


def _empty(params, size, dtype):
    (width, channels), (_, g, v), (_, k) = params.convolution.shape, params.w_x.shape, params.w_b.shape
    return Mamba2State(jnp.zeros((width - 1, channels), dtype), jnp.zeros((g, k, v), dtype))


def _flat(w):
    return w.reshape(w.shape[0], -1)
