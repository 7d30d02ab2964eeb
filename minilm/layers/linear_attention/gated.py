r"""Gated linear attention: a state that forgets, each key dimension at a rate that the token chooses.

One sequence, heads first: q, k and log_decay `(g, t, k)`, v `(g, t, v)`, state `(g, k, v)`. The three forms compute the
same numbers: a step reads one token at a time, the parallel form all pairs of tokens at once, and the chunked form does
the second within a chunk and the first between chunks, which is what one trains with.

Decays are given by their logarithms, at most 0; −∞ forgets everything. What lies between two tokens is the sum of the
logarithms between them. GLA writes it as a difference of running sums, $e^{F_t - F_s}$, which would be NaN once both
are −∞, and loses its digits once both are large; split into $q_t e^{F_t}$ and $k_s e^{-F_s}$, for the sake of a matrix
product, it overflows. Here each pair's sum is taken by itself, without a subtraction, as Mamba-2's `segsum` does for
one decay a head. That costs `t² k` numbers in place of `t²`, and is why chunks are short.
"""

import math
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from minilm.initializers import normal
from minilm.layers.activation import silu
from minilm.layers.linear import matmul
from minilm.layers.linear_attention.state_mixer import merge_heads, split_heads, state_mixer
from minilm.layers.normalization import RMSNormParams, init_rms_norm, rms_norm
from minilm.shapes import Mixer

RANK, TEMPERATURE = 16, 16.0  # of GLA's decays: their weights' rank, and the root that keeps them near 1


class GatedLinearParams(NamedTuple):
    """Heads, the decay of each key dimension through a narrow layer, and the gate of the output."""

    w_q: Float[Array, "d g k"]
    w_k: Float[Array, "d g k"]
    w_v: Float[Array, "d g v"]
    w_decay_in: Float[Array, "d 16"]
    w_decay_out: Float[Array, "16 g k"]
    b_decay: Float[Array, "g k"]
    norm: RMSNormParams
    w_gate: Float[Array, "d g v"]
    w_o: Float[Array, "g v d"]


def init_gated_linear(key, d: int, *, g: int, k: int, v: int, dtype=jnp.float32) -> GatedLinearParams:
    """Weights N(0, 1/fan_in), the biases of decays 0: about half, to the power 1/16, is kept at a token: 96%."""
    keys = jax.random.split(key, 7)
    return GatedLinearParams(
        w_q=normal(keys[0], (d, g, k), fan_in=d, dtype=dtype),
        w_k=normal(keys[1], (d, g, k), fan_in=d, dtype=dtype),
        w_v=normal(keys[2], (d, g, v), fan_in=d, dtype=dtype),
        w_decay_in=normal(keys[3], (d, RANK), fan_in=d, dtype=dtype),
        w_decay_out=normal(keys[4], (RANK, g, k), fan_in=RANK, dtype=dtype),
        b_decay=jnp.zeros((g, k), dtype),
        norm=init_rms_norm(v, dtype),
        w_gate=normal(keys[5], (d, g, v), fan_in=d, dtype=dtype),
        w_o=normal(keys[6], (g, v, d), fan_in=g * v, dtype=dtype),
    )


@jax.jit
def gated_step(
    state: Float[Array, "g k v"],
    q: Float[Array, "g k"],
    k: Float[Array, "g k"],
    v: Float[Array, "g v"],
    log_decay: Float[Array, "g k"],
):
    r"""One token of gated linear attention: forget, write, read.

    $$ S_t = \operatorname{diag}(\alpha_t)\, S_{t-1} + k_t v_t^\top, \qquad o_t = S_t^\top q_t $$

    Args:
      state: $S_{t-1}$, `(g, k, v)`, best in float32 or wider.
      q, k: `(g, k)`; whoever calls scales q.
      v: `(g, v)`.
      log_decay: $\log \alpha_t \le 0$, `(g, k)`.
    Returns:
      `(state, o)`: $S_t$ in the state's dtype, and o `(g, v)` in v's; computed in float32 or wider.

    Reference: `minilm.reference.linear_attention.gated.gated_step`. Paper: arXiv:2312.06635, equation 3.

    >>> q, k, v, half = jnp.array([[1.0]]), jnp.array([[2.0]]), jnp.array([[3.0]]), jnp.log(jnp.array([[0.5]]))
    >>> state, o = gated_step(jnp.array([[[8.0]]]), q, k, v, half)
    >>> state.item(), o.item()
    (10.0, 10.0)
    """
    wide, dtypes = _wide(state, v), (state.dtype, v.dtype)
    state, q, k, v, log_decay = (x.astype(wide) for x in (state, q, k, v, log_decay))
    state = jnp.exp(log_decay)[..., None] * state + k[..., None] * v[..., None, :]
    o = jnp.einsum("gkv,gk->gv", state, q)
    return state.astype(dtypes[0]), o.astype(dtypes[1])


