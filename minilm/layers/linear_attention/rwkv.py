r"""RWKV-6's time mixing: gated linear attention that asks the state before it writes to it.

The current token enters through a bonus u of its own instead. So the query of token t asks the state after t − 1, and
each form here is that of `gated`, its queries one place earlier and its outputs one place later. Shapes are those of
`gated`: r (the receptance, which is the query), k and log_decay `(g, t, k)`, v `(g, t, v)`, state `(g, k, v)`.
"""

from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from minilm.initializers import normal, uniform
from minilm.layers.activation import silu
from minilm.layers.linear import matmul
from minilm.layers.linear_attention.gated import gated_chunked, gated_parallel, gated_step
from minilm.layers.linear_attention.state_mixer import (
    merge_heads,
    split_heads,
    state_mixer,
    token_shift_mixer,
)
from minilm.layers.normalization import LayerNormParams, layer_norm
from minilm.shapes import Mixer

RANK = 64  # of the decays' weights, as published for all sizes up to 3 billion parameters
EPS = 64e-5  # of the heads' norms, as published


class RWKV6Params(NamedTuple):
    """How much of the token before each projection sees (r, k, v, decay, gate), heads, decays, bonus, norm and gate."""

    shift: Float[Array, "5 d"]
    w_r: Float[Array, "d g k"]
    w_k: Float[Array, "d g k"]
    w_v: Float[Array, "d g v"]
    w_decay_in: Float[Array, "d 64"]
    w_decay_out: Float[Array, "64 g k"]
    b_decay: Float[Array, "g k"]
    u: Float[Array, "g k"]
    norm: LayerNormParams
    w_gate: Float[Array, "d g v"]
    w_o: Float[Array, "g v d"]


def init_rwkv6(key, d: int, *, g: int, k: int, v: int, dtype=jnp.float32) -> RWKV6Params:
    """Weights N(0, 1/fan_in), shares of the token before uniform in 0 to 1, what a token keeps about 99.8% to 69%."""
    keys = jax.random.split(key, 9)
    return RWKV6Params(
        shift=jax.random.uniform(keys[0], (5, d), dtype),
        w_r=normal(keys[1], (d, g, k), fan_in=d, dtype=dtype),
        w_k=normal(keys[2], (d, g, k), fan_in=d, dtype=dtype),
        w_v=normal(keys[3], (d, g, v), fan_in=d, dtype=dtype),
        w_decay_in=normal(keys[4], (d, RANK), fan_in=d, dtype=dtype),
        w_decay_out=0.1 * normal(keys[5], (RANK, g, k), fan_in=RANK, dtype=dtype),
        b_decay=jnp.broadcast_to(jnp.linspace(-6, -1, k, dtype=dtype), (g, k)),
        u=uniform(keys[6], (g, k), dtype=dtype),
        norm=LayerNormParams(scale=jnp.ones((g, v), dtype), bias=jnp.zeros((g, v), dtype)),
        w_gate=normal(keys[7], (d, g, v), fan_in=d, dtype=dtype),
        w_o=normal(keys[8], (g, v, d), fan_in=g * v, dtype=dtype),
    )


