"""Attention that never holds its `t × s` scores: the online softmax, better known as flash attention, in plain JAX.

Queries and keys are cut into tiles. While one tile of queries passes over the tiles of keys, it keeps for each query
the largest score m seen so far and, relative to it, the sum l of exponentials and the mixed values o; a new largest
score rescales both. What is kept for the gradient is one number a query, the logarithm of the softmax's denominator,
from which every tile of weights is computed again.
"""

import math
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from minilm.pytrees import register
from minilm.shapes import Tokens


@partial(jax.jit, static_argnames=("t_block", "s_block"))
def blockwise_attention(
    q: Float[Array, "g r t k"],
    k: Float[Array, "g s k"],
    v: Float[Array, "g s v"],
    query: Tokens,
    key: Tokens,
    rule,
    bias=None,
    *,
    t_block: int = 128,
    s_block: int = 128,
) -> tuple[Float[Array, "g r t v"], Float[Array, "g r t"]]:
    r"""Dot-product attention of one sequence, tile by tile.

    $$ m' = \max(m, \max_s a_s), \qquad p_s = e^{a_s - m'}, \qquad c = e^{m - m'} $$
    $$ l' = c\, l + \sum_s p_s, \qquad o' = c\, o + \sum_s p_s\, v_s $$

    over the scores $a$ of one tile of keys; at the end the output is $o / l$ and $\mathrm{lse} = m + \ln l$. Tiles that
    lie outside of `rule.reach` are never visited. With one tile it *is* `dot_product_attention`.

    Args:
      q, k, v: `(g, r, t, k)`, `(g, s, k)`, `(g, s, v)`, in one dtype, in which the products are taken (their sums, and
        all else, in float32 or wider).
      query, key: where queries and keys stand, `(t,)` and `(s,)`; keys at position −1 are seen by none.
      rule: who may see whom, `rule(query, key)` and `rule.reach(first, last)`, as in `masks`.
      bias: `bias(query, key)`, as in `biases`, or None.
      t_block, s_block: queries and keys in a tile.
    Returns:
      the output `(g, r, t, v)`, in v's dtype, and the logarithm of the sum of the exponentials of each query's scores,
      `(g, r, t)`, in float32 or wider; 0 and −∞ for a query that sees nothing. Both have gradients.
    Raises:
      ValueError: the gradient of its gradient is asked for.

    Reference: `minilm.reference.attention.blockwise.blockwise_attention`. Papers: arXiv:1805.02867 (online softmax),
    arXiv:2112.05682 (in blocks), arXiv:2205.14135, arXiv:2307.08691 (flash attention).
    """
    t, blocks = q.shape[2], (min(t_block, q.shape[2]), min(s_block, k.shape[1]))
    o, lse = _attention(blocks, *_padded(blocks, q, k, v, query, key), rule, bias)
    return o[:, :, :t], lse[:, :, :t]


