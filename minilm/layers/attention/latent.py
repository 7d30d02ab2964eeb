"""Multi-head latent attention: keys and values are remembered as one short vector of a token, whatever the heads."""

import math
from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.tree_util import Partial
from jaxtyping import Array, Bool, Float, Int

from minilm.initializers import normal
from minilm.layers.attention.cache import KVCache, append
from minilm.layers.attention.core import Dense, dot_product_attention, scores
from minilm.layers.attention.masks import Causal, Rule
from minilm.layers.linear import matmul
from minilm.layers.normalization import RMSNormParams, rms_norm
from minilm.layers.position import rotary as rotate
from minilm.shapes import Mixer, Tokens


class LatentParams(NamedTuple):
    """Down to a latent vector and a rotary key, which all heads share, and up again to each head's keys and values.

    The paper's names: W^DKV, W^KR, W^UK, W^UV, W^Q, W^QR, W^O, and the scale of the latent's norm.
    """

    w_down: Float[Array, "d latent"]
    w_k_r: Float[Array, "d rotary"]
    scale: Float[Array, " latent"]
    w_k: Float[Array, "latent g k"]
    w_v: Float[Array, "latent g v"]
    w_q: Float[Array, "d g r k"]
    w_q_r: Float[Array, "d g r rotary"]
    w_o: Float[Array, "g r v d"]


class LatentCache(NamedTuple):
    """Slots for what is remembered of one sequence's tokens, and where they stand; a slot at position −1 is empty."""

    c: Float[Array, "s latent"]
    k_r: Float[Array, "s rotary"]
    tokens: Tokens


def init_latent(
    key, d: int, *, g: int, r: int, k: int, v: int, latent: int, rotary: int, dtype=jnp.float32
) -> LatentParams:
    """Weights N(0, 1/fan_in), scale 1."""
    shapes = {"w_down": (d, latent), "w_k_r": (d, rotary), "w_k": (latent, g, k), "w_v": (latent, g, v)}
    shapes |= {"w_q": (d, g, r, k), "w_q_r": (d, g, r, rotary), "w_o": (g, r, v, d)}
    fans = {"w_k": latent, "w_v": latent, "w_o": g * r * v}
    keys = jax.random.split(key, len(shapes))
    weights = {
        name: normal(one, shape, fan_in=fans.get(name, d), dtype=dtype)
        for one, (name, shape) in zip(keys, shapes.items(), strict=True)
    }
    return LatentParams(scale=jnp.ones(latent, dtype), **weights)


def init_latent_cache(params: LatentParams, size: int, dtype=None) -> LatentCache:
    """An empty cache of `size` slots for attention of these parameters, in their dtype unless given."""
    (_, latent), (_, rotary) = params.w_down.shape, params.w_k_r.shape
    dtype = params.w_down.dtype if dtype is None else dtype
    empty = Tokens(jnp.full(size, -1, jnp.int32), jnp.zeros(size, jnp.int32))
    return LatentCache(c=jnp.zeros((size, latent), dtype), k_r=jnp.zeros((size, rotary), dtype), tokens=empty)


@jax.jit
def project_latent(params: LatentParams, x: Float[Array, "... t d"], position: Int[Array, "... t"]):
    r"""Queries of x, and what is remembered of it.

    $$ q = [x W^Q, \operatorname{rope}(x W^{QR})], \qquad c = \operatorname{RMSNorm}(x W^{DKV}), \qquad
       k^R = \operatorname{rope}(x W^{KR}) $$

    A rotation between $W^{UK}$ and the query would keep the two from being multiplied into one matrix (see
    `absorbed_attention`); so positions are told by a few entries more, apart from the latent vector. The paper
    compresses the query too, which saves memory in training and none in decoding; here it is projected at once, as in
    DeepSeek-V2-Lite.

    Args:
      params: weights of g key/value heads, each with r query heads; r = 1 in the paper.
      x: `(..., t, d)`.
      position: where x stands, `(t,)` or `(..., t)`.
    Returns:
      q `(..., g, r, t, k + rotary)`, c `(..., t, latent)`, k_r `(..., t, rotary)`, in the weights' dtype.

    Reference: `minilm.reference.attention.latent.project_latent`. Paper: arXiv:2405.04434, equations 9 to 18.
    """
    q_n, q_r = (
        jnp.moveaxis(matmul(x, w.reshape(x.shape[-1], -1)).reshape(*x.shape[:-1], *w.shape[1:]), -4, -2)
        for w in (params.w_q, params.w_q_r)
    )
    q = jnp.concatenate([q_n, rotate(q_r, position[..., None, None, :])], -1)
    c = rms_norm(RMSNormParams(params.scale), matmul(x, params.w_down))
    k_r = rotate(matmul(x, params.w_k_r), position)
    return tuple(y.astype(params.w_q.dtype) for y in (q, c, k_r))