@jax.jit
def rwkv6_step(
    state: Float[Array, "g k v"],
    r: Float[Array, "g k"],
    k: Float[Array, "g k"],
    v: Float[Array, "g v"],
    log_decay: Float[Array, "g k"],
    u: Float[Array, "g k"],
):
    r"""One token of RWKV-6's time mixing: read, with a bonus for the token itself, then forget and write.

    $$ o_t = \left( S_{t-1} + \operatorname{diag}(u)\, k_t v_t^\top \right)^\top r_t, \qquad
       S_t = \operatorname{diag}(w_t)\, S_{t-1} + k_t v_t^\top $$

    Args:
      state: $S_{t-1}$, `(g, k, v)`, best in float32 or wider.
      r, k: `(g, k)`.
      v: `(g, v)`.
      log_decay: $\log w_t \le 0$, `(g, k)`.
      u: `(g, k)`; with u = 1 the token counts like those before it.
    Returns:
      `(state, o)`: $S_t$ in the state's dtype, and o `(g, v)` in v's; computed in float32 or wider.

    Reference: `minilm.reference.linear_attention.rwkv.rwkv6_step`. Paper: arXiv:2404.05892, section 4.2.

    >>> r, k, v, half, u = (jnp.array([[x]]) for x in (1.0, 2.0, 3.0, jnp.log(0.5), 0.5))
    >>> state, o = rwkv6_step(jnp.array([[[8.0]]]), r, k, v, half, u)
    >>> state.item(), o.item()
    (10.0, 11.0)
    """
    wide = v.astype(_wide(state, v))
    o = jnp.einsum("gkv,gk->gv", state.astype(wide.dtype), r.astype(wide.dtype)) + _bonus(r, k, wide, u)
    return gated_step(state, r, k, v, log_decay)[0], o.astype(v.dtype)


@jax.jit
def rwkv6_parallel(
    r: Float[Array, "g t k"],
    k: Float[Array, "g t k"],
    v: Float[Array, "g t v"],
    log_decay: Float[Array, "g t k"],
    u: Float[Array, "g k"],
) -> Float[Array, "g t v"]:
    r"""RWKV-6's time mixing from an empty state, all pairs of tokens at once.

    $$ o_t = (r_t \cdot u \odot k_t)\, v_t + \sum_{s < t} \Bigl( \sum_i r_{ti}\, k_{si}\, D_{t-1,s,i} \Bigr) v_s, \qquad
       D_{tsi} = \exp\left( \log w_{s+1,i} + \dots + \log w_{t,i} \right) $$

    With u = 1 and no decay it is causal linear attention without a normaliser, as `gated_parallel` is.

    Args:
      r, k: `(g, t, k)`.
      v: `(g, t, v)`.
      log_decay: $\log w \le 0$, `(g, t, k)`.
      u: `(g, k)`.
    Returns:
      o `(g, t, v)`, in v's dtype; computed in float32 or wider.

    Reference: `minilm.reference.linear_attention.rwkv.rwkv6_parallel`. Paper: arXiv:2404.05892, section 4.2.

    >>> ones, v, u = jnp.ones((1, 3, 1)), jnp.array([[[4.0], [2.0], [1.0]]]), jnp.array([[10.0]])
    >>> rwkv6_parallel(ones, ones, v, jnp.log(0.5 * ones), u).round(3).tolist()
    [[[40.0], [24.0], [14.0]]]
    """
    wide = v.astype(_wide(v))
    o = _later(gated_parallel(_earlier(r), k, wide, log_decay), jnp.zeros_like(wide[:, 0]))
    return (o + _bonus(r, k, wide, u[:, None])).astype(v.dtype)


@partial(jax.jit, static_argnames="chunk")
def rwkv6_chunked(
    state: Float[Array, "g k v"],
    r: Float[Array, "g t k"],
    k: Float[Array, "g t k"],
    v: Float[Array, "g t v"],
    log_decay: Float[Array, "g t k"],
    u: Float[Array, "g k"],
    *,
    chunk: int = 16,
):
    r"""RWKV-6's time mixing in chunks: all pairs inside a chunk, the state between chunks.

    $$ (S, o') = \text{gated}(S_0, [r_2, \dots, r_t, 0], k, v), \qquad o_1 = S_0^\top r_1 + b_1, \qquad
       o_t = o'_{t-1} + b_t, \qquad b_t = (r_t \cdot u \odot k_t)\, v_t $$

    Args:
      state: $S_0$, before the first token, `(g, k, v)`, best in float32 or wider.
      r, k: `(g, t, k)`.
      v: `(g, t, v)`.
      log_decay: $\log w \le 0$, `(g, t, k)`.
      u: `(g, k)`.
      chunk: tokens in a chunk, as `gated_chunked`'s.
    Returns:
      `(state, o)`: S after the last token, in the state's dtype, and o `(g, t, v)`, in v's.

    Reference: `minilm.reference.linear_attention.rwkv.rwkv6_chunked`. Paper: arXiv:2404.05892, section 4.2.

    >>> ones, u = jnp.ones((1, 3, 1)), jnp.array([[10.0]])
    >>> state, o = rwkv6_chunked(jnp.array([[[8.0]]]), ones, ones, ones, jnp.log(0.5 * ones), u, chunk=2)
    >>> state.round(3).item(), o.round(3).tolist()
    (2.75, [[[18.0], [15.0], [13.5]]])
    """
    wide = v.astype(_wide(state, v))
    first = jnp.einsum("gkv,gk->gv", state.astype(wide.dtype), r[:, 0].astype(wide.dtype))
    state, o = gated_chunked(state, _earlier(r), k, wide, log_decay, chunk=chunk)
    return state, (_later(o, first) + _bonus(r, k, wide, u[:, None])).astype(v.dtype)


