"""Attention to the best few keys, row by row: sorted, cut off, and the rest forgotten."""

import math

import numpy as np

from minilm.reference.attention.core import _unbroadcast, mix, mix_backward, scores, scores_backward


def top_k_attention(q, k, v, mask=True, bias=0.0, *, n):
    """Of a row's allowed keys those count that fewer than n others exceed."""
    a, _ = scores(q, k)
    allowed = np.broadcast_to(mask, a.shape)
    a = a + bias
    weights = np.zeros(a.shape)
    for row in np.ndindex(a.shape[:3]):
        seen = [s for s in range(a.shape[3]) if allowed[row][s]]
        best = [s for s in seen if sum(a[row][u] > a[row][s] for u in seen) < n]
        largest = max((a[row][s] for s in best), default=0.0)
        total = sum(math.exp(a[row][s] - largest) for s in best)
        for s in best:
            weights[row][s] = math.exp(a[row][s] - largest) / total
    o, _ = mix(weights, v)
    return o, (q, k, v, weights, bias)


def top_k_attention_backward(saved, d_o):
    """Gradients with respect to (q, k, v, mask, bias); which keys are the best has none.

    o = w v                        gives  d_w and d_v as in `mix`
    w = softmax of the best a      gives  d_a[s] = w[s] (d_w[s] - sum_u w[u] d_w[u]), zero for all others since w is
    a = q k / sqrt + bias          gives  d_q and d_k as in `scores`, d_bias = d_a
    """
    q, k, v, weights, bias = saved
    d_weights, d_v = mix_backward((weights, v), d_o)
    d_a = np.zeros(weights.shape)
    for row in np.ndindex(weights.shape[:3]):
        d_a[row] = weights[row] * (d_weights[row] - np.dot(weights[row], d_weights[row]))
    d_q, d_k = scores_backward((q, k), d_a)
    return d_q, d_k, d_v, None, _unbroadcast(d_a, np.shape(bias))