@jax.jit
def expand_latent(params: LatentParams, c: Float[Array, "... s latent"], k_r: Float[Array, "... s rotary"]):
    r"""Keys and values of every head, multiplied out of what is remembered: then any attention may follow.

    $$ k = [c\, W^{UK}, k^R], \qquad v = c\, W^{UV} $$

    `dot_product_attention` of these divides by the root of their width k + rotary, as the paper does. Training and
    reading a whole text take this form, whose products are the narrower ones.

    Args:
      params: weights `(latent, g, k)` and `(latent, g, v)`.
      c: `(..., s, latent)`.
      k_r: `(..., s, rotary)`.
    Returns:
      k `(..., g, s, k + rotary)` and v `(..., g, s, v)`, in the dtype of c.

    Reference: `minilm.reference.attention.latent.expand_latent`. Paper: arXiv:2405.04434, equations 10, 16, 18.

    >>> params = init_latent(jax.random.key(0), 3, g=1, r=1, k=1, v=1, latent=2, rotary=2)
    >>> params = params._replace(w_k=jnp.array([[[2.0]], [[0.0]]]), w_v=jnp.array([[[0.0]], [[4.0]]]))
    >>> k, v = expand_latent(params, jnp.array([[5.0, 6.0]]), jnp.array([[7.0, 8.0]]))
    >>> jnp.concatenate([k, v], -1).tolist()
    [[[10.0, 7.0, 8.0, 24.0]]]
    """
    k_n, v = (
        jnp.moveaxis(matmul(c, w.reshape(c.shape[-1], -1)).reshape(*c.shape[:-1], *w.shape[1:]), -3, -2)
        for w in (params.w_k, params.w_v)
    )
    return jnp.concatenate([k_n, jnp.broadcast_to(k_r[..., None, :, :], (*k_n.shape[:-1], k_r.shape[-1]))], -1), v


@jax.jit
def absorbed_attention(
    params: LatentParams,
    q: Float[Array, "g r t width"],
    c: Float[Array, "s latent"],
    k_r: Float[Array, "s rotary"],
    mask: Bool[Array, "*#grts"] | bool = True,
    bias: Float[Array, "*#grts"] | float = 0.0,
) -> Float[Array, "g r t v"]:
    r"""Attention to what is remembered as it stands, without a key or a value of any head.

    $$ A_{ts} = \frac{(W^{UK} q^n_t) \cdot c_s + q^R_t \cdot k^R_s}{\sqrt{k + \mathit{rotary}}}, \qquad
       o_t = \Big(\sum_s w_{ts}\, c_s\Big) W^{UV} $$

    A product may be bracketed either way: the query takes up the matrix that would have made the keys, and the output
    the one that would have made the values. So decoding reads latent + rotary numbers of a token for all heads
    together: multi-query attention of that width. It is `dot_product_attention` of `expand_latent`, number for number.

    Args:
      params: weights `(latent, g, k)` and `(latent, g, v)`.
      q: queries `(g, r, t, k + rotary)`.
      c: `(s, latent)`.
      k_r: rotary keys `(s, rotary)`.
      mask: True where a query may see a key; broadcasts to `(g, r, t, s)`.
      bias: added to the scores; broadcasts likewise.
    Returns:
      `(g, r, t, v)`, in the dtype of c.

    Reference: `minilm.reference.attention.latent.absorbed_attention`. Paper: arXiv:2405.04434, section 2.1.2.

    >>> params = init_latent(jax.random.key(0), 3, g=1, r=1, k=1, v=1, latent=2, rotary=2)
    >>> params = params._replace(w_v=jnp.array([[[0.0]], [[4.0]]]))
    >>> c, k_r = jnp.array([[5.0, 6.0], [5.0, 8.0]]), jnp.ones((2, 2))
    >>> absorbed_attention(params, jnp.zeros((1, 1, 1, 3)), c, k_r).item()
    28.0
    """
    (g, r, t, width), (latent, _, k) = q.shape, params.w_k.shape
    q_n, q_r = jnp.split(q, [k], -1)
    q_c = jax.vmap(matmul)(q_n, jnp.einsum("cgk->gkc", params.w_k))
    mask, bias = (jnp.broadcast_to(m, (g, r, t, len(c))) for m in (mask, bias))
    q_c, q_r, mask, bias = (x.reshape(1, g * r, t, -1) for x in (q_c, q_r, mask, bias))
    # `scores` divides by the root of the width that it is given; the paper's is that of the queries before. (To attend
    # to c and k_r side by side would be one product, and a copy of all that is remembered.)
    q_c, q_r = (x * math.sqrt(x.shape[-1] / width) for x in (q_c, q_r))
    bias = bias + scores(q_r, k_r[None]) if width > k else bias
    o = dot_product_attention(q_c, c[None], c[None], mask, bias)
    return jax.vmap(matmul)(o.reshape(g, r, t, latent), jnp.einsum("cgv->gcv", params.w_v))


