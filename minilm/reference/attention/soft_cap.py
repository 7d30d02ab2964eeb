"""Soft-capped attention, score by score; masked keys are skipped."""

import math

import numpy as np

from minilm.reference.attention.core import _unbroadcast, mix, mix_backward, scores, scores_backward


def soft_capped_attention(cap, q, k, v, mask=True, bias=0.0):
    """e[t, s] = c tanh(a[t, s] / c) + bias; the exponentials of a row's allowed e, over their sum, weigh the values."""
    a, _ = scores(q, k)
    allowed, added = np.broadcast_to(mask, a.shape), np.broadcast_to(bias, a.shape)
    u, weights = np.zeros(a.shape), np.zeros(a.shape)
    for row in np.ndindex(a.shape[:3]):
        capped = {}
        for s in range(a.shape[3]):
            u[row][s] = math.tanh(a[row][s] / cap)
            if allowed[row][s]:
                capped[s] = cap * u[row][s] + added[row][s]
        largest = max(capped.values(), default=0.0)
        total = sum(math.exp(e - largest) for e in capped.values())
        for s, e in capped.items():
            weights[row][s] = math.exp(e - largest) / total
    o, _ = mix(weights, v)
    return o, (cap, q, k, v, a, u, weights, bias)


def soft_capped_attention_backward(saved, d_o):
    """Gradients with respect to (cap, q, k, v, mask, bias).

    o = w v                      gives  d_w and d_v as in `mix`
    w = softmax(e + b)           gives  d_e[s] = w[s] (d_w[s] - sum_u w[u] d_w[u]),  d_b = d_e, zero where masked
    e = c u,  u = tanh(a / c)    gives  d_a = d_e (1 - u^2), for the two c cancel
                                 and    d_c = d_e (u - (a / c) (1 - u^2)), added over all pairs
    a = q k / sqrt               gives  d_q and d_k as in `scores`
    """
    cap, q, k, v, a, u, weights, bias = saved
    d_weights, d_v = mix_backward((weights, v), d_o)
    d_a, d_e, d_cap = np.zeros(a.shape), np.zeros(a.shape), 0.0
    for row in np.ndindex(a.shape[:3]):
        mean = np.dot(weights[row], d_weights[row])
        for s in range(a.shape[3]):
            d_e[row][s] = weights[row][s] * (d_weights[row][s] - mean)
            slope = 1 - u[row][s] ** 2
            d_a[row][s] = d_e[row][s] * slope
            d_cap += d_e[row][s] * (u[row][s] - a[row][s] / cap * slope)
    d_q, d_k = scores_backward((q, k), d_a)
    return d_cap, d_q, d_k, d_v, None, _unbroadcast(d_e, np.shape(bias))