@jax.jit
def gated_parallel(
    q: Float[Array, "g t k"],
    k: Float[Array, "g t k"],
    v: Float[Array, "g t v"],
    log_decay: Float[Array, "g t k"],
) -> Float[Array, "g t v"]:
    r"""Gated linear attention from an empty state, all pairs of tokens at once.

    $$ o_t = \sum_{s \le t} \Bigl( \sum_i q_{ti}\, k_{si}\, D_{tsi} \Bigr) v_s, \qquad
       D_{tsi} = \exp\left( \log \alpha_{s+1,i} + \dots + \log \alpha_{t,i} \right) $$

    Where nothing decays, it is causal linear attention without a normaliser, whose weights are $q_t \cdot k_s$.

    Args:
      q, k: `(g, t, k)`; whoever calls scales q.
      v: `(g, t, v)`.
      log_decay: $\log \alpha \le 0$, `(g, t, k)`.
    Returns:
      o `(g, t, v)`, in v's dtype; computed in float32 or wider.

    Reference: `minilm.reference.linear_attention.gated.gated_parallel`. Paper: arXiv:2312.06635, section 4.1.

    >>> ones, v = jnp.ones((1, 3, 1)), jnp.array([[[4.0], [2.0], [1.0]]])
    >>> log_decay = jnp.log(jnp.array([[[1.0], [0.5], [0.0]]]))
    >>> gated_parallel(ones, ones, v, log_decay).tolist()
    [[[4.0], [4.0], [1.0]]]
    """
    wide = _wide(v)
    between = _decay_between(log_decay.astype(wide))
    return _read_pairs(q.astype(wide), k.astype(wide), v.astype(wide), between).astype(v.dtype)


@partial(jax.jit, static_argnames="chunk")
def gated_chunked(
    state: Float[Array, "g k v"],
    q: Float[Array, "g t k"],
    k: Float[Array, "g t k"],
    v: Float[Array, "g t v"],
    log_decay: Float[Array, "g t k"],
    *,
    chunk: int = 16,
):
    r"""Gated linear attention in chunks: all pairs inside a chunk, the state between chunks.

    With S the state before a chunk of c tokens, and $F_t = \log \alpha_1 + \dots + \log \alpha_t$ within it:

    $$ o_t = S^\top (e^{F_t} \odot q_t) + \sum_{s \le t} \Bigl( \sum_i q_{ti}\, k_{si}\, D_{tsi} \Bigr) v_s, \qquad
       S' = \operatorname{diag}(e^{F_c})\, S + \sum_s (D_{cs} \odot k_s)\, v_s^\top $$

    Args:
      state: S before the first token, `(g, k, v)`, best in float32 or wider.
      q, k: `(g, t, k)`; whoever calls scales q.
      v: `(g, t, v)`.
      log_decay: $\log \alpha \le 0$, `(g, t, k)`.
      chunk: tokens in a chunk; memory grows with it, the number of steps falls.
    Returns:
      `(state, o)`: S after the last token, in the state's dtype, and o `(g, t, v)`, in v's.

    Reference: `minilm.reference.linear_attention.gated.gated_chunked`. Paper: arXiv:2312.06635, section 4.2.

    >>> ones, half = jnp.ones((1, 3, 1)), jnp.full((1, 3, 1), jnp.log(0.5))
    >>> state, o = gated_chunked(jnp.array([[[8.0]]]), ones, ones, ones, half, chunk=2)
    >>> state.item(), o.round(3).tolist()
    (2.75, [[[5.0], [3.5], [2.75]]])
    """
    wide, t = _wide(state, v), q.shape[1]

    # What a chunk holds, `chunk` times its keys, is computed again on the way back rather than kept.
    @jax.checkpoint
    def read(state, inputs):
        q, k, v, log_decay = inputs
        between, since = _decay_between(log_decay), jnp.exp(jnp.cumsum(log_decay, axis=1))
        o = jnp.einsum("gkv,gtk->gtv", state, q * since) + _read_pairs(q, k, v, between)
        state = since[:, -1, :, None] * state + jnp.einsum("gsk,gsv->gkv", between[:, -1] * k, v)
        return state, o

    chunks = [_in_chunks(x.astype(wide), min(chunk, t)) for x in (q, k, v, log_decay)]
    after, o = jax.lax.scan(read, state.astype(wide), chunks)
    o = jnp.moveaxis(o, 0, 1).reshape(o.shape[1], -1, o.shape[-1])[:, :t]
    return after.astype(state.dtype), o.astype(v.dtype)


