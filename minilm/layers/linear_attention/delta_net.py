"""DeltaNet, and DeltaNet with gates: the delta rule with its projections, as a block takes it."""

import math
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from minilm.initializers import normal
from minilm.layers.activation import silu
from minilm.layers.linear import matmul
from minilm.layers.linear_attention.convolution import init_short_convolution, short_convolution
from minilm.layers.linear_attention.delta import delta_chunked
from minilm.layers.linear_attention.state_mixer import state_mixer
from minilm.layers.normalization import RMSNormParams, rms_norm
from minilm.shapes import Mixer


class DeltaParams(NamedTuple):
    """g heads: what makes q, k, v and β of the input, a scale for each entry of a head's output, and the way back."""

    w_q: Float[Array, "d g k"]
    w_k: Float[Array, "d g k"]
    w_v: Float[Array, "d g v"]
    w_b: Float[Array, "d g"]
    w_o: Float[Array, "g v d"]
    convolution: Float[Array, "width g 2*k+v"]
    scale: Float[Array, " v"]


class GatedDeltaParams(NamedTuple):
    """Those of `DeltaParams`, and of two gates: how much of the state is kept, and how much of the output."""

    delta: DeltaParams
    w_a: Float[Array, "d g"]
    b_a: Float[Array, " g"]
    log_rate: Float[Array, " g"]
    w_g: Float[Array, "d g v"]


class DeltaState(NamedTuple):
    """What the convolution of q, k and v still has to see, and the state of the rule."""

    convolution: Float[Array, "width-1 g*(2*k+v)"]
    s: Float[Array, "g k v"]


def init_delta(key, d: int, *, g: int, k: int, v: int, convolution: int = 4, dtype=jnp.float32) -> DeltaParams:
    """Weights N(0, 1/fan_in), those of the convolution too; scale 1."""
    keys = jax.random.split(key, 6)
    return DeltaParams(
        w_q=normal(keys[0], (d, g, k), fan_in=d, dtype=dtype),
        w_k=normal(keys[1], (d, g, k), fan_in=d, dtype=dtype),
        w_v=normal(keys[2], (d, g, v), fan_in=d, dtype=dtype),
        w_b=normal(keys[3], (d, g), fan_in=d, dtype=dtype),
        w_o=normal(keys[4], (g, v, d), fan_in=g * v, dtype=dtype),
        convolution=init_short_convolution(keys[5], convolution, g * (2 * k + v), dtype=dtype).reshape(
            convolution, g, 2 * k + v
        ),
        scale=jnp.ones(v, dtype),
    )


def init_gated_delta(
    key, d: int, *, g: int, k: int, v: int, convolution: int = 4, fastest: float = 16.0, dtype=jnp.float32
) -> GatedDeltaParams:
    """As `init_delta`; and as in Mamba-2 rates exp(A) from 1 to `fastest`, softplus(b) from 0.001 to 0.1.

    Of its state a head then keeps from 99.9% (0.001 · 1) down to 20% (0.1 · 16, as published) at each token. As for
    Mamba-2 (`init_mamba2`), that decides what is recalled where heads are few: of 32 pairs in 128 tokens 76% and 26%
    from `fastest` 1, by seed, and 8% from 16. DeltaNet, which keeps all, recalls 99%.
    """
    keys = jax.random.split(key, 5)
    softplus = jnp.exp(jax.random.uniform(keys[2], (g,), dtype, math.log(0.001), math.log(0.1)))
    return GatedDeltaParams(
        delta=init_delta(keys[0], d, g=g, k=k, v=v, convolution=convolution, dtype=dtype),
        w_a=normal(keys[1], (d, g), fan_in=d, dtype=dtype),
        b_a=jnp.log(jnp.expm1(softplus)),
        log_rate=jnp.log(jax.random.uniform(keys[3], (g,), dtype, 1, fastest)),
        w_g=normal(keys[4], (d, g, v), fan_in=d, dtype=dtype),
    )


