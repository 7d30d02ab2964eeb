"""Latent attention, token by token and head by head; both forms are computed as they are written."""

import math

import numpy as np

from minilm.reference.normalization import rms_norm, rms_norm_backward
from minilm.reference.position import rotary, rotary_backward


def project_latent(params, x, position):
    """q[g, r, t] = [x[t] w_q[:, g, r], rope(x[t] w_q_r[:, g, r])];  c = norm(x w_down);  k_r = rope(x w_k_r)."""
    *leading, n_tokens, _ = x.shape
    _, n_groups, n_queries, k = params.w_q.shape
    q = np.zeros((*leading, n_groups, n_queries, n_tokens, k))
    before = np.zeros((*leading, n_groups, n_queries, n_tokens, params.w_k_r.shape[1]))
    down, k_r = np.zeros((*leading, n_tokens, len(params.scale))), np.zeros((*leading, n_tokens, before.shape[-1]))
    for row in np.ndindex(*leading, n_tokens):
        *batch, t = row
        down[row], k_r[row] = x[row] @ params.w_down, x[row] @ params.w_k_r
        for g, r in np.ndindex(n_groups, n_queries):
            q[(*batch, g, r, t)] = x[row] @ params.w_q[:, g, r]
            before[(*batch, g, r, t)] = x[row] @ params.w_q_r[:, g, r]
    turned, saved_q = rotary(before, position[..., None, None, :])
    k_r, saved_k = rotary(k_r, position)
    c, saved_norm = rms_norm(params, down)
    return (np.concatenate([q, turned], -1), c, k_r), (params, x, saved_q, saved_k, saved_norm)


def project_latent_backward(saved, d_out):
    """Gradients with respect to (params, x, position); places are integers.

    q = [a, rope(b)],  a = x w_q,  b = x w_q_r   gives  d_b by turning back (`rotary`),  d_w_q = x d_a, d_w_q_r = x d_b,
                                                        d_x = w_q d_a + w_q_r d_b, all added over their heads and tokens
    c = norm(x w_down),  k_r = rope(x w_k_r)     likewise, d_scale and the gradient before the norm as in `rms_norm`.
    """
    params, x, saved_q, saved_k, saved_norm = saved
    d_q, d_c, d_k_r = d_out
    k = params.w_q.shape[-1]
    d_b, _ = rotary_backward(saved_q, d_q[..., k:])
    d_key, _ = rotary_backward(saved_k, d_k_r)
    d_norm, d_down = rms_norm_backward(_only_scale(saved_norm), d_c)
    d_params, d_x = _zeros(params)._replace(scale=d_norm.scale), np.zeros(x.shape)
    for row in np.ndindex(x.shape[:-1]):
        *batch, t = row
        parts = [(params.w_down, d_params.w_down, d_down[row]), (params.w_k_r, d_params.w_k_r, d_key[row])]
        for g, r in np.ndindex(params.w_q.shape[1:3]):
            head = (*batch, g, r, t)
            parts.append((params.w_q[:, g, r], d_params.w_q[:, g, r], d_q[head][:k]))
            parts.append((params.w_q_r[:, g, r], d_params.w_q_r[:, g, r], d_b[head]))
        for w, d_w, d in parts:
            d_w += np.outer(x[row], d)
            d_x[row] += w @ d
    return d_params, d_x, None


def expand_latent(params, c, k_r):
    """k[g, s] = [c[s] w_k[:, g], k_r[s]];  v[g, s] = c[s] w_v[:, g]."""
    *leading, n_tokens, _ = c.shape
    _, n_groups, width = params.w_k.shape
    k = np.zeros((*leading, n_groups, n_tokens, width + k_r.shape[-1]))
    v = np.zeros((*leading, n_groups, n_tokens, params.w_v.shape[2]))
    for index in np.ndindex(k.shape[:-1]):
        *batch, g, s = index
        k[index] = [*(c[(*batch, s)] @ params.w_k[:, g]), *k_r[(*batch, s)]]
        v[index] = c[(*batch, s)] @ params.w_v[:, g]
    return (k, v), (params, c, k_r.shape)


def expand_latent_backward(saved, d_out):
    """Gradients with respect to (params, c, k_r).

    k[g, s] = [c[s] w_k[g], k_r[s]]   gives  d_w_k[g] = sum_s c[s] d_k[g, s] of the first entries, d_c[s] = w_k[g] d_k,
                                             d_k_r[s] = the last entries, added over the heads, which share it
    v[g, s] = c[s] w_v[g]             gives  d_w_v and more of d_c likewise.
    """
    params, c, k_r_shape = saved
    d_k, d_v = d_out
    d_params, d_c, d_k_r = _zeros(params), np.zeros(c.shape), np.zeros(k_r_shape)
    width = params.w_k.shape[2]
    for index in np.ndindex(d_k.shape[:-1]):
        *batch, g, s = index
        row = (*batch, s)
        d_params.w_k[:, g] += np.outer(c[row], d_k[index][:width])
        d_params.w_v[:, g] += np.outer(c[row], d_v[index])
        d_c[row] += params.w_k[:, g] @ d_k[index][:width] + params.w_v[:, g] @ d_v[index]
        d_k_r[row] += d_k[index][width:]
    return d_params, d_c, d_k_r


