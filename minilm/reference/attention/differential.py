"""Differential attention, query by query: of both softmaxes, only the keys that are seen."""

import math

import numpy as np

from minilm.reference.normalization import rms_norm, rms_norm_backward


def differential_lambda(params, lam0):
    """lam = exp(sum_i q_1[i] k_1[i]) - exp(sum_i q_2[i] k_2[i]) + lam0."""
    gained = math.exp(sum(a * b for a, b in zip(params.q_1, params.k_1, strict=True)))
    lost = math.exp(sum(a * b for a, b in zip(params.q_2, params.k_2, strict=True)))
    return gained - lost + lam0, (params, gained, lost)


def differential_lambda_backward(saved, d_lam):
    """Gradients with respect to (params, lam0).

    lam = e^a - e^b + lam0,  a = q_1 . k_1   gives  d_q_1 = d_lam e^a k_1,  d_k_1 = d_lam e^a q_1
                             b = q_2 . k_2   gives  d_q_2 = -d_lam e^b k_2,  d_k_2 = -d_lam e^b q_2;  d_lam0 = d_lam.
    """
    params, gained, lost = saved
    d_params = type(params)(
        q_1=d_lam * gained * params.k_1,
        k_1=d_lam * gained * params.q_1,
        q_2=-d_lam * lost * params.k_2,
        k_2=-d_lam * lost * params.q_2,
        scale=np.zeros(params.scale.shape),
    )
    return d_params, d_lam


def differential_attention(lam, q, k, v, mask=True, bias=0.0):
    """o[t] = sum over the seen s of (p_1[s] - lam p_2[s]) v[s], where p_1 and p_2 are softmaxes of the two halves."""
    shape = (*q.shape[:3], k.shape[1])
    seen, bias_of = np.broadcast_to(mask, shape), np.broadcast_to(bias, shape)
    half = q.shape[3] // 2
    o, weights = np.zeros((*q.shape[:3], v.shape[2])), [np.zeros(shape), np.zeros(shape)]
    for g, r, t in np.ndindex(q.shape[:3]):
        for which, start in enumerate((0, half)):
            a = {}
            for s in np.flatnonzero(seen[g, r, t]):
                product = sum(q[g, r, t, start + i] * k[g, s, start + i] for i in range(half))
                a[s] = product / math.sqrt(half) + bias_of[g, r, t, s]
            for s in a:
                weights[which][g, r, t, s] = 1 / sum(_exp(other - a[s]) for other in a.values())
        for s in range(k.shape[1]):
            o[g, r, t] += (weights[0][g, r, t, s] - lam * weights[1][g, r, t, s]) * v[g, s]
    return o, (lam, q, k, v, weights, np.shape(bias))


def differential_attention_backward(saved, d_o):
    """Gradients with respect to (lam, q, k, v, mask, bias).

    o = sum_s w[s] v[s]         gives  d_v[s] = sum_t w[t, s] d_o[t],  d_w[s] = d_o . v[s]
    w = p_1 - lam p_2           gives  d_lam = -sum d_w p_2,  and for the sign c of each half, 1 and -lam: d_p = c d_w
    p = softmax(a)              gives  d_a[s] = p[s] (d_p[s] - sum_u p[u] d_p[u]), zero where p is
    a = q . k / sqrt(half) + b  gives  d_q[t] = sum_s d_a[t, s] k[s] / sqrt(half),  d_k likewise, each in its half,
                                       and d_b the sum of both d_a, over the axes that b was broadcast along.
    """
    lam, q, k, v, weights, bias_shape = saved
    half = q.shape[3] // 2
    d_lam, d_q, d_k, d_v = 0.0, np.zeros(q.shape), np.zeros(k.shape), np.zeros(v.shape)
    d_b = np.zeros(weights[0].shape)
    for g, r, t in np.ndindex(q.shape[:3]):
        p_1, p_2 = (p[g, r, t] for p in weights)
        d_w = np.array([np.dot(d_o[g, r, t], v[g, s]) for s in range(len(p_1))])
        d_v[g] += np.outer(p_1 - lam * p_2, d_o[g, r, t])
        d_lam -= np.dot(d_w, p_2)
        for p, c, part in ((p_1, 1.0, slice(half)), (p_2, -lam, slice(half, None))):
            d_a = c * p * (d_w - np.dot(p, d_w))
            d_q[g, r, t, part] = d_a @ k[g, :, part] / math.sqrt(half)
            d_k[g, :, part] += np.outer(d_a, q[g, r, t, part]) / math.sqrt(half)
            d_b[g, r, t] += d_a
    return d_lam, d_q, d_k, d_v, None, _summed_to(bias_shape, d_b)


def differential_heads(params, lam0, q, k, v, mask=True, bias=0.0):
    """(1 - lam0) times the normalised difference, head by head."""
    lam, saved_lambda = differential_lambda(params, lam0)
    o, saved_attention = differential_attention(lam, q, k, v, mask, bias)
    normal, saved_norm = rms_norm(_Scale(params.scale), o, eps=1e-5)
    return (1 - lam0) * normal, (lam0, normal, saved_lambda, saved_attention, saved_norm)


def differential_heads_backward(saved, d_y):
    """Gradients with respect to (params, lam0, q, k, v, mask, bias).

    y = (1 - lam0) n   gives  d_n = (1 - lam0) d_y,  d_lam0 = -sum d_y n, to which that through lam is added
    n = norm(o)        gives  d_scale and d_o as in `rms_norm`, the rest as in the two functions above.
    """
    lam0, normal, saved_lambda, saved_attention, saved_norm = saved
    d_scale, d_o = rms_norm_backward(saved_norm, (1 - lam0) * d_y)
    d_lam, *d_others = differential_attention_backward(saved_attention, d_o)
    d_params, d_lam0 = differential_lambda_backward(saved_lambda, d_lam)
    return d_params._replace(scale=d_scale.scale), d_lam0 - np.sum(d_y * normal), *d_others


class _Scale:
    """The parameters of a norm, by name."""

    def __init__(self, scale):
        self.scale = scale


def _exp(x):
    return math.exp(x) if x < 700 else math.inf


def _summed_to(shape, d):
    d = d.sum(tuple(range(d.ndim - len(shape))))
    return d.sum(tuple(axis for axis, size in enumerate(shape) if size != d.shape[axis]), keepdims=True)