@partial(jax.jit, static_argnames=("t_block", "s_block"))
def blockwise_gradients(
    q: Float[Array, "g r t k"],
    k: Float[Array, "g s k"],
    v: Float[Array, "g s v"],
    query: Tokens,
    key: Tokens,
    rule,
    bias,
    o: Float[Array, "g r t v"],
    lse: Float[Array, "g r t"],
    d_o: Float[Array, "g r t v"],
    d_lse: Float[Array, "g r t"],
    *,
    t_block: int = 128,
    s_block: int = 128,
):
    r"""What some of the keys contribute to the gradient of an attention that saw these keys and perhaps more.

    $$ p_{ts} = e^{a_{ts} - \mathrm{lse}_t}, \qquad
       \bar a_{ts} = p_{ts} \left( \bar o_t \cdot v_s - \bar o_t \cdot o_t + \overline{\mathrm{lse}}_t \right) $$
    $$ \bar v_s = \sum_t p_{ts}\, \bar o_t, \qquad \bar q_t = \sum_s \bar a_{ts}\, k_s / \sqrt{k}, \qquad
       \bar k_s = \sum_t \bar a_{ts}\, q_t / \sqrt{k} $$

    Of the other keys it needs no more than what they left in o and lse. So the gradient of an attention whose keys lie
    in several places is a sum over the places.

    Args:
      q, k, v, query, key, rule, bias, t_block, s_block: as `blockwise_attention`'s.
      o, lse: what attention to all keys gave, `(g, r, t, v)` and `(g, r, t)`.
      d_o, d_lse: the gradients of both.
    Returns:
      the contributions to the gradients of q, k, v and bias, each in its dtype (None for a bias of None).

    Reference: `minilm.reference.attention.blockwise.blockwise_gradients`. Papers: arXiv:2205.14135, appendix B,
    arXiv:2310.01889.
    """
    t, s, blocks = q.shape[2], k.shape[1], (min(t_block, q.shape[2]), min(s_block, k.shape[1]))
    arguments = _padded(blocks, q, k, v, query, key)
    o, d_o, d_lse = (_pad(x, 2, blocks[0]) for x in (o, d_o, d_lse))
    lse = lse.astype(jnp.promote_types(lse.dtype, jnp.float32))
    lse = _pad(lse, 2, blocks[0], constant_values=jnp.inf)  # of which every weight is 0
    d_q, d_k, d_v, *_, d_bias = _attention_backward(blocks, (*arguments, rule, bias, o, lse), (d_o, d_lse))
    return d_q[:, :, :t], d_k[:, :s], d_v[:, :s], d_bias


@register
@dataclass(frozen=True)
class Blockwise:
    """`Dense` without its scores in memory: `Blockwise(Causal())`."""

    rule: Any
    bias: Any = None
    t_block: int = field(default=128, metadata={"static": True})
    s_block: int = field(default=128, metadata={"static": True})

    def __call__(self, q, k, v, query, key):
        """Attention of one sequence, `(g, r, t, v)`."""
        blocks = {"t_block": self.t_block, "s_block": self.s_block}
        return blockwise_attention(q, k, v, query, key, self.rule, self.bias, **blocks)[0]


def _once_differentiable(backward):
    """A backward pass `(blocks, saved, d_out)` through tiles, of which there is no gradient, and which says so."""
    guarded = jax.custom_vjp(backward, nondiff_argnums=(0,))

    def forward(blocks, saved, d_out):
        return backward(blocks, saved, d_out), None

    def refuse(blocks, _, d):
        raise ValueError(
            "Attention in tiles has a gradient and no second derivative: take one that holds all scores, "
            "`Dense(rule, bias)` or the backend 'dense'."
        )

    guarded.defvjp(forward, refuse)
    return guarded


