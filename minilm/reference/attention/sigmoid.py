"""Sigmoid attention, pair by pair; masked pairs are skipped."""

import numpy as np

from minilm.reference.activation import _logistic
from minilm.reference.attention.core import _unbroadcast, mix, mix_backward, scores, scores_backward


def sigmoid_attention(shift, q, k, v, mask=True, bias=0.0):
    """w[t, s] = sigma(a[t, s] + bias + shift) where allowed, each pair by itself."""
    a, _ = scores(q, k)
    allowed, added = np.broadcast_to(mask, a.shape), np.broadcast_to(bias, a.shape)
    shifts, weights = np.broadcast_to(shift, a.shape[:2]), np.zeros(a.shape)
    for g, r, t, s in np.ndindex(a.shape):
        if allowed[g, r, t, s]:
            weights[g, r, t, s] = _logistic(a[g, r, t, s] + added[g, r, t, s] + shifts[g, r])
    o, _ = mix(weights, v)
    return o, (shift, q, k, v, weights, bias)


def sigmoid_attention_backward(saved, d_o):
    """Gradients with respect to (shift, q, k, v, mask, bias).

    o = w v                              gives  d_w and d_v as in `mix`
    w = sigma(a)                         gives  d_a = d_w w (1 - w), zero where masked since w is
    a = q k / sqrt + bias + shift[g, r]  gives  d_q and d_k as in `scores`, d_bias = d_a, and d_shift the sum of d_a
                                         over the pairs of a head (over all heads where they share one)
    """
    shift, q, k, v, weights, bias = saved
    d_weights, d_v = mix_backward((weights, v), d_o)
    d_a, d_shift = np.zeros(weights.shape), np.zeros(weights.shape[:2])
    for g, r, t, s in np.ndindex(weights.shape):
        w = weights[g, r, t, s]
        d_a[g, r, t, s] = d_weights[g, r, t, s] * w * (1 - w)
        d_shift[g, r] += d_a[g, r, t, s]
    d_q, d_k = scores_backward((q, k), d_a)
    return _unbroadcast(d_shift, np.shape(shift)), d_q, d_k, d_v, None, _unbroadcast(d_a, np.shape(bias))