def rwkv6_mixer(*, g: int, k: int, v: int) -> Mixer:
    r"""RWKV-6's time mixing as a block takes it, without the layer that makes its token shift depend on the data.

    $$ x^\bullet_t = x_t + \mu_\bullet \odot (x_{t-1} - x_t), \qquad
       \log w_t = -\exp\left( w_0 + \tanh(x^w_t W_1) W_2 \right), \qquad
       y_t = \operatorname{merge}\left( \operatorname{silu}(x^g_t W_g) \odot \operatorname{LayerNorm}(o_t) \right) $$

    Every projection sees the token before too, in a share that it has learned for each entry of x; RWKV-6 adds to that
    share what a narrow layer makes of the two tokens. The norm is each head's own, "group norm" in the paper.

    Args:
      g, k, v: heads, and the widths of a key and of a value, which are equal in the paper.
    Returns:
      a `Mixer` whose state is the last x and `(g, k, v)`.
    """

    def project(params, pair):
        x_r, x_k, x_v, x_decay, _ = _mixed(params.shift, pair)
        narrow = jnp.tanh(matmul(x_decay, params.w_decay_in))
        log_decay = -jnp.exp(params.b_decay[:, None] + split_heads(params.w_decay_out, narrow))
        return split_heads(params.w_r, x_r), split_heads(params.w_k, x_k), split_heads(params.w_v, x_v), log_decay

    def recur(params, state, inputs, tokens):
        r, k, v, log_decay = inputs
        real = (tokens.position >= 0)[:, None]
        return rwkv6_chunked(state, r, jnp.where(real, k, 0), v, jnp.where(real, log_decay, 0), params.u)

    def merge(params, pair, o):
        normed = jax.vmap(partial(layer_norm, eps=EPS), in_axes=(0, -3), out_axes=-3)(params.norm, o)
        gate = silu(split_heads(params.w_gate, _mixed(params.shift, pair)[-1]))
        return merge_heads(params.w_o, gate * normed)

    def init_state(params, size, dtype):
        return jnp.zeros((g, k, v), dtype)

    pairs_mixer = state_mixer(partial(init_rwkv6, g=g, k=k, v=v), project, recur, merge, init_state)
    return token_shift_mixer(pairs_mixer, width=lambda params: params.w_o.shape[-1])


def _mixed(shift, pair):
    """From `[x_t, x_{t-1}]` side by side, what each projection sees of them."""
    x, before = jnp.split(pair, 2, axis=-1)
    return [x + share * (before - x) for share in shift.astype(x.dtype)]


def _bonus(r, k, v, u):
    return (r.astype(v.dtype) * u * k).sum(-1, keepdims=True) * v


def _earlier(x):
    """Every token's row at the place of the one before, and zeros at the last."""
    return jnp.concatenate([x[:, 1:], jnp.zeros_like(x[:, :1])], axis=1)


def _later(x, first):
    """Every token's row at the place of the one after, and `first` at the first."""
    return jnp.concatenate([first[:, None], x[:, :-1]], axis=1)


def _wide(*arrays):
    return jnp.result_type(jnp.float32, *arrays)
