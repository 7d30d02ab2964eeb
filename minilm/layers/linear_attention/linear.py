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
    random_exponents,
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
      zero (without a single key, or with features that are zero) gets 0, and gives no gradient; nor does one whose
      add up to less than 1e-31 (in float32), once its features are divided by their largest.

    Reference: `minilm.reference.linear_attention.linear.linear_attention`. Paper: arXiv:2006.16236.

    >>> one, v = jnp.ones((1, 2, 1)), jnp.array([[[1.0], [4.0]]])
    >>> linear_attention(jnp.zeros((1, 1, 2)), one, one, v)[1].ravel().tolist()
    [1.0, 2.5]
    """
    q = _over_its_largest(q.astype(state.dtype))
    state, o = decay_chunked(state, q, k, _with_1(v, state), jnp.zeros(q.shape[:2], state.dtype), chunk=chunk)
    return state, _quotient(o[..., :-1], o[..., -1:]).astype(v.dtype)


NOTHING = -1e30
"""m of no key at all: less than any exponent, and finite, so that differences are."""


class ScaledState(NamedTuple):
    r"""S with z as its last column, for every head over $e^m$, a power that grows with the largest exponent so far."""

    matrix: Float[Array, "g k _"]  # v + 1 columns
    m: Float[Array, " g"]


@partial(jax.jit, static_argnames="chunk")
def exponential_attention(
    state: ScaledState,
    a: Float[Array, "g t k"],
    b: Float[Array, "g t k"],
    v: Float[Array, "g t v"],
    *,
    chunk: int = 64,
):
    r"""`linear_attention` of features that are exponentials, none of which need be a number that float32 holds.

    $$ o_t = \frac{\sum_{s \le t} w_{ts} v_s}{\sum_{s \le t} w_{ts}}, \qquad w_{ts} = \sum_j e^{a_{tj} + b_{sj}} $$
    $$ S_t = e^{m_{t-1} - m_t} S_{t-1} + e^{b_t - m_t} v_t^\top, \qquad
       m_t = \max\left(m_{t-1},\; \mathrm{round} \max_j b_{tj}\right) $$

    The quotient takes away what all weights of a query are multiplied by: the largest of its own exponents, and of the
    keys' the largest so far, as in the online softmax. To multiply a state by less than one is to let it fade, so this
    is a recurrence with decays. m is a whole number, that it may have no slope: nothing but its size matters. What
    still vanishes in float32 is a feature of a key below $e^{-87}$ of the largest that any feature of any key had.

    Args:
      state: before the first token `ScaledState(zeros, NOTHING)`, in float32 or wider.
      a, b: logarithms of the features of queries and of keys, `(g, t, k)`; b is −∞ where there is no key.
      v: `(g, t, v)`.
      chunk: tokens that `decay_chunked` takes at once.
    Returns:
      `(state, o)`: the state after the last token, and o `(g, t, v)` in v's dtype; 0 where there is no key.

    Reference: `minilm.reference.linear_attention.linear.exponential_attention`. Papers: arXiv:2009.14794, whose code
    subtracts the largest exponent of all keys; arXiv:1805.02867, which keeps the largest so far.

    >>> empty, zero = ScaledState(jnp.zeros((1, 1, 2)), jnp.array([NOTHING])), jnp.zeros((1, 2, 1))
    >>> far = jnp.array([[[-1000.0], [-1000.0 + jnp.log(3.0)]]])
    >>> exponential_attention(empty, zero + 500, far, jnp.array([[[4.0], [8.0]]]))[1].round(3).tolist()
    [[[4.0], [7.0]]]
    """
    largest, before = jax.lax.cummax(jnp.round(b.max(-1)), axis=1), state.m[:, None]
    m = jnp.where(largest > before, largest, before)
    log_decay = jnp.concatenate([before, m[:, :-1]], axis=1) - m
    q, k = jnp.exp(a - jax.lax.stop_gradient(a.max(-1, keepdims=True))), jnp.exp(b - m[..., None])
    matrix, o = decay_chunked(state.matrix, q, k, _with_1(v, state.matrix), log_decay, chunk=chunk)
    return ScaledState(matrix, m[:, -1]), _quotient(o[..., :-1], o[..., -1:]).astype(v.dtype)


def _with_1(v, state):
    """Values with one more that is always 1, whose state is the normaliser."""
    return jnp.concatenate([v, jnp.ones_like(v[..., :1])], -1).astype(state.dtype)


def _over_its_largest(q):
    """Queries of size 1: the quotient takes their size away, and few numbers hold the square of a small one."""
    largest = jax.lax.stop_gradient(jnp.abs(q).max(-1, keepdims=True))
    return q / jnp.where(largest < _least(q), 1, largest)


@jax.custom_jvp
def _quotient(n, z):
    """n / z, and 0 of nothing. By itself JAX would take its slope with z², which float32 may not hold."""
    return jnp.where(z == 0, 0, n / jnp.where(z == 0, 1, z))


@_quotient.defjvp
def _quotient_jvp(inputs, slopes):
    (_, z), (d_n, d_z), o = inputs, slopes, _quotient(*inputs)
    return o, _quotient(d_n - o * d_z, jnp.where(jnp.abs(z) < _least(z), 0, z))


def _least(x):
    """What may be divided by: over less, a slope may be more than x's dtype holds."""
    return jnp.finfo(x.dtype).tiny / jnp.finfo(x.dtype).eps


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

    def recur(params, state, qkv, tokens):
        (q, k, v), real = qkv, (tokens.position >= 0)[:, None]
        return linear_attention(state, feature_map(q[:, 0]), jnp.where(real, feature_map(k), 0), v, chunk=chunk)

    def init_state(params, size, dtype):
        features = jax.eval_shape(feature_map, jax.ShapeDtypeStruct((k,), dtype)).shape[-1]
        return jnp.zeros((g, features, v + 1), dtype)

    return state_mixer(
        init=_init_heads(g, k, v),
        project=lambda params, x: project(params, x, x),
        recur=recur,
        merge=lambda params, x, o: merge(params, o[..., None, :, :]).astype(x.dtype),
        init_state=init_state,
    )


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

    def recur(params, state, qkv, tokens):
        (q, k, v), real, wide = qkv, (tokens.position >= 0)[:, None], state.matrix.dtype
        exponents = partial(random_exponents, jax.lax.stop_gradient(params.projection))
        a, b = exponents(q[:, 0].astype(wide)), exponents(k.astype(wide))
        return exponential_attention(state, a, jnp.where(real, b, -jnp.inf), v, chunk=chunk)

    return state_mixer(
        init,
        project=lambda params, x: project(params.heads, x, x),
        recur=recur,
        merge=lambda params, x, o: merge(params.heads, o[..., None, :, :]).astype(x.dtype),
        init_state=lambda params, size, dtype: ScaledState(
            jnp.zeros((g, len(params.projection), v + 1), dtype), jnp.full(g, NOTHING, dtype)
        ),
    )


def _init_heads(g, k, v):
    return lambda key, d_model: init_multi_head(key, d_model, g=g, r=1, k=k, v=v, bias=False)