def gated_linear_mixer(*, g: int, k: int, v: int) -> Mixer:
    r"""GLA as a block takes it: decays through a narrow layer, each head's output normalised and gated.

    $$ \alpha = \sigma(x W_1 W_2 + b)^{1/16}, \qquad
       y = \operatorname{merge}\left(\operatorname{silu}(x W_r) \odot \operatorname{RMSNorm}(o)\right) $$

    Args:
      g, k, v: heads, and the widths of a key and of a value. The paper has k at half of v.
    Returns:
      a `Mixer` whose state is `(g, k, v)`. Its queries are scaled by $1/\sqrt{k}$, and its keys by nothing.
    """

    def project(params, x):
        logits = split_heads(params.w_decay_out, matmul(x, params.w_decay_in)) + params.b_decay[:, None]
        log_decay = jax.nn.log_sigmoid(logits) / TEMPERATURE
        q = split_heads(params.w_q, x) / math.sqrt(k)
        return q, split_heads(params.w_k, x), split_heads(params.w_v, x), log_decay

    def recur(params, state, inputs, tokens):
        q, k, v, log_decay = inputs
        real = (tokens.position >= 0)[:, None]
        return gated_chunked(state, q, jnp.where(real, k, 0), v, jnp.where(real, log_decay, 0))

    def merge(params, x, o):
        return merge_heads(params.w_o, silu(split_heads(params.w_gate, x)) * rms_norm(params.norm, o))

    init = partial(init_gated_linear, g=g, k=k, v=v)
    return state_mixer(init, project, recur, merge, lambda params, size, dtype: jnp.zeros((g, k, v), dtype))


def _decay_between(log_decay):
    """From `(g, t, k)` to `(g, t, s, k)`: what is left at t of what was written at s; 1 at s = t, 0 at s > t."""
    t = jnp.arange(log_decay.shape[1])
    later = (t[:, None] > t)[..., None]
    total = jnp.cumsum(jnp.where(later, log_decay[:, :, None], 0), axis=1)
    # Masked before the exponential: a gradient through a masked overflow would be NaN.
    return jnp.exp(jnp.where((t[:, None] >= t)[..., None], total, -jnp.inf))


def _read_pairs(q, k, v, between):
    weights = jnp.einsum("gtk,gsk,gtsk->gts", q, k, between)
    return jnp.einsum("gts,gsv->gtv", weights, v)


def _in_chunks(x, size):
    """From `(g, t, k)` to `(chunks, g, size, k)`; zeros fill the last one, tokens that write and forget nothing."""
    g, t, k = x.shape
    return jnp.moveaxis(jnp.pad(x, ((0, 0), (0, -t % size), (0, 0))).reshape(g, -1, size, k), 1, 0)


def _wide(*arrays):
    return jnp.result_type(jnp.float32, *arrays)
