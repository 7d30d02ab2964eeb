"""RetNet's retention: linear attention that forgets at a fixed rate, another in each head."""

import math
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from minilm.initializers import normal
from minilm.layers.activation import silu
from minilm.layers.attention.multi_head import MultiHeadParams, init_multi_head, merge, project
from minilm.layers.linear import matmul
from minilm.layers.linear_attention.decay import decay_chunked
from minilm.layers.linear_attention.state_mixer import state_mixer
from minilm.layers.normalization import RMSNormParams, init_rms_norm, rms_norm
from minilm.layers.position import rotary
from minilm.shapes import Mixer


class RetentionParams(NamedTuple):
    """Heads, the norm of each head's output, and the gate that opens it."""

    heads: MultiHeadParams
    norm: RMSNormParams
    w_gate: Float[Array, "d g v"]


def init_retention(key, d: int, *, g: int, k: int, v: int, dtype=jnp.float32) -> RetentionParams:
    """Heads as `init_multi_head`'s without biases, the norm's scale 1, the gate N(0, 1/d)."""
    heads_key, gate_key = jax.random.split(key)
    heads = init_multi_head(heads_key, d, g=g, r=1, k=k, v=v, bias=False, dtype=dtype)
    return RetentionParams(heads, init_rms_norm(v, dtype), normal(gate_key, (d, g, v), fan_in=d, dtype=dtype))


def retention_decays(g: int) -> list[float]:
    r"""The logarithm of what each of g heads keeps from one token to the next.

    $$ \ln \gamma_h = \ln\left(1 - 2^{-5-h}\right), \qquad h = 0, \dots, g - 1 $$

    Args:
      g: heads.
    Returns:
      g Python numbers. The first head keeps 31/32, half of it for 22 tokens; each next one about twice as long.

    Reference: `minilm.reference.linear_attention.retention.retention_decays`. Paper: arXiv:2307.08621, equation 8.

    >>> [round(math.log(0.5) / log_decay) for log_decay in retention_decays(4)]
    [22, 44, 88, 177]
    """
    return [math.log1p(-(2.0 ** (-5 - h))) for h in range(g)]


def retention_mixer(*, g: int, k: int, v: int, chunk: int = 64) -> Mixer:
    """Multi-scale retention as a block takes it: `retention_mixer(g=4, k=16, v=16)`.

    Queries and keys are rotated to their positions, so that what fades also turns; each head's output is normalised by
    itself, since heads that remember longer sum up more; and a gate lets it through.

    Args:
      g, k, v: heads, and the widths of a key and of a value.
      chunk: tokens that `decay_chunked` takes at once.
    Returns:
      a `Mixer` of `RetentionParams`, whose state is `(g, k, v)`. Paper: arXiv:2307.08621.
    """

    def recur(params, state, qkv, tokens):
        (q, k, v), real = qkv, tokens.position >= 0
        q, k = rotary(q[:, 0], tokens.position), rotary(k, tokens.position)
        log_decay = jnp.where(real, jnp.asarray(retention_decays(len(k)), state.dtype)[:, None], 0)
        return decay_chunked(
            state, q / math.sqrt(q.shape[-1]), jnp.where(real[:, None], k, 0), v, log_decay, chunk=chunk
        )

    def merged(params, x, o):
        gate = silu(matmul(x, params.w_gate.reshape(x.shape[-1], -1)))
        gate = jnp.moveaxis(gate.reshape(*x.shape[:-1], g, v), -2, -3)
        o = (rms_norm(params.norm, o) * gate).astype(x.dtype)
        return merge(params.heads, o[..., None, :, :])

    return state_mixer(
        init=partial(init_retention, g=g, k=k, v=v),
        project=lambda params, x: project(params.heads, x, x),
        recur=recur,
        merge=merged,
        init_state=lambda params, size, dtype: jnp.zeros((g, k, v), dtype),
    )