def delta_mixer(*, g: int, k: int, v: int, chunk: int = 32, convolution: int = 4) -> Mixer:
    r"""DeltaNet as a block takes it: `delta_mixer(g=8, k=64, v=64)`.

    $$ q, k, v = \mathrm{silu}(\mathrm{conv}(x W_q, x W_k, x W_v)), \qquad \hat q = q / \|q\|, \quad
       \hat k = k / \|k\|, \qquad \beta = \sigma(x W_b) $$
    $$ y = \mathrm{RMSNorm}(\mathrm{delta}(\hat q, \hat k, v, \beta))\, W_o $$

    with the norm of each head by itself, to which a scale of its queries would make no difference. Keys of length one
    and β < 1 keep every state bounded.

    Args:
      g, k, v: heads, and the widths of a key and of a value.
      chunk: tokens of a chunk of `delta_chunked`.
      convolution: width of the short convolution; 1 for none but a scale.
    Returns:
      a `Mixer` of `DeltaParams`, whose state is a `DeltaState`. Papers: arXiv:2102.11174, arXiv:2406.06484.
    """

    def recur(params, state, inputs, tokens):
        qkv, beta = inputs
        return _recur(params, state, qkv, beta, jnp.zeros_like(beta), tokens, chunk)

    return state_mixer(
        partial(init_delta, g=g, k=k, v=v, convolution=convolution),
        _project,
        recur,
        lambda params, x, o: _merge(params, _normed(params, o)),
        _empty,
    )


def gated_delta_mixer(*, g: int, k: int, v: int, chunk: int = 32, convolution: int = 4, fastest: float = 16.0) -> Mixer:
    r"""Gated DeltaNet as a block takes it: `gated_delta_mixer(g=8, k=64, v=64)`.

    $$ \ln a = -e^{A}\, \mathrm{softplus}(x W_a + b_a) $$
    $$ y = (\mathrm{RMSNorm}(\mathrm{delta}(\hat q, \hat k, v, \beta, \ln a)) \odot \mathrm{silu}(x W_g))\, W_o $$

    and the rest as in `delta_mixer`, which this is where a = 1, but for the gate behind the norm.

    Args:
      g, k, v, chunk, convolution: as `delta_mixer`'s.
      fastest: rate of decay at which a head may begin (`init_gated_delta`).
    Returns:
      a `Mixer` of `GatedDeltaParams`, whose state is a `DeltaState`. Paper: arXiv:2412.06464.
    """

    def project(params, x):
        log_decay = -jnp.exp(params.log_rate) * jax.nn.softplus(matmul(x, params.w_a) + params.b_a)
        return *_project(params.delta, x), log_decay

    def recur(params, state, inputs, tokens):
        qkv, beta, log_decay = inputs
        return _recur(params.delta, state, qkv, beta, log_decay, tokens, chunk)

    def merge(params, x, o):
        return _merge(params.delta, _normed(params.delta, o) * silu(_heads(params.w_g, x)))

    return state_mixer(
        partial(init_gated_delta, g=g, k=k, v=v, convolution=convolution, fastest=fastest),
        project,
        recur,
        merge,
        lambda params, size, dtype: _empty(params.delta, size, dtype),
    )


def _project(params, x):
    """q, k and v `(..., t, g, 2 k + v)`, side by side for one convolution, and β `(..., t, g)`."""
    qkv = jnp.concatenate([_heads(w, x) for w in (params.w_q, params.w_k, params.w_v)], axis=-1)
    return qkv, jax.nn.sigmoid(matmul(x, params.w_b))


def _recur(params, state, qkv, beta, log_decay, tokens, chunk):
    """One sequence. Padding writes nothing (β = 0) and forgets nothing (log_decay = 0)."""
    (t, g, _), k, real = qkv.shape, params.w_k.shape[-1], tokens.position >= 0
    taps = params.convolution.reshape(len(params.convolution), -1)
    last, qkv = short_convolution(taps, state.convolution, qkv.reshape(t, -1), real)
    q, k, v = jnp.split(jnp.moveaxis(silu(qkv).reshape(t, g, -1), 0, 1), [k, 2 * k], axis=-1)
    beta, log_decay = (jnp.where(real, gate.T, 0) for gate in (beta, log_decay))
    s, o = delta_chunked(state.s, _unit(q), _unit(k), v, beta, log_decay, chunk=chunk)
    return DeltaState(last, s), jnp.moveaxis(o, 0, 1)


def _normed(params, o):
    return rms_norm(RMSNormParams(params.scale), o)


def _merge(params, o):
    return matmul(o.reshape(*o.shape[:-2], -1), params.w_o.reshape(-1, params.w_o.shape[-1]))


def _empty(params, size, dtype):
    width, g, channels = params.convolution.shape
    s = jnp.zeros((g, params.w_k.shape[2], params.w_v.shape[2]), dtype)
    return DeltaState(jnp.zeros((width - 1, g * channels), dtype), s)


def _heads(w, x):
    return matmul(x, w.reshape(w.shape[0], -1)).reshape(*x.shape[:-1], *w.shape[1:])


def _unit(x):
    """Of length one; the small number keeps 0, which padding is, at 0 with a finite gradient."""
    wide = x.astype(jnp.promote_types(x.dtype, jnp.float32))
    return (wide * jax.lax.rsqrt((wide**2).sum(-1, keepdims=True) + 1e-6)).astype(x.dtype)