def absorbed_attention(params, q, c, k_r, mask=True, bias=0.0):
    """u = w_k q_n;  a[s] = (u . c[s] + q_r . k_r[s]) / sqrt(width) + b;  m = sum_s softmax(a)[s] c[s];  o = m w_v."""
    shape, k = (*q.shape[:3], len(c)), params.w_k.shape[2]
    seen, bias_of = np.broadcast_to(mask, shape), np.broadcast_to(bias, shape)
    weights, taken = np.zeros(shape), np.zeros((*q.shape[:3], c.shape[1]))
    mean, o = np.zeros(taken.shape), np.zeros((*q.shape[:3], params.w_v.shape[2]))
    for row in np.ndindex(q.shape[:3]):
        taken[row] = params.w_k[:, row[0]] @ q[row][:k]
        places = np.flatnonzero(seen[row])
        products = {s: np.dot(taken[row], c[s]) + np.dot(q[row][k:], k_r[s]) for s in places}
        a = {s: products[s] / math.sqrt(q.shape[3]) + bias_of[row][s] for s in places}
        exponentials = {s: math.exp(a[s] - max(a.values())) for s in places}
        for s in places:
            weights[row][s] = exponentials[s] / sum(exponentials.values())
            mean[row] += weights[row][s] * c[s]
        o[row] = mean[row] @ params.w_v[:, row[0]]
    return o, (params, q, c, k_r, weights, taken, mean, np.shape(bias))


def absorbed_attention_backward(saved, d_o):
    """Gradients with respect to (params, q, c, k_r, mask, bias).

    o = m w_v                    gives  d_w_v = m d_o,  d_m = w_v d_o
    m = sum_s w[s] c[s]          gives  d_w[s] = d_m . c[s],  d_c[s] = w[s] d_m
    w = softmax(a)               gives  d_a[s] = w[s] (d_w[s] - sum_u w[u] d_w[u]);  d_b = d_a
    a = (u . c + q_r . k_r) / n  gives  d_u = sum_s d_a[s] c[s] / n,  d_c[s] += d_a[s] u / n, and so for q_r and k_r
    u = w_k q_n                  gives  d_w_k = d_u q_n,  d_q_n = d_u w_k.
    """
    params, q, c, k_r, weights, taken, mean, bias_shape = saved
    d_params, d_q, d_c, d_k_r = _zeros(params), np.zeros(q.shape), np.zeros(c.shape), np.zeros(k_r.shape)
    d_b, k, n = np.zeros(weights.shape), params.w_k.shape[2], math.sqrt(q.shape[3])
    for row in np.ndindex(q.shape[:3]):
        g = row[0]
        d_params.w_v[:, g] += np.outer(mean[row], d_o[row])
        d_mean = params.w_v[:, g] @ d_o[row]
        d_w = c @ d_mean
        d_a = weights[row] * (d_w - np.dot(weights[row], d_w))
        d_taken = d_a @ c / n
        d_params.w_k[:, g] += np.outer(d_taken, q[row][:k])
        d_q[row] = [*(d_taken @ params.w_k[:, g]), *(d_a @ k_r / n)]
        d_c += np.outer(weights[row], d_mean) + np.outer(d_a, taken[row]) / n
        d_k_r += np.outer(d_a, q[row][k:]) / n
        d_b[row] = d_a
    return d_params, d_q, d_c, d_k_r, None, _summed_to(bias_shape, d_b)


def append_latent(cache, c, k_r, tokens):
    """Each token that is no padding replaces what stood in slot position mod size."""
    new_c, new_k_r = np.array(cache.c, float), np.array(cache.k_r, float)
    position, document = np.array(cache.tokens.position), np.array(cache.tokens.document)
    written = {t: int(p) % len(position) for t, p in enumerate(tokens.position) if p >= 0}
    for t, slot in written.items():
        new_c[slot], new_k_r[slot] = c[t], k_r[t]
        position[slot], document[slot] = tokens.position[t], tokens.document[t]
    return type(cache)(c=new_c, k_r=new_k_r, tokens=type(tokens)(position, document)), (c.shape, k_r.shape, written)


def append_latent_backward(saved, d_cache):
    """Gradients with respect to (cache, c, k_r, tokens).

    A slot holds the new token, or else the old one: its gradient goes to whichever it holds.
    """
    c_shape, k_r_shape, written = saved
    d_old_c, d_old_k_r = np.array(d_cache.c), np.array(d_cache.k_r)
    d_c, d_k_r = np.zeros(c_shape), np.zeros(k_r_shape)
    for t, slot in written.items():
        d_c[t], d_k_r[t] = d_cache.c[slot], d_cache.k_r[slot]
        d_old_c[slot] = d_old_k_r[slot] = 0
    return type(d_cache)(c=d_old_c, k_r=d_old_k_r, tokens=d_cache.tokens), d_c, d_k_r, None


class _Scale:
    """The one parameter of a norm, and of its gradient."""

    def __init__(self, scale):
        self.scale = scale


def _only_scale(saved_norm):
    params, *others = saved_norm
    return _Scale(params.scale), *others


def _zeros(params):
    return type(params)(*(np.zeros(p.shape) for p in params))


def _summed_to(shape, d):
    d = d.sum(tuple(range(d.ndim - len(shape))))
    return d.sum(tuple(axis for axis, size in enumerate(shape) if size != d.shape[axis]), keepdims=True)