@partial(jax.custom_vjp, nondiff_argnums=(0,))
def _attention(blocks, q, k, v, query, key, rule, bias):
    """All lengths divide by their blocks.

    A tile has its keys in rows and the queries of all its heads in columns, `(g, s, r t)`; m, l, o are `(g, ·, r t)`.
    So it is for the backward pass, which must round scores just as they were here, since it takes their exponentials.
    """
    (t_block, s_block), (g, r, t, _), wide = blocks, q.shape, jnp.promote_types(q.dtype, jnp.float32)
    visited = _visited(blocks, query, key, rule)

    def query_tile(i, carry):
        q_i, query_i = _columns(q, i, t_block), _tile(query, i, t_block, 0)

        def key_tile(j, carry):
            m, l, o = carry
            k_j, v_j, key_j = _tile(k, j, s_block, 1), _tile(v, j, s_block, 1), _tile(key, j, s_block, 0)
            a = _scores(q_i, k_j, query_i, key_j, rule, bias)
            m_new = jnp.maximum(m, a.max(1, keepdims=True))
            p = jnp.exp(a - m_new)
            c = jnp.exp(m - m_new)
            return m_new, c * l + p.sum(1, keepdims=True), c * o + _dot("gsv,gsn->gvn", v_j, p.astype(v.dtype))

        # The smallest number instead of −∞, which masked scores are: no difference of the two is then ever NaN.
        m = jnp.full((g, 1, r * t_block), jnp.finfo(wide).min, wide)
        start = m, jnp.zeros_like(m), jnp.zeros((g, v.shape[2], r * t_block), wide)
        m, l, o = jax.lax.fori_loop(*_interval(visited[i]), key_tile, start)
        o = (o / jnp.where(l == 0, 1, l)).mT.reshape(g, r, t_block, -1)
        lse = (m + jnp.log(l)).reshape(g, r, t_block)
        return _put(carry[0], o.astype(v.dtype), i, 2), _put(carry[1], lse, i, 2)

    nothing = jnp.zeros((g, r, t, v.shape[2]), v.dtype), jnp.zeros((g, r, t), wide)
    return jax.lax.fori_loop(0, t // t_block, query_tile, nothing)


def _attention_forward(blocks, q, k, v, query, key, rule, bias):
    o, lse = _attention(blocks, q, k, v, query, key, rule, bias)
    return (o, lse), (q, k, v, query, key, rule, bias, o, lse)


@_once_differentiable
def _attention_backward(blocks, saved, d_out):
    """One pass over the tiles that were visited, keys outside, queries inside.

    o_t = sum_s p_ts v_s            gives  d_v_s = sum_t p_ts d_o_t,  d_p_ts = d_o_t · v_s
    p_ts = exp(a_ts − lse_t)        gives  d_a_ts = p_ts (d_p_ts − d_o_t · o_t + d_lse_t)
    a_ts = q_t · k_s / √k + b_ts    gives  d_q_t = sum_s d_a_ts k_s / √k,  d_k_s = sum_t d_a_ts q_t / √k,  d_b = d_a

    With keys in rows p and d_a, the largest arrays, enter three products as they lie; the smaller k and d_q are turned.
    """
    q, k, v, query, key, rule, bias, o, lse = saved
    (d_o, d_lse), (t_block, s_block), (g, r, t, width), wide = d_out, blocks, q.shape, lse.dtype
    visited = _visited(blocks, query, key, rule)
    # Not (d_o * o).sum(-1), for which XLA's library for CPUs takes twelve times as long.
    shift = _dot("grtv,grtv->grt", d_o, o) - d_lse
    lse, shift = jnp.where(jnp.isneginf(lse), 0, lse)[..., None], shift[..., None]

    def key_tile(j, carry):
        d_q, d_k, d_v, d_bias = carry
        k_j, v_j, key_j = _tile(k, j, s_block, 1), _tile(v, j, s_block, 1), _tile(key, j, s_block, 0)

        def query_tile(i, carry):
            d_q, d_k_j, d_v_j, d_bias = carry
            q_i, d_o_i, query_i = _columns(q, i, t_block), _columns(d_o, i, t_block), _tile(query, i, t_block, 0)
            a = _scores(q_i, k_j, query_i, key_j, rule, bias)
            p = jnp.exp(a - _columns(lse, i, t_block))
            d_a = p * (_dot("gsv,gvn->gsn", v_j, d_o_i) - _columns(shift, i, t_block))
            d_b = jnp.moveaxis(d_a.reshape(g, s_block, r, t_block), 1, 3)
            d_bias = jax.tree.map(_add, d_bias, _bias_gradient(bias, query_i, key_j, d_b))
            d_a = (d_a / math.sqrt(width)).astype(q.dtype)
            d_q_i = _dot("gsk,gsn->gkn", k_j, d_a).reshape(g, width, r, t_block)
            d_q = _put(d_q, _tile(d_q, i, t_block, 3) + d_q_i, i, 3)
            d_k_j += _dot("gsn,gkn->gsk", d_a, q_i)
            d_v_j += _dot("gsn,gvn->gsv", p.astype(v.dtype), d_o_i)
            return d_q, d_k_j, d_v_j, d_bias

        nothing = jnp.zeros(k_j.shape, wide), jnp.zeros(v_j.shape, wide)
        d_q, d_k_j, d_v_j, d_bias = jax.lax.fori_loop(*_interval(visited[:, j]), query_tile, (d_q, *nothing, d_bias))
        return d_q, _put(d_k, d_k_j.astype(k.dtype), j, 1), _put(d_v, d_v_j.astype(v.dtype), j, 1), d_bias

    nothing = jnp.zeros((g, width, r, t), wide), *jax.tree.map(jnp.zeros_like, (k, v, bias))
    d_q, d_k, d_v, d_bias = jax.lax.fori_loop(0, k.shape[1] // s_block, key_tile, nothing)
    return jnp.moveaxis(d_q, 1, 3).astype(q.dtype), d_k, d_v, None, None, None, d_bias


_attention.defvjp(_attention_forward, _attention_backward)


def _scores(q, k, query, key, rule, bias):
    """Those of `core.scores`, with the bias added, −∞ where the rule forbids or the key's slot is empty."""
    (g, s, width), t = k.shape, query.position.shape[0]
    r = q.shape[2] // t

    def turned(x):
        return jnp.moveaxis(jnp.broadcast_to(x, (g, r, t, s)), 3, 1).reshape(g, s, r * t)

    a = _dot("gsk,gkn->gsn", k, q) / math.sqrt(width)
    a = a if bias is None else a + turned(bias(query, key))
    return jnp.where(turned(rule(query, key) & (key.position >= 0)), a, -jnp.inf)


def _bias_gradient(bias, query, key, d_a):
    if bias is None:
        return None
    b, pullback = jax.vjp(lambda bias: jnp.broadcast_to(bias(query, key), d_a.shape), bias)
    return pullback(d_a.astype(b.dtype))[0]


def _add(total, d):
    return total if d.dtype == jax.dtypes.float0 else total + d  # what is no float, as an index, has no gradient


def _visited(blocks, query, key, rule):
    """Which tiles of queries, `(t / t_block,)`, may need which tiles of keys, `(s / s_block,)`."""
    (t_block, s_block), there = blocks, key.position >= 0
    queries = jax.tree.map(lambda x: x.reshape(-1, t_block), query)
    first, last = jax.tree.map(lambda x: x.min(1), queries), jax.tree.map(lambda x: x.max(1), queries)
    low, high = rule.reach(first, last)

    def overlap(x, low, high):
        limits = jnp.iinfo(x.dtype)
        first = jnp.where(there, x, limits.max).reshape(-1, s_block).min(1)
        last = jnp.where(there, x, limits.min).reshape(-1, s_block).max(1)
        low, high = (jnp.broadcast_to(bound, queries.position.shape[:1])[:, None] for bound in (low, high))
        return (first <= high) & (low <= last)

    some = there.reshape(-1, s_block).any(1)
    return (
        some & overlap(key.position, low.position, high.position) & overlap(key.document, low.document, high.document)
    )


def _interval(visited):
    """From the first True to behind the last."""
    return jnp.argmax(visited), jnp.where(visited.any(), visited.shape[0] - jnp.argmax(visited[::-1]), 0)


def _padded(blocks, q, k, v, query, key):
    """All lengths to multiples of their blocks; the keys that are added stand nowhere."""
    t_block, s_block = blocks
    query = jax.tree.map(lambda x: _pad(x, 0, t_block, mode="edge"), query)
    key = Tokens(_pad(key.position, 0, s_block, constant_values=-1), _pad(key.document, 0, s_block))
    return _pad(q, 2, t_block), _pad(k, 1, s_block), _pad(v, 1, s_block), query, key


def _pad(x, axis, block, **how):
    widths = [(0, -x.shape[axis] % block if a == axis else 0) for a in range(x.ndim)]
    return jnp.pad(x, widths, **how)


def _tile(x, i, block, axis):
    return jax.tree.map(lambda x: jax.lax.dynamic_slice_in_dim(x, i * block, block, axis), x)


def _columns(x, i, block):
    """A tile of queries `(g, r, t, ·)` turned to `(g, ·, r t)`."""
    tile = _tile(x, i, block, 2)
    return tile.reshape(tile.shape[0], -1, tile.shape[3]).mT


def _put(x, tile, i, axis):
    return jax.lax.dynamic_update_slice_in_dim(x, tile, i * tile.shape[axis], axis)


def _dot(subscripts, a, b):
    return jnp.einsum(subscripts, a, b, preferred_element_type=jnp.promote_types(a.dtype, jnp.float32))
