"""The forgetting Transformer: every token that is read makes all earlier ones fainter, as a recurrence would."""

from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from minilm.initializers import normal
from minilm.layers.attention.cache import KVCache, append, init_cache
from minilm.layers.attention.core import Dense
from minilm.layers.attention.masks import Causal, Rule
from minilm.layers.attention.multi_head import MultiHeadParams, init_multi_head, merge, project
from minilm.layers.linear import matmul
from minilm.shapes import Mixer, Tokens


class ForgetGateParams(NamedTuple):
    """From a token to one gate for every query head."""

    w_f: Float[Array, "d g r"]
    b_f: Float[Array, "g r"]


class ForgettingParams(NamedTuple):
    """Heads, and the gates by which they forget."""

    multi_head: MultiHeadParams
    gate: ForgetGateParams


class ForgettingCache(NamedTuple):
    """Keys and values, and for each of them what every query head's gates since then add up to, in logarithms."""

    kv: KVCache
    forgotten: Float[Array, "g r s"]


def init_forget_gate(key, d: int, *, g: int, r: int, dtype=jnp.float32) -> ForgetGateParams:
    """Weights N(0, 1/d), biases zero: at first a token leaves about half of what came before it."""
    return ForgetGateParams(w_f=normal(key, (d, g, r), fan_in=d, dtype=dtype), b_f=jnp.zeros((g, r), dtype))


def init_forgetting(
    key, d: int, *, g: int, r: int, k: int, v: int, bias: bool = True, dtype=jnp.float32
) -> ForgettingParams:
    """Heads as `init_multi_head`'s, gates as `init_forget_gate`'s."""
    heads_key, gate_key = jax.random.split(key)
    heads = init_multi_head(heads_key, d, g=g, r=r, k=k, v=v, bias=bias, dtype=dtype)
    return ForgettingParams(heads, init_forget_gate(gate_key, d, g=g, r=r, dtype=dtype))


def init_forgetting_cache(params: ForgettingParams, size: int, dtype=None) -> ForgettingCache:
    """An empty cache of `size` slots, as `init_cache`'s; what is forgotten adds up in float32 or wider."""
    heads = params.multi_head
    forgotten = jnp.zeros((*heads.w_q.shape[1:3], size), jnp.promote_types(heads.w_q.dtype, jnp.float32))
    return ForgettingCache(init_cache(heads, size, dtype), forgotten)


@jax.jit
def log_forget(params: ForgetGateParams, x: Float[Array, "... t d"]) -> Float[Array, "... g r t"]:
    r"""The logarithm of the share of the past that each token keeps, for every query head.

    $$ \log f_t = \log \sigma(x_t W_f + b_f) $$

    In logarithms a gate that is nearly shut keeps its digits, and its gradient.

    Args:
      params: W `(d, g, r)` and b `(g, r)`.
      x: `(..., t, d)`.
    Returns:
      log f `(..., g, r, t)`, at most 0, in float32 or wider.

    Reference: `minilm.reference.attention.forgetting.log_forget`. Paper: arXiv:2503.02130, section 3.

    >>> gate = ForgetGateParams(w_f=jnp.ones((1, 1, 1)), b_f=jnp.zeros((1, 1)))
    >>> log_forget(gate, jnp.array([[-500.0], [-1e4]])).tolist()
    [[[-500.0, -10000.0]]]
    """
    x = x.astype(jnp.promote_types(x.dtype, jnp.float32))
    a = matmul(x, params.w_f.reshape(x.shape[-1], -1)).reshape(*x.shape[:-1], *params.w_f.shape[1:]) + params.b_f
    return jnp.moveaxis(jax.nn.log_sigmoid(a), -3, -1)


