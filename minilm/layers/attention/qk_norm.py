"""Queries and keys of one size before they meet: their direction decides, and no score explodes."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from minilm.layers.activation import softmax
from minilm.layers.attention.core import Prepared, mix, scores
from minilm.layers.normalization import RMSNormParams, init_rms_norm, rms_norm
from minilm.pytrees import register


class QKNormParams(NamedTuple):
    """The norms of queries and of keys, each shared by all heads."""

    q_norm: RMSNormParams
    k_norm: RMSNormParams


def init_qk_norm(k: int, *, dtype=jnp.float32) -> QKNormParams:
    """Scales 1, for heads of width k."""
    return QKNormParams(q_norm=init_rms_norm(k, dtype), k_norm=init_rms_norm(k, dtype))


def init_temperature(g: int, r: int, length: int, *, dtype=jnp.float32) -> Float[Array, "g r"]:
    """The paper's log₂(n² − n), with n the length of nearly all sequences: a softmax of n keys can then be sharp."""
    if length < 2:
        raise ValueError(f"the temperature begins at log2(n² − n), of n tokens: expected n >= 2, got {length}")
    return jnp.full((g, r), math.log2(length**2 - length), dtype)


@register
@dataclass(frozen=True)
class NormalizedHeads(Prepared):
    r"""Attention among queries and keys normalised head by head: `NormalizedHeads(Dense(Causal()), q_norm, k_norm)`.

    $$ \hat q_t = \frac{q_t}{\mathrm{rms}(q_t)} \odot \gamma_q, \qquad
       \hat k_s = \frac{k_s}{\mathrm{rms}(k_s)} \odot \gamma_k, \qquad
       o = \mathrm{attend}(\hat q, \hat k, v) $$

    Qwen 3 and Gemma 3 do so (OLMo 2 takes one norm over all heads together), and rotate afterwards: what turns queries
    and keys to their positions goes inside, as the `attend` of this one. A cache holds keys as both have left them.

    Papers: arXiv:2010.04245 in the form of arXiv:1910.07467; arXiv:2302.05442, whose norm is the layer norm.
    """

    attend: Callable
    q_norm: RMSNormParams
    k_norm: RMSNormParams

    def prepare(self, q, k, query, key):
        """Queries and keys of length √k, but for their scales."""
        return rms_norm(self.q_norm, q), rms_norm(self.k_norm, k)


@register
@dataclass(frozen=True)
class CosineHeads(Prepared):
    r"""Cosine attention by any attention that multiplies queries and keys: `CosineHeads(Dense(Causal()), scale)`.

    $$ \hat q_t = \tau \sqrt k\, \frac{q_t}{\lVert q_t \rVert}, \qquad
       \hat k_s = \frac{k_s}{\lVert k_s \rVert}, \qquad
       \frac{\hat q_t \cdot \hat k_s}{\sqrt k} = \tau \cos(q_t, k_s) $$

    It gives what `cosine_attention` gives, but for rounding (τ multiplies queries here, and scores there), from keys
    that are brought to length 1 once, before a cache holds them.

    Paper: arXiv:2010.04245.
    """

    attend: Callable
    scale: Float[Array, "g r"]

    def prepare(self, q, k, query, key):
        """Queries of length τ√k and keys of length 1."""
        q_unit, k_unit = _directions(q, k)
        return (self.scale[:, :, None, None] * math.sqrt(q.shape[-1]) * q_unit).astype(q.dtype), k_unit


@jax.jit
def cosine_attention(
    scale: Float[Array, "g r"],
    q: Float[Array, "g r t k"],
    k: Float[Array, "g s k"],
    v: Float[Array, "g s v"],
    mask: Bool[Array, "*#grts"] | bool = True,
    bias: Float[Array, "*#grts"] | float = 0.0,
) -> Float[Array, "g r t v"]:
    r"""Attention by the angle between query and key, at a learned temperature.

    $$ O = \operatorname{softmax}\!\left(\tau \cos(q_t, k_s) + B\right) V, \qquad
       \cos(q, k) = \frac{q \cdot k}{\lVert q \rVert \lVert k \rVert} $$

    No score leaves [−τ, τ]; without a τ above 1 a softmax of cosines would hardly tell keys apart. Where all queries
    and keys are of the length $\ell$, and $\tau = \ell^2 / \sqrt k$, it is `dot_product_attention`; with $\tau =
    \sqrt k$ it is that of `NormalizedHeads` whose scales are 1. A vector of zeros, which has no direction, has cosine 0
    (the norm's ε is that of `rms_norm`).

    Args:
      scale: τ `(g, r)`. The paper learns one for all heads; Swin V2 (arXiv:2111.09883) one for each, as here, but
        divides by it.
      q, k, v: `(g, r, t, k)`, `(g, s, k)`, `(g, s, v)`, in one dtype.
      mask: True where a query may see a key; broadcasts to `(g, r, t, s)`.
      bias: added to the scores; broadcasts likewise.
    Returns:
      `(g, r, t, v)`, in the dtype of v; 0 for a query whose keys are all masked.

    Reference: `minilm.reference.attention.qk_norm.cosine_attention`. Paper: arXiv:2010.04245.

    >>> q, k, v = jnp.array([[[[30.0, 40.0]]]]), jnp.array([[[3.0, 4.0], [-6.0, -8.0]]]), jnp.array([[[8.0], [0.0]]])
    >>> round(cosine_attention(jnp.log(jnp.full((1, 1), 3.0)) / 2, q, k, v).item(), 4)  # weights 3 : 1
    6.0
    """
    cosines = math.sqrt(q.shape[-1]) * scores(*_directions(q, k))
    return mix(softmax(scale[:, :, None, None] * cosines + bias, where=mask), v)


def _directions(q, k):
    """Queries and keys of length 1: a vector of root mean square 1 is √k long."""
    length = math.sqrt(q.shape[-1])
    unit = RMSNormParams(scale=jnp.full(q.shape[-1], 1 / length, q.dtype))
    return rms_norm(unit, q), rms_norm(unit, k)
