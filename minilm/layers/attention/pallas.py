"""Blockwise attention as three kernels in Pallas, which Triton compiles for GPUs and Mosaic for TPUs.

The algorithm is that of `blockwise`, and so are its rules, its biases and its tiles. A kernel runs once for every cell
of a grid, and what it is given are references: reading one loads a piece of an array into fast memory. Here a cell
holds one tile of one head and loops over the tiles that it may need: tiles of keys for queries (the forward kernel, and
that of q's gradient), tiles of queries for keys (that of k's and v's). No two cells ever write to one place.

How a kernel runs is decided by what the program is compiled for, in `_launch` and nowhere else: on a CPU it is
interpreted, which is for tests; for CUDA and TPUs it is compiled, also where a CPU exports a program for them. (JAX
0.12 still compiles Pallas by Triton, but warns that a later version will not.)
"""

import math
from dataclasses import dataclass, field
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl
from jax.experimental.pallas import tpu, triton
from jaxtyping import Array, Float

from minilm.layers.attention.blockwise import (
    _bias_gradient,
    _dot,
    _interval,
    _once_differentiable,
    _padded,
    _visited,
)
from minilm.pytrees import register
from minilm.shapes import Tokens

SHORTEST = 16  # rows of a tile, for Triton multiplies no fewer, and powers of two alone


@partial(jax.jit, static_argnames=("t_block", "s_block"))
def pallas_attention(
    q: Float[Array, "g r t k"],
    k: Float[Array, "g s k"],
    v: Float[Array, "g s v"],
    query: Tokens,
    key: Tokens,
    rule,
    bias=None,
    *,
    t_block: int = 64,
    s_block: int = 64,
) -> tuple[Float[Array, "g r t v"], Float[Array, "g r t"]]:
    r"""Dot-product attention of one sequence, by kernels: `blockwise_attention` on other hardware.

    $$ a_{ts} = \frac{q_t \cdot k_s}{\sqrt{k}} + b_{ts}, \qquad p_{ts} = e^{a_{ts} - \mathrm{lse}_t}, \qquad
       o_t = \sum_s p_{ts}\, v_s $$
    $$ \bar a_{ts} = p_{ts} (\bar o_t \cdot v_s - \bar o_t \cdot o_t + \overline{\mathrm{lse}}_t), \qquad
       \bar q_t = \sum_s \bar a_{ts} \frac{k_s}{\sqrt{k}}, \qquad \bar k_s = \sum_t \bar a_{ts} \frac{q_t}{\sqrt{k}},
       \qquad \bar v_s = \sum_t p_{ts}\, \bar o_t $$

    Rule and bias are called inside of the kernels, a tile at a time, so that they are the same objects that every other
    attention takes. Hence a rule may hold numbers and no arrays; the arrays of a bias end in the axes (g, r), since a
    cell is given its own head's; and neither may look anything up. `backends` asks all of this beforehand.

    Args:
      q, k, v, query, key, rule, bias: as `blockwise_attention`'s.
      t_block, s_block: queries and keys in a tile, powers of two where it is compiled. In tiles of 64, heads of width
        128 in float32 fit what a GPU can share between threads.
    Returns:
      the output `(g, r, t, v)`, in v's dtype, and the logarithm of the sum of the exponentials of each query's scores,
      `(g, r, t)`, in float32 or wider; 0 and −∞ for a query that sees nothing. Both have gradients.
    Raises:
      ValueError: the gradient of its gradient is asked for.

    Reference: `minilm.reference.attention.pallas.pallas_attention`. Papers: arXiv:2205.14135, arXiv:2307.08691.
    """
    t, s = q.shape[2], k.shape[1]
    t_block, s_block = (min(block, max(SHORTEST, pl.next_power_of_2(n))) for block, n in ((t_block, t), (s_block, s)))
    q, k, v, query, key = _padded((t_block, s_block), q, k, v, query, key)
    bias = jax.tree.map(lambda x: jnp.moveaxis(x, (-2, -1), (0, 1))[..., None, None], bias)
    o, lse = _attention((t_block, s_block), q, k, v, query, key, rule, bias)
    return o[:, :, :t], lse[:, :, :t, 0]


@register
@dataclass(frozen=True)
class Pallas:
    """`Blockwise` as kernels: `Pallas(Causal())`."""

    rule: Any
    bias: Any = None
    t_block: int = field(default=64, metadata={"static": True})
    s_block: int = field(default=64, metadata={"static": True})

    def __call__(self, q, k, v, query, key):
        """Attention of one sequence, `(g, r, t, v)`."""
        blocks = {"t_block": self.t_block, "s_block": self.s_block}
        return pallas_attention(q, k, v, query, key, self.rule, self.bias, **blocks)[0]


# ── the kernels ──────────────────────────────────────────────────────────────────────────────────────────────────────


