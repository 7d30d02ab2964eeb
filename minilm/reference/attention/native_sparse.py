"""Three branches of attention, one query and one block at a time."""

from collections import Counter
from typing import Any

import numpy as np

from minilm.reference.activation import gelu_tanh, gelu_tanh_backward
from minilm.reference.attention.core import dot_product_attention, dot_product_attention_backward


def compress(params, x, *, stride):
    """A block begins at every multiple of the stride; what it lacks at the end of x is zero."""
    (n_heads, s, k), length = x.shape, len(params.e)
    y, rows = np.zeros((n_heads, -(-s // stride), k)), {}
    for g, i in np.ndindex(y.shape[:2]):
        places = range(i * stride, i * stride + length)
        z = np.concatenate([(x[g, p] if p < s else np.zeros(k)) + e for p, e in zip(places, params.e, strict=True)])
        h, saved_h = gelu_tanh(z @ params.w_up + params.b_up)
        y[g, i] = h @ params.w_down + params.b_down
        rows[g, i] = places, z, h, saved_h
    return y, (params, x.shape, rows)


def compress_backward(saved, d_y):
    """Gradients with respect to (params, x).

    y = h w_down + b_down        gives  d_w_down = h (outer) d_y,  d_b_down = d_y,  d_h = w_down d_y
    h = gelu(a)                  gives  d_a = d_h gelu'(a)
    a = z w_up + b_up            gives  d_w_up = z (outer) d_a,  d_b_up = d_a,  d_z = w_up d_a
    z = [x[p] + e[0], ...]       gives  d_x[p] and d_e[0] the same part of d_z; blocks that overlap in p add up.
    """
    params, shape, rows = saved
    d, d_x = type(params)(*(np.zeros(leaf.shape) for leaf in params)), np.zeros(shape)
    for (g, i), (places, z, h, saved_h) in rows.items():
        d.w_down[:] += np.outer(h, d_y[g, i])
        d.b_down[:] += d_y[g, i]
        d_a = gelu_tanh_backward(saved_h, params.w_down @ d_y[g, i])
        d.w_up[:] += np.outer(z, d_a)
        d.b_up[:] += d_a
        for j, (p, part) in enumerate(zip(places, (params.w_up @ d_a).reshape(params.e.shape), strict=True)):
            d.e[j] += part
            if p < shape[1]:
                d_x[g, p] += part
    return d, d_x


def selected_blocks(weights, position, *, length, stride, size, n):
    """Walks along the strides that a compressed block covers, and credits each block that a stride begins in."""
    n_groups, n_queries, n_compressed = weights.shape
    chosen = np.zeros((n_groups, n_queries, -(-n_compressed * stride // size)), bool)
    for g, t in np.ndindex(n_groups, n_queries):
        own, credit = int(position[t]) // size, Counter()
        for i in range(n_compressed):
            for start in range(i * stride, i * stride + length, stride):
                credit[start // size] += weights[g, t, i]
        always = {j for j in (0, own - 1, own) if 0 <= j <= own}
        others = sorted(set(range(own)) - always, key=lambda j: (-credit[j], j))
        for j in (*always, *others[: n - len(always)]):
            chosen[g, t, j] = True
    return chosen, None


def native_sparse_attention(compress_k, compress_v, gates, q, k, v, position, *, stride, size, n, width):
    """Each branch is attention under a mask of its own; one weighted sum adds the three."""
    k_cmp, saved_k = compress(compress_k, k[0], stride=stride)
    v_cmp, saved_v = compress(compress_v, v[0], stride=stride)
    length, n_keys = len(compress_k.e), k.shape[2]
    complete: Any = np.array([[i * stride + length <= p + 1 for i in range(k_cmp.shape[1])] for p in position])
    o_cmp, saved_cmp = dot_product_attention(q, k_cmp, v_cmp, complete)
    spent = saved_cmp[3].sum(1)
    chosen, _ = selected_blocks(spent, position, length=length, stride=stride, size=size, n=n)
    selected: Any = np.zeros((len(chosen), len(position), n_keys), bool)
    for g, t, s in np.ndindex(selected.shape):
        selected[g, t, s] = s <= position[t] and chosen[g, t, s // size]
    window: Any = np.array([[s in range(p - width + 1, p + 1) for s in range(n_keys)] for p in position])
    branches = [
        (o_cmp, saved_cmp),
        dot_product_attention(q, k[1], v[1], selected[:, None]),
        dot_product_attention(q, k[2], v[2], window),
    ]
    out = np.zeros(o_cmp.shape)
    for c, g, r, t in np.ndindex(gates.shape):
        out[g, r, t] += gates[c, g, r, t] * branches[c][0][g, r, t]
    return out, (gates, branches, saved_k, saved_v)


def native_sparse_attention_backward(saved, d_out):
    """Gradients with respect to (compress_k, compress_v, gates, q, k, v, position).

    out = sum_c g_c o_c             gives  d_g_c = d_out . o_c for each query,  d_o_c = g_c d_out
    o_c = attention(q, k_c, v_c)    gives  the gradients of attention under the branch's mask; the three of q add up
    k_0 = compress(k), v likewise   gives  the gradients of `compress`; which blocks are selected moves with nothing.
    """
    gates, branches, saved_k, saved_v = saved
    d_gates, d_q, d_k, d_v = np.zeros(gates.shape), 0.0, [], []
    for c, (o, attended) in enumerate(branches):
        d_o = np.zeros(o.shape)
        for g, r, t in np.ndindex(o.shape[:3]):
            d_gates[c, g, r, t] = np.dot(d_out[g, r, t], o[g, r, t])
            d_o[g, r, t] = gates[c, g, r, t] * d_out[g, r, t]
        d_q_c, d_k_c, d_v_c, _, _ = dot_product_attention_backward(attended, d_o)
        d_q = d_q + d_q_c
        d_k.append(d_k_c)
        d_v.append(d_v_c)
    d_compress_k, d_k[0] = compress_backward(saved_k, d_k[0])
    d_compress_v, d_v[0] = compress_backward(saved_v, d_v[0])
    return d_compress_k, d_compress_v, d_gates, d_q, np.array(d_k), np.array(d_v), None