@jax.jit
def forgetting_bias(log_forget: Float[Array, "g r t"], query: Tokens, key: Tokens) -> Float[Array, "g r t s"]:
    r"""What the gates between a key and a query add to their score: attention that forgets.

    $$ B_{ts} = \sum_{l\,:\; p_s < p_l \le p_t} \log f_l = F_t - F_s, \qquad F_t = \sum_{l\,:\; p_l \le p_t} \log f_l $$

    A weight is thereby multiplied by the gates of all tokens after its key, up to the query's own. With all gates at 1
    the bias is 0: `dot_product_attention`. With all at one constant it is ALiBi.

    The sum is taken as it stands on the left. The paper subtracts F, whose size grows with the text: in float32, at
    F = −10,000, neighbours would be off by 0.001. Here no digits cancel, and every bias is as exact as its own size.

    Args:
      log_forget: log f of the queries' tokens `(g, r, t)`, at most 0.
      query: where they stand, in the order of their positions. Padding, at position −1, makes nothing forgotten.
      key: where the keys stand, in any order. A token makes keys of its own document forgotten, no others; nor is
        there anything to forget in an empty slot.
    Returns:
      `(g, r, t, s)`, in float32 or wider. Where a key lies behind the query's tokens, as in a cache, what was forgotten
      before them is to be added.

    Reference: `minilm.reference.attention.forgetting.forgetting_bias`. Paper: arXiv:2503.02130, section 3.

    >>> where = Tokens.arange(3)
    >>> forgetting_bias(jnp.array([[[-1.0, -2.0, -4.0]]]), where, where).astype(int).tolist()
    [[[[0, 0, 0], [-2, 0, 0], [-6, -4, 0]]]]
    """
    after = (key.position >= 0) & (key.position < query.position[:, None])
    after &= key.document == query.document[:, None]
    wide = log_forget.astype(jnp.promote_types(log_forget.dtype, jnp.float32))
    return jnp.cumsum(jnp.where(after, wide[..., None], 0), axis=-2)


def forgetting_mixer(
    rule: Rule = Causal(),
    *,
    g: int,
    r: int,
    k: int,
    v: int,
    bias: bool = True,
) -> Mixer:
    """Multi-head attention that forgets: `forgetting_mixer(g=2, r=4, k=16, v=16)`.

    Args:
      rule: who may see whom.
      g, r, k, v: key/value heads, query heads of each, and the widths of a key and of a value.
      bias: whether the projections have one; the gates do.
    Returns:
      a `Mixer` of `ForgettingParams`, whose state is a `ForgettingCache`.
    """

    init = partial(init_forgetting, g=g, r=r, k=k, v=v, bias=bias)

    def to_itself(q, k, v, log_f, position, document):
        tokens = Tokens(position, document)
        return Dense(rule, lambda query, key: forgetting_bias(log_f, query, key))(q, k, v, tokens, tokens)

    def apply(params, x, tokens):
        signature = "(g,r,t,k),(g,t,k),(g,t,v),(g,r,t),(t),(t)->(g,r,t,v)"
        qkv, log_f = project(params.multi_head, x, x), log_forget(params.gate, x)
        o = jnp.vectorize(to_itself, signature=signature)(*qkv, log_f, *tokens)
        return merge(params.multi_head, o.astype(x.dtype))

    def step(params, cache, x, tokens):
        q, k, v = project(params.multi_head, x, x)
        kv = append(cache.kv, k, v, tokens)
        earlier = jnp.where(jnp.isin(kv.tokens.position, tokens.position), 0, cache.forgotten)
        forgotten = earlier[:, :, None] + forgetting_bias(log_forget(params.gate, x), tokens, kv.tokens)
        o = Dense(rule, lambda query, key: forgotten)(q, kv.k, kv.v, tokens, kv.tokens)
        cache = ForgettingCache(kv, forgotten[:, :, -1].astype(cache.forgotten.dtype))
        return cache, merge(params.multi_head, o.astype(x.dtype))

    return Mixer(init=init, apply=apply, init_state=init_forgetting_cache, step=step)
