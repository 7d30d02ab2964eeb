"""Multi-head attention: project, attend, merge. Multi-query, grouped and cross-attention are the same three lines."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from minilm.initializers import normal
from minilm.layers.attention.cache import KVCache, append_and_attend, init_cache
from minilm.layers.linear import matmul
from minilm.shapes import Mixer, Tokens


class MultiHeadParams(NamedTuple):
    """g key/value heads, each serving r query heads: r = 1 is multi-head, g = 1 multi-query attention, else grouped.

    Biases are absent (None), all or singly.
    """

    w_q: Float[Array, "d g r k"]
    w_k: Float[Array, "d g k"]
    w_v: Float[Array, "d g v"]
    w_o: Float[Array, "g r v d"]
    b_q: Float[Array, "g r k"] | None
    b_k: Float[Array, "g k"] | None
    b_v: Float[Array, "g v"] | None
    b_o: Float[Array, " d"] | None


class LearnedParams(NamedTuple):
    """Heads, and what the attention between them has learned."""

    multi_head: MultiHeadParams
    attend: Any


def init_multi_head(
    key,
    d: int,
    *,
    g: int,
    r: int,
    k: int,
    v: int,
    bias: bool = True,
    deviation: float | None = None,
    out_deviation: float | None = None,
    dtype=jnp.float32,
) -> MultiHeadParams:
    """Random weights, zero biases.

    The weights' standard deviation is 1/√fan_in unless given: `deviation` for those of q, k and v, `out_deviation` for
    that of the output.
    """
    keys = jax.random.split(key, 4)
    shapes = ((d, g, r, k), (d, g, k), (d, g, v), (g, r, v, d))
    fans, deviations = (d, d, d, g * r * v), (deviation, deviation, deviation, out_deviation)
    w_q, w_k, w_v, w_o = (
        normal(key, shape, fan_in=fan, dtype=dtype) if scale is None else scale * normal(key, shape, dtype=dtype)
        for key, shape, fan, scale in zip(keys, shapes, fans, deviations, strict=True)
    )
    b_q, b_k, b_v, b_o = (
        jnp.zeros(shape, dtype) if bias else None for shape in (w_q.shape[1:], w_k.shape[1:], w_v.shape[1:], (d,))
    )
    return MultiHeadParams(w_q=w_q, w_k=w_k, w_v=w_v, w_o=w_o, b_q=b_q, b_k=b_k, b_v=b_v, b_o=b_o)


@jax.jit
def project(params: MultiHeadParams, x: Float[Array, "... t d"], memory: Float[Array, "... s m"]):
    r"""Queries of x, keys and values of the memory, which is x itself in self-attention.

    $$ Q = x W_q + b_q, \qquad K = m W_k + b_k, \qquad V = m W_v + b_v $$

    Args:
      params: weights `(d, g, r, k)`, `(d, g, k)`, `(d, g, v)`.
      x: `(..., t, d)`.
      memory: `(..., s, m)`, of the width m that w_k and w_v take.
    Returns:
      q `(..., g, r, t, k)`, k `(..., g, s, k)`, v `(..., g, s, v)`, in the weights' dtype.

    Reference: `minilm.reference.attention.multi_head.project`.
    """
    q = jnp.moveaxis(_heads(params.w_q, params.b_q, x), -4, -2)
    k = jnp.moveaxis(_heads(params.w_k, params.b_k, memory), -3, -2)
    v = jnp.moveaxis(_heads(params.w_v, params.b_v, memory), -3, -2)
    return q, k, v


@jax.jit
def merge(params: MultiHeadParams, o: Float[Array, "... g r t v"]) -> Float[Array, "... t d"]:
    r"""The heads' outputs, side by side, through one matrix.

    $$ y_t = \sum_{g,r} o_{grt} W_o^{gr} + b_o $$

    Args:
      params: w_o `(g, r, v, d)`, b_o `(d,)` or None.
      o: `(..., g, r, t, v)`.
    Returns:
      y `(..., t, d)`, in o's dtype.

    Reference: `minilm.reference.attention.multi_head.merge`.
    """
    o = jnp.moveaxis(o, -2, -4)
    y = matmul(o.reshape(*o.shape[:-3], -1), params.w_o.reshape(-1, params.w_o.shape[-1]))
    return y if params.b_o is None else y + params.b_o.astype(y.dtype)


def multi_head(
    params: MultiHeadParams,
    x: Float[Array, "... t d"],
    tokens: Tokens,
    attend: Callable,
    memory: Float[Array, "... s m"] | None = None,
    memory_tokens: Tokens | None = None,
):
    r"""Attention with several heads, each in its own projection of the input.

    $$ \mathrm{MultiHead}(x) = \mathrm{merge}\left(\mathrm{attend}(Q, K, V)\right) $$

    Projecting and merging treat every position alone, so they take all leading axes at once; `attend` is written for
    one sequence and mapped over them.

    Args:
      params: weights of g key/value heads, each with r query heads.
      x: `(..., t, d)`.
      tokens: where x stands, `(t,)` or `(..., t)`.
      attend: `attend(q, k, v, query, key)` of one sequence, such as `Dense(Causal())`. If it returns a pair (out,
        weights), so does this.
      memory: what to attend to, `(..., s, m)`; x itself unless given.
      memory_tokens: where the memory stands, `(s,)` or `(..., s)`.
    Returns:
      y `(..., t, d)`, in x's dtype.

    Reference: `minilm.reference.attention.multi_head.multi_head`. Papers: arXiv:1706.03762, arXiv:1911.02150,
    arXiv:2305.13245.
    """
    if (memory is None) != (memory_tokens is None):
        raise ValueError("memory and memory_tokens go together: expected both or neither, got one of them")
    memory, memory_tokens = (x, tokens) if memory is None else (memory, memory_tokens)
    q, k, v = project(params, x, memory)
    for _ in x.shape[:-2]:
        where = [jax.tree.map(lambda leaf: 0 if leaf.ndim > 1 else None, t) for t in (tokens, memory_tokens)]
        attend = jax.vmap(attend, in_axes=(0, 0, 0, *where))
    return _merged(params, attend(q, k, v, tokens, memory_tokens), x.dtype)


def multi_head_step(params: MultiHeadParams, cache: KVCache, x: Float[Array, "t d"], tokens: Tokens, attend: Callable):
    r"""Read a chunk of one sequence: what `multi_head` gives for its tokens, the earlier ones taken from the cache.

    $$ y = \operatorname{merge}(\operatorname{attend}(q, [K, k], [V, v])) \quad\text{with}\quad q, k, v \text{ of } x $$

    `append_and_attend` writes and attends.

    Args:
      params: as `multi_head`'s.
      cache: keys and values of the tokens before.
      x: the chunk, `(t, d)`.
      tokens: where it stands, `(t,)`; position −1 is padding.
      attend: as `multi_head`'s.
    Returns:
      `(cache, y)`: the cache with the chunk in it, and y `(t, d)`, in x's dtype.

    Reference: `minilm.reference.attention.multi_head.multi_head_step`.
    """
    q, k, v = project(params, x, x)
    cache, out = append_and_attend(cache, q, k, v, tokens, attend)
    return cache, _merged(params, out, x.dtype)


def softmax_mixer(attend: Callable, *, g: int, r: int, k: int, v: int, bias: bool = True) -> Mixer:
    """Multi-head attention as a block takes it: `softmax_mixer(Dense(Causal()), g=2, r=4, k=16, v=16)`.

    Args:
      attend: as `multi_head`'s.
      g, r, k, v: key/value heads, query heads of each, and the widths of a key and of a value.
      bias: whether the projections have one.
    Returns:
      a `Mixer`, whose state is a `KVCache`.
    """
    return Mixer(
        init=lambda key, d_model: init_multi_head(key, d_model, g=g, r=r, k=k, v=v, bias=bias),
        apply=lambda params, x, tokens: multi_head(params, x, tokens, attend),
        init_state=init_cache,
        step=lambda params, cache, x, tokens: multi_head_step(params, cache, x, tokens, attend),
    )


def learned_mixer(
    init_attend: Callable, attend_of: Callable, *, g: int, r: int, k: int, v: int, bias: bool = True
) -> Mixer:
    """`softmax_mixer` of an attention that has parameters of its own.

    Args:
      init_attend: a key gives those parameters.
      attend_of: they give the `attend`: `lambda sink: Dense(Causal(), attention=Partial(sink_attention, sink))`.
      g, r, k, v, bias: as `softmax_mixer`'s.
    Returns:
      a `Mixer` of `LearnedParams`, whose state is a `KVCache`.
    """

    def init(key, d_model):
        heads_key, attend_key = jax.random.split(key)
        heads = init_multi_head(heads_key, d_model, g=g, r=r, k=k, v=v, bias=bias)
        return LearnedParams(heads, init_attend(attend_key))

    return Mixer(
        init=init,
        apply=lambda params, x, tokens: multi_head(params.multi_head, x, tokens, attend_of(params.attend)),
        init_state=lambda params, size, dtype=None: init_cache(params.multi_head, size, dtype),
        step=lambda params, cache, x, tokens: multi_head_step(
            params.multi_head, cache, x, tokens, attend_of(params.attend)
        ),
    )


def _heads(w, b, x):
    y = matmul(x, w.reshape(w.shape[0], -1)).reshape(*x.shape[:-1], *w.shape[1:])
    return (y if b is None else y + b.astype(y.dtype)).astype(w.dtype)


def _merged(params, out, dtype):
    o, *weights = out if isinstance(out, tuple) else (out,)
    y = merge(params, o.astype(dtype))
    return (y, *weights) if weights else y