@jax.jit
def append_latent(
    cache: LatentCache, c: Float[Array, "t latent"], k_r: Float[Array, "t rotary"], tokens: Tokens
) -> LatentCache:
    r"""Write a chunk of one sequence into the cache, as `append` does: here too padding is written nowhere.

    $$ \mathrm{slot}(p) = p \bmod \mathit{size} $$

    Args:
      cache: `size` slots.
      c, k_r: the chunk's latent vectors `(t, latent)` and rotary keys `(t, rotary)`.
      tokens: where its t tokens stand.
    Returns:
      the cache with the chunk in it.
    Raises:
      ValueError: for a chunk longer than the cache.

    Reference: `minilm.reference.attention.latent.append_latent`.
    """
    one_head = KVCache(k=cache.k_r[None], v=cache.c[None], tokens=cache.tokens)
    one_head = append(one_head, k_r[None], c[None], tokens)
    return LatentCache(c=one_head.v[0], k_r=one_head.k[0], tokens=one_head.tokens)


def latent_mixer(
    rule: Rule = Causal(),
    *,
    g: int,
    r: int,
    k: int,
    v: int,
    latent: int,
    rotary: int,
    attention: Callable = Dense,
) -> Mixer:
    """Multi-head latent attention: `latent_mixer(g=8, r=1, k=16, v=16, latent=64, rotary=8)`.

    Args:
      rule: who may see whom.
      g, r: heads of keys and values, and query heads of each.
      k, v: the widths of a head's key (without its rotary part) and of its value.
      latent: the width of what is remembered of a token, beside its rotary key.
      rotary: the width of that, even.
      attention: of the expanded form: a function of the rule that gives an `attend`, as `softmax_mixer` takes one.
    Returns:
      a `Mixer` of `LatentParams`, whose state is a `LatentCache`. It applies in the expanded form and steps in the
      absorbed one.
    """

    def merged(params, o, dtype):
        o = jnp.moveaxis(o.astype(dtype), -2, -4)
        return matmul(o.reshape(*o.shape[:-3], -1), params.w_o.reshape(-1, params.w_o.shape[-1]))

    def to_itself(q, k, v, position, document):
        tokens = Tokens(position, document)
        return attention(rule)(q, k, v, tokens, tokens)

    def apply(params, x, tokens):
        q, c, k_r = project_latent(params, x, tokens.position)
        attend = jnp.vectorize(to_itself, signature="(g,r,t,k),(g,t,k),(g,t,v),(t),(t)->(g,r,t,v)")
        return merged(params, attend(q, *expand_latent(params, c, k_r), *tokens), x.dtype)

    def step(params, cache, x, tokens):
        q, c, k_r = project_latent(params, x, tokens.position)
        cache = append_latent(cache, c, k_r, tokens)
        absorbed = Dense(rule, attention=Partial(absorbed_attention, params))
        return cache, merged(params, absorbed(q, cache.c, cache.k_r, tokens, cache.tokens), x.dtype)

    init = partial(init_latent, g=g, r=r, k=k, v=v, latent=latent, rotary=rotary)
    return Mixer(init=init, apply=apply, init_state=init_latent_cache, step=step)