class _Inputs(NamedTuple):
    """What a kernel reads; `_LETTERS` names the axes, of which it is given its own g, r and tile, and all the rest."""

    q: Any
    k: Any
    v: Any
    query: Any
    key: Any
    rule: Any
    bias: Any
    interval: Any  # from which tile of the other axis, and to behind which
    lse: Any = None
    shift: Any = None
    d_o: Any = None


_LETTERS = _Inputs("grtk", "gsk", "gsv", "..", "..", ".", "gr", ".", "grt1", "grt1", "grtv")


def _forward_kernel(block, x, o, lse):
    """One tile of queries, over tiles of keys: the online softmax of `blockwise`."""
    q, query, (rule, bias) = x.q[...], _row(x.query, _own()), _asked(x)
    wide, t = lse.dtype, q.shape[0]

    def key_tile(j, carry):
        m, l, mixed = carry
        (k, v), key = _tile((x.k, x.v), j, block), _row(x.key, j)
        a = _scores(q, k, query, key, rule, bias)
        m_new = jnp.maximum(m, a.max(1, keepdims=True))
        p, c = jnp.exp(a - m_new), jnp.exp(m - m_new)
        return m_new, c * l + p.sum(1, keepdims=True), c * mixed + _dot("ts,sv->tv", p.astype(v.dtype), v)

    m = jnp.full((t, 1), jnp.finfo(wide).min, wide)
    m, l, mixed = _loop(x, key_tile, (m, jnp.zeros_like(m), jnp.zeros((t, o.shape[1]), wide)))
    o[...] = (mixed / jnp.where(l == 0, 1, l)).astype(o.dtype)
    lse[...] = m + jnp.log(l)


def _query_gradient_kernel(block, x, d_q, d_bias):
    """One tile of queries, over tiles of keys: the gradient of q, and of the bias what this tile adds to it."""
    q, lse, shift, d_o = _read((x.q, x.lse, x.shift, x.d_o))
    query, (rule, bias) = _row(x.query, _own()), _asked(x)

    def key_tile(j, carry):
        d_q, d_bias = carry
        (k, v), key = _tile((x.k, x.v), j, block), _row(x.key, j)
        _, d_a = _weights_and_gradient(q, k, v, query, key, rule, bias, lse, shift, d_o)
        d_bias = jax.tree.map(jnp.add, d_bias, _bias_gradient(bias, query, key, d_a[None, None]))
        return d_q + _dot("ts,sk->tk", _scaled(d_a, k), k), d_bias

    mine, of_bias = _loop(x, key_tile, (jnp.zeros(q.shape, lse.dtype), jax.tree.map(jnp.zeros_like, bias)))
    d_q[...] = mine.astype(d_q.dtype)
    for reference, value in zip(jax.tree.leaves(d_bias), jax.tree.leaves(of_bias), strict=True):
        reference[...] = value


def _key_gradient_kernel(block, x, d_k, d_v):
    """One tile of keys, over tiles of queries: what one head of queries adds to the gradients of k and v."""
    k, v, key, (rule, bias) = x.k[...], x.v[...], _row(x.key, _own()), _asked(x)

    def query_tile(i, carry):
        d_k, d_v = carry
        (q, lse, shift, d_o), query = _tile((x.q, x.lse, x.shift, x.d_o), i, block), _row(x.query, i)
        p, d_a = _weights_and_gradient(q, k, v, query, key, rule, bias, lse, shift, d_o)
        return d_k + _dot("ts,tk->sk", _scaled(d_a, q), q), d_v + _dot("ts,tv->sv", p.astype(v.dtype), d_o)

    d_k[...], d_v[...] = _loop(x, query_tile, (jnp.zeros(k.shape, d_k.dtype), jnp.zeros(v.shape, d_v.dtype)))


def _scores(q, k, query, key, rule, bias):
    """Those of `blockwise`, of one head."""
    a = _dot("tk,sk->ts", q, k) / math.sqrt(q.shape[1])
    a = a if bias is None else a + bias(query, key).reshape(a.shape)
    return jnp.where(rule(query, key) & (key.position >= 0), a, -jnp.inf)


def _weights_and_gradient(q, k, v, query, key, rule, bias, lse, shift, d_o):
    """p_ts = exp(a_ts − lse_t), and d_a_ts = p_ts (d_o_t · v_s − shift_t), where the shift is d_o_t · o_t − d_lse_t."""
    p = jnp.exp(_scores(q, k, query, key, rule, bias) - lse)
    return p, p * (_dot("tv,sv->ts", d_o, v) - shift)


def _scaled(d_a, x):
    return (d_a / math.sqrt(x.shape[1])).astype(x.dtype)


def _own():
    """The number of the cell's own tile."""
    return pl.program_id(2)


def _loop(x, tile, start):
    return jax.lax.fori_loop(x.interval[_own(), 0], x.interval[_own(), 1], tile, start)


def _asked(x):
    return jax.tree.map(lambda ref: ref[0, 0], x.rule), _read(x.bias)


