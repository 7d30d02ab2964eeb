"""Linear attention: the softmax's exponential gives way to a product of features, and the cache to a state."""

import math
from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from minilm.layers.attention.multi_head import MultiHeadParams, init_multi_head, merge, project
from minilm.layers.linear_attention.decay import decay_chunked
from minilm.layers.linear_attention.feature_maps import (
    elu_plus_one,
    init_random_features,
    random_features,
    taylor_features,
)
from minilm.layers.linear_attention.state_mixer import state_mixer
from minilm.shapes import Mixer


@partial(jax.jit, static_argnames="chunk")
def linear_attention(
    state: Float[Array, "g k _"],  # v + 1 columns
    q: Float[Array, "g t k"],
    k: Float[Array, "g t k"],
    v: Float[Array, "g t v"],
    *,
    chunk: int = 64,
):
    r"""Causal attention with the weights $q_t \cdot k_s$, which sum to one once divided by their sum.

    $$ o_t = \frac{\sum_{s \le t} (q_t \cdot k_s)\, v_s}{\sum_{s \le t} q_t \cdot k_s}
           = \frac{S_t^\top q_t}{z_t \cdot q_t}, \qquad S_t = S_{t-1} + k_t v_t^\top, \quad z_t = z_{t-1} + k_t $$

    The normaliser z is the state of one more value that is always 1. Queries and keys are features, such as
    `elu_plus_one` of what was projected. Were $\phi(q) \cdot \phi(k) = \exp(q \cdot k / \sqrt k)$, it would be softmax
    attention; that takes infinitely many features, of which `taylor_features` and `random_features` have some.

    Args:
      state: S with z as its last column, `(g, k, v + 1)`, in float32 or wider; zeros before the first token.
      q, k: features `(g, t, k)`; weights that are to be positive want positive features.
      v: `(g, t, v)`.
      chunk: tokens that `decay_chunked` takes at once.
    Returns:
      `(state, o)`: the state after the last token, and o `(g, t, v)` in v's dtype. A query whose weights add up to
      zero (without a single key, or with features that are zero) gets 0, and gives no gradient.

    Reference: `minilm.reference.linear_attention.linear.linear_attention`. Paper: arXiv:2006.16236.

    >>> one, v = jnp.ones((1, 2, 1)), jnp.array([[[1.0], [4.0]]])
    >>> linear_attention(jnp.zeros((1, 1, 2)), one, one, v)[1].ravel().tolist()
    [1.0, 2.5]
    """
    v_and_1 = jnp.concatenate([v, jnp.ones_like(v[..., :1])], -1).astype(state.dtype)
    state, o = decay_chunked(state, q, k, v_and_1, jnp.zeros(q.shape[:2], state.dtype), chunk=chunk)
    total = o[..., -1:]
    return state, jnp.where(total == 0, 0, o[..., :-1] / jnp.where(total == 0, 1, total)).astype(v.dtype)


class PerformerParams(NamedTuple):
    """Heads, and the directions on which Performer's features look; drawn once, and not trained."""

    heads: MultiHeadParams
    projection: Float[Array, "m k"]


def linear_mixer(feature_map: Callable = elu_plus_one, *, g: int, k: int, v: int, chunk: int = 64) -> Mixer:
    """Linear attention (arXiv:2006.16236) as a block takes it: `linear_mixer(g=4, k=16, v=16)`.

    Args:
      feature_map: of queries and keys, `(..., k)` to any width.
      g, k, v: heads, and the widths of a key and of a value before the feature map.
      chunk: as `linear_attention`'s.
    Returns:
      a `Mixer`, whose state is `(g, features, v + 1)`.
    """
    return _mixer(lambda params: (params, feature_map), _init_heads(g, k, v), chunk)


def based_mixer(*, g: int, k: int = 16, v: int, chunk: int = 64) -> Mixer:
    """Based's linear attention (arXiv:2402.18668): the exponential's Taylor series up to the square, of narrow keys.

    Args:
      g, v: heads, and the width of a value.
      k: the width of a key; the features are 1 + k + k² wide, so it is kept at 16.
      chunk: as `linear_attention`'s.
    Returns:
      a `Mixer`, whose state is `(g, 1 + k + k², v + 1)`.
    """
    return linear_mixer(taylor_features, g=g, k=k, v=v, chunk=chunk)


def performer_mixer(*, g: int, k: int, v: int, m: int | None = None, chunk: int = 64) -> Mixer:
    """Performer's FAVOR+ (arXiv:2009.14794): random features whose product is softmax attention's weight on average.

    Args:
      g, k, v: heads, and the widths of a key and of a value.
      m: how many features; $k \\ln k$, as the paper's theorem counts, unless given.
      chunk: as `linear_attention`'s.
    Returns:
      a `Mixer` of `PerformerParams`, whose state is `(g, m, v + 1)`.
    """
    m = math.ceil(k * math.log(k)) if m is None else m

    def init(key, d_model):
        heads_key, features_key = jax.random.split(key)
        return PerformerParams(_init_heads(g, k, v)(heads_key, d_model), init_random_features(features_key, m, k))

    return _mixer(
        lambda params: (params.heads, partial(random_features, jax.lax.stop_gradient(params.projection))), init, chunk
    )


def _init_heads(g, k, v):
    return lambda key, d_model: init_multi_head(key, d_model, g=g, r=1, k=k, v=v, bias=False)


def _mixer(parts, init, chunk):
    """`parts(params)` gives the heads and the feature map."""

    def recur(params, state, qkv, tokens):
        (q, k, v), (_, feature_map) = qkv, parts(params)
        real = (tokens.position >= 0)[:, None]
        return linear_attention(state, feature_map(q[:, 0]), jnp.where(real, feature_map(k), 0), v, chunk=chunk)

    def init_state(params, size, dtype):
        heads, feature_map = parts(params)
        (_, g, k), v = heads.w_k.shape, heads.w_v.shape[-1]
        features = jax.eval_shape(feature_map, jax.ShapeDtypeStruct((k,), dtype)).shape[-1]
        return jnp.zeros((g, features, v + 1), dtype)

    return state_mixer(
        init,
        project=lambda params, x: project(parts(params)[0], x, x),
        recur=recur,
        merge=lambda params, x, o: merge(parts(params)[0], o[..., None, :, :]).astype(x.dtype),
        init_state=init_state,
    )