def _read(references):
    return jax.tree.map(lambda ref: ref[...], references)


def _tile(references, i, block):
    return jax.tree.map(lambda ref: ref[pl.ds(pl.multiple_of(i * block, block), block)], references)


def _row(tokens, i):
    return jax.tree.map(lambda ref: ref[i], tokens)


# ── around them ──────────────────────────────────────────────────────────────────────────────────────────────────────


@partial(jax.custom_vjp, nondiff_argnums=(0,))
def _attention(blocks, *arrays):
    """All lengths divide by their blocks. An array of the bias is `(g, r, ..., 1, 1)`, and lse is `(g, r, t, 1)`."""
    q, _, v, *_ = arrays
    wide = jnp.promote_types(q.dtype, jnp.float32)
    outputs = {"grtv": _array((*q.shape[:3], v.shape[2]), v.dtype), "grt1": _array((*q.shape[:3], 1), wide)}
    return _launch(_forward_kernel, "t", blocks, arrays, outputs)


def _attention_forward(blocks, *arrays):
    o, lse = _attention(blocks, *arrays)
    return (o, lse), (arrays, o, lse)


@_once_differentiable
def _attention_backward(blocks, saved, d_out):
    ((q, k, v, *_, bias), o, lse), (d_o, d_lse) = saved, d_out
    g, r, t, _ = q.shape
    shift = (d_o.astype(lse.dtype) * o).sum(-1, keepdims=True) - d_lse
    more = {"lse": jnp.where(jnp.isneginf(lse), 0, lse), "shift": shift, "d_o": d_o}
    of_tiles = jax.tree.map(lambda x: _array((g, r, t // blocks[0], *x.shape[2:]), x.dtype), bias)
    outputs = {"grtk": _array(q.shape, q.dtype), "gri": of_tiles}
    d_q, d_bias = _launch(_query_gradient_kernel, "t", blocks, saved[0], outputs, **more)
    outputs = {f"grs{a}": _array((g, r, *x.shape[1:]), lse.dtype) for a, x in (("k", k), ("v", v))}
    d_k, d_v = _launch(_key_gradient_kernel, "s", blocks, saved[0], outputs, **more)
    d_bias = jax.tree.map(lambda x: x.sum(2), d_bias)
    return d_q, d_k.sum(1).astype(k.dtype), d_v.sum(1).astype(v.dtype), None, None, None, d_bias


_attention.defvjp(_attention_forward, _attention_backward)


def _launch(kernel, tile, blocks, arrays, outputs, **more):
    """Run a kernel on the grid (g, r, i) of heads and of tiles of the axis `tile`, which is t or s.

    What a cell is given of an array its letters tell. So a head of keys, "gsk", goes to all of the heads of queries
    that share it without being copied.
    """
    (block, other), (q, k, v, query, key, rule, bias) = blocks if tile == "t" else blocks[::-1], arrays
    visited = _visited(blocks, query, key, rule)
    interval = jnp.stack(jax.vmap(_interval)(visited if tile == "t" else visited.T), 1).astype(jnp.int32)
    query, key = (jax.tree.map(lambda x, n=n: x.reshape(-1, n), x) for x, n in zip((query, key), blocks, strict=True))
    rule = jax.tree.map(lambda x: jnp.reshape(x, (1, 1)), rule)
    inputs = _Inputs(q, k, v, query, key, rule, bias, interval, **more)

    def specs(scalars, letters, tree):
        memory = {"memory_space": scalars} if letters == "." else {}
        return jax.tree.map(lambda x: pl.BlockSpec(*_part(letters, tile, block, x), **memory), tree)

    def run(inputs, scalars=None, **how):
        call = pl.pallas_call(
            partial(kernel, other),
            grid=(*q.shape[:2], len(interval)),
            in_specs=[_Inputs(*map(partial(specs, scalars), _LETTERS, inputs))],
            out_specs=tuple(specs(scalars, *output) for output in outputs.items()),
            out_shape=tuple(outputs.values()),
            **how,
        )
        return call(inputs)

    return jax.lax.platform_dependent(
        inputs,
        cpu=partial(run, interpret=True),
        tpu=partial(run, scalars=tpu.SMEM),
        default=partial(run, compiler_params=triton.CompilerParams(num_warps=4, num_stages=2)),
    )


def _part(letters, tile, block, x):
    """The shape of a cell's part of an array, and where among such parts it is."""
    axes, sizes = letters.ljust(x.ndim, "."), {"g": None, "r": None, "i": None, tile: block}
    shape = [sizes.get(axis, n) for axis, n in zip(axes, x.shape, strict=True)]
    return shape, lambda g, r, i: [{"g": g, "r": r, "i": i, tile: i}.get(axis, 0) for axis in axes]


def _array(shape, dtype):
    return jax.ShapeDtypeStruct(shape, dtype)
